"""Batches as a function of the seed and the number of the sample, cut where they say they are."""

import functools
import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import make_shards

from tl3d_keras import augmentation, input_pipeline, manifest, volume_io
from tl3d_keras.annotation import IGNORE
from tl3d_keras.augmentation import Augmentation, Draw
from tl3d_keras.errors import InputError
from tl3d_keras.input_pipeline import PatchSettings, training_batches
from tl3d_keras.intensity import Intensity
from tl3d_keras.volumes import Volume

SHAPES = {"a": (12, 14, 10), "b": (9, 20, 16), "c": (24, 8, 11), "d": (12, 12, 12)}
# Channels z, y, x hold 10 at the first voxel of their axis, 11 at the next; channel 3 the case.
WINDOW = Intensity("window", (0.0,) * 4, (40.0,) * 4)
FIRST = 10
CHANGES = Augmentation(
    (0, 1, 2), rotation=Draw(-30, 30, 0.5), gamma=Draw(0.5, 2, 0.5), noise=Draw(0, 0.1, 0.5)
)
SETTINGS = PatchSettings((8, 8, 8), (4, 4, 4), 2, WINDOW, seed=3)


def labels_of(name: str) -> np.ndarray:
    """Unannotated, but for two slices in which the label follows from the position."""
    z, y, x = np.indices(SHAPES[name])
    labels = (z + 2 * y + 3 * x) % 3
    if name == "c":
        labels[labels == 1] = 0
    labels[np.isin(z, [2, 5], invert=True)] = IGNORE
    return labels.astype(np.uint8)


@pytest.fixture(scope="module")
def records_dir(tmp_path_factory) -> Path:
    """Sparsely annotated a and b, c with structure two alone, and d without a label."""
    folder = tmp_path_factory.mktemp("pipeline")
    training: list = []
    for number, (name, shape) in enumerate(SHAPES.items()):
        array = np.stack([*np.indices(shape), np.full(shape, number)], -1) + FIRST
        volume_io.write(folder / f"{name}.nrrd", Volume(array.astype(np.int16), (1.0, 1.0, 1.0)))
        entry = {"image": f"{name}.nrrd"}
        if name != "d":
            label = Volume(labels_of(name)[..., np.newaxis], (1.0, 1.0, 1.0))
            volume_io.write(folder / f"{name}-label.nrrd", label)
            entry["label"] = f"{name}-label.nrrd"
        training.append(entry)
    content = {
        "labels": {"one": 1, "two": 2},
        "modality": dict(enumerate(["CT"] * 4)),
        "training": training,
        "annotated_labels": {"c": ["two"]},
    }
    (folder / "dataset.json").write_text(json.dumps(content))
    make_shards(folder, folder / "records", shard_bytes=20_000)
    return folder / "records"


@functools.cache
def batches(
    records_dir: Path, settings: PatchSettings, count: int, first: int = 0, only: str = "abcd"
) -> list[dict[str, np.ndarray]]:
    loaded = manifest.load(records_dir)
    stream = training_batches(records_dir, loaded, loaded.select(only), settings, first)
    return list(itertools.islice(stream.as_numpy_iterator(), count))


def raw(image: np.ndarray) -> np.ndarray:
    """The intensities before the window, whole numbers."""
    return np.rint((image + 1) * 20).astype(int)


