"""Shards -> batches of patches, as a pure function of the seed and the sample's number.

Sample s of a run is the same whenever, wherever and after whatever restart it is drawn: cases are
visited in a permutation drawn anew for every pass, each visit gives `patches_per_visit` patches,
and the patches of `open_cases` visits alternate. Whether the cases are held in memory or read for
every visit makes no difference to what is drawn.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tl3d_keras import augmentation, case_source, mirrors, patches, spatial
from tl3d_keras.augment import augment
from tl3d_keras.augmentation import Augmentation
from tl3d_keras.case_source import CaseFiles
from tl3d_keras.errors import InputError
from tl3d_keras.intensity import Intensity
from tl3d_keras.manifest import CaseEntry, Manifest
from tl3d_keras.patches import OpenCase

# Bounds what is open at once, whatever the size and number of the cases: all of them if they fit.
OPEN_BYTES = 1 << 30
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
    plan = _plan_visits(cases, settings)
    block, skipped = divmod(first_batch * settings.batch_size, plan.patches * plan.open_cases)
    visits = _visits(settings.seed, len(cases), block * plan.open_cases)
    files = CaseFiles(Path(records_dir), manifest, cases)
    if plan.hold:
        samples = _samples_of_held(visits, files, plan, skipped)
    else:
        samples = _samples_as_read(visits, files, plan, skipped)
    # Patches are made out here, for a function inside a visit is set up anew for each visit.
    made = samples.map(make, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    batches = made.batch(settings.batch_size, drop_remainder=True)
    options = tf.data.Options()
    # Each worker of a cluster takes its part of every batch.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    # Patches are made in parallel; to share the work on one costs more than it gains.
    options.threading.max_intra_op_parallelism = 1
    return batches.prefetch(2).with_options(options)


def annotated_cases(cases: Sequence[CaseEntry]) -> list[CaseEntry]:
    """Those of the cases that hold any annotation."""
    return [case for case in cases if case.coverage["annotated"]["voxels"]]


class _VisitPlan(NamedTuple):
    """How cases are visited.

    Attributes:
        patches: of a visit.
        open_cases: how many visits alternate.
        hold: whether all cases are held in memory.
    """

    patches: int
    open_cases: int
    hold: bool


def _plan_visits(cases: Sequence[CaseEntry], settings: PatchSettings) -> _VisitPlan:
    voxels = np.mean([np.prod(case.shape[:3]) for case in cases])
    sizes = [case_source.most_bytes(case) for case in cases]
    return _VisitPlan(
        int(np.clip(voxels / np.prod(settings.image_size), 1, _MAX_PATCHES_PER_VISIT)),
        int(np.clip(OPEN_BYTES // max(sizes), 1, min(len(cases), _MAX_OPEN_CASES))),
        sum(sizes) <= OPEN_BYTES,
    )


def _visits(seed: int, cases: int, first: int) -> tf.data.Dataset:
    """The visits from number `first` on: their numbers and the indices of their cases."""

    def order(number: tf.Tensor) -> tf.Tensor:
        seeds = tf.stack([tf.constant(seed, tf.int64), number])
        return tf.argsort(tf.random.stateless_uniform([cases], seeds))

    passed, skipped = divmod(first, cases)
    chosen = _count_from(passed).map(order).unbatch().skip(skipped)
    return tf.data.Dataset.zip((_count_from(first), chosen))


def _count_from(first: int | tf.Tensor) -> tf.data.Dataset:
    return tf.data.Dataset.range(first, np.iinfo(np.int64).max)


def _samples_of_held(
    visits: tf.data.Dataset, files: CaseFiles, plan: _VisitPlan, skipped: int
) -> tf.data.Dataset:
    """The number of each sample, its case and that one's index, out of memory."""

    def alternate(numbers: tf.Tensor, chosen: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        samples = numbers * plan.patches + tf.range(plan.patches, dtype=tf.int64)[:, tf.newaxis]
        return tf.reshape(samples, [-1]), tf.tile(chosen, [plan.patches])

    samples = visits.batch(plan.open_cases).map(alternate).unbatch().skip(skipped)
    held = tf.data.Dataset.from_tensors(files.hold()).repeat()
    return tf.data.Dataset.zip((samples, held)).map(
        lambda sample, held: (sample[0], (case_source.take(held, sample[1]), sample[1]))
    )


def _samples_as_read(
    visits: tf.data.Dataset, files: CaseFiles, plan: _VisitPlan, skipped: int
) -> tf.data.Dataset:
    """The same, from cases that are read for every visit."""

    def visit(number: tf.Tensor, chosen: tf.Tensor) -> tf.data.Dataset:
        def samples_of(record: tf.Tensor) -> tf.data.Dataset:
            first = number * plan.patches
            samples = tf.data.Dataset.range(first, first + plan.patches)
            case = tf.data.Dataset.from_tensors((case_source.opened(record), chosen)).repeat()
            return tf.data.Dataset.zip((samples, case))

        return files.read(chosen).flat_map(samples_of)

    return visits.interleave(
        visit,
        cycle_length=plan.open_cases,
        block_length=1,
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    ).skip(skipped)


class _PatchMaker:
    """Makes the patch of a sample from its case."""

    def __init__(
        self, manifest: Manifest, cases: Sequence[CaseEntry], settings: PatchSettings
    ) -> None:
        self._settings, self._spacing = settings, manifest.spacing
        self._mirrored = list(range(len(manifest.structures) + 1))
        if 2 in settings.augmentation.flip_axes:
            self._mirrored = mirrors.mirrored_labels(manifest.structures)
        # Beyond the volume lies its lowest value, as `inference` pads.
        floors = [[channel["minimum"] for channel in case.intensity] for case in cases]
        scales, shifts = zip(
            *(settings.intensity.coefficients_of(case.intensity) for case in cases), strict=True
        )
        self._annotated = tf.constant(
            [
                [1, *(name in case.annotated_structures for name in manifest.structures)]
                for case in cases
            ],
            tf.uint8,
        )
        self._floors, self._scales, self._shifts = (
            tf.constant(np.array(values), tf.float32) for values in (floors, scales, shifts)
        )

    def __call__(
        self, sample: tf.Tensor, opened: tuple[OpenCase, tf.Tensor]
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
        image = settings.intensity.apply(image, self._scales[index], self._shifts[index])
        patch = {
            # With a static shape, the channels included, a training step takes half the time.
            "image": tf.ensure_shape(image, [*settings.image_size, self._floors.shape[1]]),
            "labels": tf.ensure_shape(labels, settings.label_size),
            # Keras 3 averages its first batch over replicas, which booleans do not bear.
            "annotated": self._annotated[index],
        }
        patch = augment(patch, augment_seed, settings.augmentation, self._spacing, self._mirrored)
        return {**patch, "case": tf.cast(index, tf.int32)}
