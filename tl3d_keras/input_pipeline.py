"""Shards -> batches of patches, as a pure function of the seed and the sample's number.

Sample s of a run is the same whenever, wherever and after whatever restart it is drawn: cases are
visited in a permutation drawn anew for every pass, each visit gives `patches_per_visit` patches,
and the patches of `open_cases` visits alternate.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

from tl3d_keras import augmentation, mirrors, patches, records, spatial
from tl3d_keras.augment import augment
from tl3d_keras.augmentation import Augmentation
from tl3d_keras.errors import InputError
from tl3d_keras.intensity import Intensity
from tl3d_keras.manifest import CaseEntry, Manifest

# Bounds what is held decoded, whatever the size and number of the cases.
_OPEN_BYTES = 1 << 30
_MAX_OPEN_CASES = 8
_MAX_PATCHES_PER_VISIT = 8


@dataclass(frozen=True)
class PatchSettings:
    """What a training batch looks like.

    Attributes:
        image_size: (Z, Y, X) of the image patches.
        label_size: (Z, Y, X) of the label patches, concentric with the image's.
        batch_size: patches in a global batch.
        intensity: the normalisation.
        augmentation: what is drawn for every patch.
        seed: of all draws.
    """

    image_size: tuple[int, int, int]
    label_size: tuple[int, int, int]
    batch_size: int
    intensity: Intensity
    augmentation: Augmentation = augmentation.NONE
    seed: int = 0


def training_batches(
    records_dir: str | Path,
    manifest: Manifest,
    cases: Sequence[CaseEntry],
    settings: PatchSettings,
    first_batch: int = 0,
) -> tf.data.Dataset:
    """An endless data set of training batches, from batch number `first_batch` on.

    Args:
        records_dir: folder of the shards.
        manifest: of that folder.
        cases: those to draw from; cases without annotation are left out.
        settings: of the patches.
        first_batch: number of the first batch, for a resumed run.

    Returns:
        Batches `{"image": float32 [B, Z, Y, X, C], "labels": uint8 [B, z, y, x],
        "annotated": uint8 [B, K + 1], "case": int32 [B]}`, where `annotated` is 1 for background
        and the structures that were annotated in the patch's case, and `case` is its index in
        `annotated_cases(cases)`.

    Raises:
        InputError: none of the cases is annotated, or structures of one side have no partner to
            change places with in a flip along x.
    """
    cases = annotated_cases(cases)
    if not cases:
        raise InputError(f"{records_dir}: expected annotated cases to train on, found none")
    make = _PatchMaker(manifest, cases, settings)
    patches_per_visit, open_cases = _visit_plan(cases, settings)
    per_block = patches_per_visit * open_cases
    block, skipped = divmod(first_batch * settings.batch_size, per_block)
    source = _CaseSource(Path(records_dir), manifest, cases)

    def visit(number: tf.Tensor) -> tf.data.Dataset:
        order_seed = tf.stack([tf.cast(settings.seed, tf.int64), number // len(cases)])
        order = tf.argsort(tf.random.stateless_uniform([len(cases)], order_seed))
        chosen = order[number % len(cases)]

        def samples_of(case: records.Case) -> tf.data.Dataset:
            first = number * patches_per_visit
            samples = tf.data.Dataset.range(first, first + patches_per_visit)
            opened = tf.data.Dataset.from_tensors((case, chosen)).repeat()
            return tf.data.Dataset.zip((samples, opened))

        return source.open(chosen).map(records.parse_words).flat_map(samples_of)

    visits = tf.data.Dataset.range(block * open_cases, np.iinfo(np.int64).max)
    samples = visits.interleave(
        visit,
        cycle_length=open_cases,
        block_length=1,
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    )
    # Patches are made out here, for a function inside a visit is set up anew for each visit.
    made = samples.skip(skipped).map(make, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    batches = made.batch(settings.batch_size, drop_remainder=True)
    options = tf.data.Options()
    # Each worker of a cluster takes its part of every batch.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return batches.prefetch(2).with_options(options)


def annotated_cases(cases: Sequence[CaseEntry]) -> list[CaseEntry]:
    """Those of the cases that hold any annotation."""
    return [case for case in cases if case.coverage["annotated"]["voxels"]]


class _CaseSource:
    """Opens the record of a case by its index, in a graph, without reading the rest of a shard."""

    def __init__(self, folder: Path, manifest: Manifest, cases: Sequence[CaseEntry]) -> None:
        shards = [manifest.shards[case.shard] for case in cases]
        self._files = tf.constant([str(folder / shard.file) for shard in shards])
        self._offsets = tf.constant([case.offset for case in cases], tf.int64)
        self._bytes = tf.constant([case.bytes for case in cases], tf.int64)
        self._after = tf.constant(
            [s.bytes - c.offset - c.bytes for s, c in zip(shards, cases, strict=True)], tf.int64
        )

    def open(self, index: tf.Tensor) -> tf.data.Dataset:
        """A data set of the one serialised case."""
        return tf.data.FixedLengthRecordDataset(
            self._files[index],
            record_bytes=self._bytes[index],
            header_bytes=self._offsets[index],
            footer_bytes=self._after[index],
        )


def _visit_plan(cases: Sequence[CaseEntry], settings: PatchSettings) -> tuple[int, int]:
    """How many patches a visit of a case gives, and how many cases are open at once."""
    voxels = np.mean([np.prod(case.shape[:3]) for case in cases])
    largest = max(int(np.prod(case.shape)) for case in cases) * 4
    per_visit = int(np.clip(voxels / np.prod(settings.image_size), 1, _MAX_PATCHES_PER_VISIT))
    return per_visit, int(np.clip(_OPEN_BYTES // largest, 1, min(len(cases), _MAX_OPEN_CASES)))


class _PatchMaker:
    """Makes the patch of a sample from its case."""

    def __init__(
        self, manifest: Manifest, cases: Sequence[CaseEntry], settings: PatchSettings
    ) -> None:
        self._settings, self._spacing = settings, manifest.spacing
        self._structures = len(manifest.structures)
        self._mirrored = list(range(self._structures + 1))
        if 2 in settings.augmentation.flip_axes:
            self._mirrored = mirrors.mirrored_labels(manifest.structures)
        # Beyond the volume lies its lowest value, as `inference` pads.
        floors = [[channel["minimum"] for channel in case.intensity] for case in cases]
        scales, shifts = zip(
            *(settings.intensity.coefficients_of(case.intensity) for case in cases), strict=True
        )
        self._floors, self._scales, self._shifts = (
            tf.constant(np.array(values), tf.float32) for values in (floors, scales, shifts)
        )

    def __call__(
        self, sample: tf.Tensor, opened: tuple[records.Case, tf.Tensor]
    ) -> dict[str, tf.Tensor]:
        """The patch of a sample, of a case and its index."""
        (case, index), settings = opened, self._settings
        centre_seed, cut_seed, augment_seed = tf.unstack(
            tf.random.experimental.stateless_split(
                tf.stack([tf.cast(settings.seed, tf.int64) + 1, sample]), 3
            )
        )
        start = patches.draw_centre(case, centre_seed) - tf.constant(
            [n // 2 for n in settings.image_size], tf.int64
        )
        image, labels = spatial.cut(
            case,
            start,
            settings.image_size,
            settings.label_size,
            self._floors[index],
            cut_seed,
            settings.augmentation,
            self._spacing,
        )
        structures = tf.range(1, self._structures + 1, dtype=tf.int64)
        annotated = tf.reduce_any(structures[:, tf.newaxis] == case.annotated[tf.newaxis], axis=1)
        image = settings.intensity.apply(image, self._scales[index], self._shifts[index])
        patch = {
            # With a static shape, the channels included, a training step takes half the time.
            "image": tf.ensure_shape(image, [*settings.image_size, self._floors.shape[1]]),
            "labels": tf.ensure_shape(labels, settings.label_size),
            # Keras 3 averages its first batch over replicas, which booleans do not bear.
            "annotated": tf.cast(tf.concat([[True], annotated], 0), tf.uint8),
        }
        patch = augment(patch, augment_seed, settings.augmentation, self._spacing, self._mirrored)
        return {**patch, "case": tf.cast(index, tf.int32)}