def expected_labels(image: np.ndarray, label_size) -> np.ndarray:
    """The labels in the middle of an image patch, from the coordinates that it shows."""
    middle = tuple(
        slice((n - m) // 2, (n - m) // 2 + m)
        for n, m in zip(image.shape[:3], label_size, strict=True)
    )
    z, y, x, number = np.moveaxis(raw(image)[middle] - FIRST, -1, 0)
    labels = np.full(label_size, IGNORE)
    for index, name in enumerate("abc"):
        at = (number == index) & (z >= 0)
        # Padding shows the lowest value of each channel, the first coordinates, once more.
        labels[at] = labels_of(name)[z[at], y[at], x[at]]
    return labels


def equal(first, second) -> bool:
    return all(
        np.array_equal(a[key], b[key])
        for a, b in zip(first, second, strict=True)
        for key in ("image", "labels", "annotated")
    )


@pytest.mark.parametrize(
    ("image_size", "label_size"),
    [((8, 8, 8), (4, 4, 4)), ((6, 10, 8), (6, 10, 8)), ((8, 6, 4), (2, 2, 4))],
)
def test_label_patch_is_the_middle_of_the_image_patch(records_dir, image_size, label_size):
    settings = replace(SETTINGS, image_size=image_size, label_size=label_size, batch_size=3)
    annotated = 0
    for batch in batches(records_dir, settings, 12):
        assert batch["image"].shape == (3, *image_size, 4) and batch["image"].dtype == np.float32
        assert batch["labels"].shape == (3, *label_size) and batch["labels"].dtype == np.uint8
        for image, labels, structures in zip(
            batch["image"], batch["labels"], batch["annotated"], strict=True
        ):
            only_two = raw(image)[0, 0, 0, 3] == FIRST + 2
            assert structures.tolist() == [True, not only_two, True]
            assert labels[tuple(n // 2 for n in label_size)] != IGNORE
            shown = labels != IGNORE
            np.testing.assert_array_equal(labels[shown], expected_labels(image, label_size)[shown])
            annotated += shown.sum()
    assert annotated > 200


def test_valid_network_geometry_around_small_volumes(records_dir):
    settings = replace(SETTINGS, image_size=(92, 92, 92), label_size=(4, 4, 4), batch_size=1)
    (batch,) = batches(records_dir, settings, 1)
    assert batch["image"].shape == (1, 92, 92, 92, 4) and batch["labels"].shape == (1, 4, 4, 4)
    for image, labels in zip(batch["image"], batch["labels"], strict=True):
        whole = raw(image)
        name = "abc"[whole[0, 0, 0, 3] - FIRST]
        shape = SHAPES[name]
        # The last voxel of the volume, as every coordinate is at its largest there.
        last = np.argwhere((whole[..., :3] == np.array(shape) + FIRST - 1).all(-1))
        assert len(last) == 1
        start = last[0] - np.array(shape) + 1
        volume = tuple(slice(s, s + n) for s, n in zip(start, shape, strict=True))
        np.testing.assert_array_equal(
            whole[volume][..., :3] - FIRST, np.stack(np.indices(shape), -1)
        )
        padding = np.ones(whole.shape[:3], bool)
        padding[volume] = False
        assert (whole[padding][:, :3] == FIRST).all()
        everywhere = np.full(whole.shape[:3], IGNORE)
        everywhere[volume] = labels_of(name)
        np.testing.assert_array_equal(labels, everywhere[44:48, 44:48, 44:48])


def test_padding_is_unannotated(records_dir):
    settings = replace(SETTINGS, image_size=(16, 30, 30), label_size=(16, 30, 30))
    for batch in batches(records_dir, settings, 3):
        for image, labels in zip(batch["image"], batch["labels"], strict=True):
            name = "abc"[raw(image)[0, 0, 0, 3] - FIRST]
            # Slices, rows and columns that the volume has, and no more, can be annotated.
            shown = labels != IGNORE
            for axis, others in enumerate([(1, 2), (0, 2), (0, 1)]):
                assert shown.any(axis=others).sum() <= SHAPES[name][axis]


def test_stream_depends_on_the_seed_alone(records_dir):
    settings = replace(SETTINGS, augmentation=CHANGES)
    first = batches(records_dir, settings, 6)
    assert equal(first, batches.__wrapped__(records_dir, settings, 6))
    other = batches(records_dir, replace(settings, seed=4), 6)
    assert not any(equal([a], [b]) for a, b in itertools.product(first, other))
    assert not any(equal([a], [b]) for a, b in itertools.combinations(first, 2))


# Visits of 8 patches each, 1 or 3 at a time; batches that cut through them; starts within a block
# of visits, at its end and in a later pass over the cases.
@pytest.mark.parametrize(("open_cases", "batch_size", "starts"), [(1, 1, (9, 32)), (3, 5, (7,))])
def test_resuming_continues_the_stream(records_dir, monkeypatch, open_cases, batch_size, starts):
    """It goes on from held cases as from those that are read for every visit."""
    monkeypatch.setattr(input_pipeline, "_MAX_OPEN_CASES", open_cases)
    settings = replace(
        SETTINGS,
        batch_size=batch_size,
        image_size=(5, 5, 5),
        label_size=(3, 3, 3),
        augmentation=CHANGES,
    )
    whole = batches(records_dir, settings, 36)
    for first in starts:
        assert equal(whole[first:], batches(records_dir, settings, 36 - first, first)), first
    plan = input_pipeline._plan_visits
    assert plan(manifest.load(records_dir).select("abc"), settings).hold
    monkeypatch.setattr(input_pipeline, "_plan_visits", lambda *a: plan(*a)._replace(hold=False))
    assert equal(whole, batches.__wrapped__(records_dir, settings, 36))
    first = starts[0]
    assert equal(whole[first:], batches.__wrapped__(records_dir, settings, 36 - first, first))


def test_passes_over_the_annotated_cases(records_dir, monkeypatch):
    monkeypatch.setattr(input_pipeline, "_MAX_OPEN_CASES", 2)
    settings = replace(SETTINGS, batch_size=6, image_size=(20, 20, 20))
    found = batches(records_dir, settings, 5)
    # Cases of different shapes share a batch; each pass visits each once, unlabelled d never.
    names = np.concatenate([raw(batch["image"])[:, 0, 0, 0, 3] - FIRST for batch in found])
    passes = [tuple(names[start : start + 3]) for start in range(0, 30, 3)]
    assert {tuple(sorted(one)) for one in passes} == {(0, 1, 2)}
    assert len(set(passes)) > 2


def test_each_patch_of_each_visit_of_a_case_is_drawn_anew(records_dir):
    settings = replace(SETTINGS, batch_size=1, augmentation=Augmentation(noise=Draw(1, 1)))
    found = batches(records_dir, settings, 12, only="a")
    assert not any(equal([a], [b]) for a, b in itertools.combinations(found, 2))


def test_normalisation_uses_the_whole_volume(records_dir):
    settings = replace(SETTINGS, intensity=Intensity("zscore"), batch_size=1)
    for batch in batches(records_dir, settings, 6, only="b"):
        image = batch["image"][0]
        coordinate = np.indices(SHAPES["b"])[1]
        found = np.unique(np.rint(image[..., 1] * coordinate.std() + coordinate.mean()))
        assert set(found) <= set(range(20)) and len(found) > 3


def test_augmentation_is_applied(records_dir):
    plain = batches(records_dir, SETTINGS, 4)
    noisy = batches(
        records_dir,
        replace(SETTINGS, augmentation=augmentation.preset("light", (1.0, 1.0, 1.0))),
        4,
    )
    for a, b in zip(plain, noisy, strict=True):
        np.testing.assert_array_equal(a["labels"], b["labels"])
        assert 0.005 < np.abs(a["image"] - b["image"]).mean() < 0.5
    assert SETTINGS.augmentation == augmentation.NONE


def test_a_flip_along_x_exchanges_the_sides_of_structures(records_dir):
    plain, settings = manifest.load(records_dir), replace(SETTINGS, batch_size=1)
    paired = replace(
        plain,
        structures=["kidney_left", "kidney_right"],
        cases=[replace(case, annotated_structures=["kidney_right"]) for case in plain.select("c")],
    )
    settings = replace(settings, augmentation=Augmentation((2,)))
    ways = set()
    for first, second in zip(
        *(
            itertools.islice(
                training_batches(records_dir, m, m.select("c"), settings).as_numpy_iterator(), 16
            )
            for m in (plain, paired)
        ),
        strict=True,
    ):
        np.testing.assert_array_equal(first["image"], second["image"])
        # One step is large and the other way where padding begins.
        flipped = bool((np.diff(raw(first["image"])[0, ..., 2].max((0, 1))) == -1).any())
        np.testing.assert_array_equal(first["annotated"], [[1, 0, 1]])
        np.testing.assert_array_equal(second["annotated"], [[1, flipped, not flipped]])
        other = np.where(first["labels"] == 2, 1, first["labels"]) if flipped else first["labels"]
        np.testing.assert_array_equal(second["labels"], other)
        ways.add(flipped)
    assert ways == {False, True}
    one_sided = replace(plain, structures=["left_atrium", "liver"])
    with pytest.raises(InputError, match="found 'left_atrium' without"):
        training_batches(records_dir, one_sided, one_sided.cases, settings)


def test_shapes_are_known_before_any_batch(records_dir):
    loaded = manifest.load(records_dir)
    spec = training_batches(records_dir, loaded, loaded.cases, SETTINGS).element_spec
    assert {key: spec[key].shape.as_list() for key in spec} == {
        "image": [2, 8, 8, 8, 4],
        "labels": [2, 4, 4, 4],
        "annotated": [2, 3],
        "case": [2],
    }


def test_cases_are_held_if_they_fit(records_dir, monkeypatch):
    cases = manifest.load(records_dir).select("abc")
    # Four channels of float32 and the labels.
    everything = 17 * sum(np.prod(SHAPES[name]) for name in "abc")
    for size, hold in ((everything, True), (everything - 1, False)):
        monkeypatch.setattr(input_pipeline, "OPEN_BYTES", size)
        plan = input_pipeline._plan_visits(cases, SETTINGS)
        assert plan.hold == hold and plan.open_cases == everything // (17 * 2880)


def test_nothing_annotated(records_dir):
    loaded = manifest.load(records_dir)
    with pytest.raises(InputError, match="expected annotated cases to train on, found none"):
        training_batches(records_dir, loaded, loaded.select(["d"]), SETTINGS)
