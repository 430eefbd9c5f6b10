"""Scores against hand-computed numbers."""

from pathlib import Path

import numpy as np
import pytest
from label_boxes import SPACING, boxes
from scipy.spatial.distance import cdist

from tl3d_keras.annotation import IGNORE
from tl3d_keras.errors import InputError
from tl3d_keras.evaluation import METRICS, Scores, Statistics, evaluate_case, summary

ROOT = Path(__file__).resolve().parents[1]

VOXEL_ML = 0.012

UNSCORED = Scores(None, None, None, 0.0, None)


def one(prediction: np.ndarray, reference: np.ndarray, spacing=SPACING) -> Scores:
    return evaluate_case(prediction, reference, spacing, {1: "liver"})["liver"]


# Every voxel of a 2x2x2 cube is on its surface: half of them move onto the other half.
@pytest.mark.parametrize(
    ("shift", "dice", "hd95", "nsd"),
    [
        ((0, 0, 0), 1.0, 0.0, 1.0),
        ((0, 0, 1), 0.5, 1.5, 1.0),
        ((0, 1, 0), 0.5, 2.0, 1.0),
        ((1, 0, 0), 0.5, 4.0, 1.0),
        ((0, 0, 2), 0.0, 3.0, 0.5),
        ((2, 0, 0), 0.0, 8.0, 0.5),
        ((0, 0, 3), 0.0, 4.5, 0.0),
    ],
)
def test_shifted_cube(shift, dice, hd95, nsd):
    reference = boxes(((1, 1, 1), (3, 3, 3)))
    prediction = np.roll(reference, shift, (0, 1, 2))
    assert one(prediction, reference) == Scores(dice, hd95, nsd, 0.0, 0.0)


def test_nearest_surface_in_mm_and_in_voxels():
    reference, prediction = boxes(), boxes()
    prediction[2, 2, 2] = 1
    reference[3, 2, 2] = reference[2, 2, 5] = 1
    found = one(prediction, reference, (5.0, 1.0, 1.0))
    # In mm the predicted voxel is 3 from the one and 5 from the other: 3, 3, 5 in all.
    assert found.hd95_mm == pytest.approx(3 + 0.9 * 2)
    # In voxels it has a neighbour: it and that neighbour are near, the third is not.
    assert found.nsd == pytest.approx(2 / 3)
    assert found.dice == 0
    assert found.volume_difference_ml == pytest.approx(-0.005)
    assert found.volume_difference_relative == -0.5


def test_only_voxels_beside_an_outside_voxel_are_surface():
    full = np.ones((3, 3, 3), np.uint8)
    reference, prediction = full.copy(), full.copy()
    reference[0, 0, 0] = prediction[2, 2, 2] = 0
    # Three surface voxels each, around opposite corners; the volume's edge is none.
    found = one(prediction, reference, (1.0, 1.0, 1.0))
    assert found.hd95_mm == pytest.approx(6**0.5)
    assert found.nsd == 0
    assert found.dice == pytest.approx(50 / 52)


def test_hollow_cube_has_the_surface_of_the_full_one():
    reference = boxes(((1, 1, 1), (4, 4, 4)))
    prediction = reference.copy()
    prediction[2, 2, 2] = 0
    found = one(prediction, reference)
    assert found.dice == pytest.approx(52 / 53)
    assert (found.hd95_mm, found.nsd) == (0, 1)
    assert found.volume_difference_ml == pytest.approx(-VOXEL_ML)
    assert found.volume_difference_relative == pytest.approx(-1 / 27)


def test_border_to_unannotated_voxels_is_no_surface():
    reference = np.array([0, 0, 0, 1, 1, IGNORE, IGNORE, IGNORE], np.uint8).reshape(1, 1, 8)
    prediction = np.array([0, 1, 1, 1, 1, 1, 1, 0], np.uint8).reshape(1, 1, 8)
    # The surfaces are voxel 1 and voxel 3; were voxel 4 one too, half would be near.
    assert one(prediction, reference) == Scores(4 / 6, 3.0, 0.0, 2 * VOXEL_ML, 1.0)


@pytest.mark.parametrize("elsewhere", [0, 1, 2, IGNORE])
def test_unannotated_voxels_never_count(elsewhere):
    truth = boxes(((1, 1, 1), (5, 5, 5)))
    reference, prediction = truth.copy(), np.full_like(truth, elsewhere)
    reference[[0, 1, 3, 5, 6]] = IGNORE
    prediction[[2, 4]] = truth[[2, 4]]
    assert one(prediction, reference) == Scores(1.0, 0.0, 1.0, 0.0, 0.0)


EMPTY, SMALL, FULL = boxes(), boxes(((2, 2, 2), (3, 3, 3))), boxes(((0, 0, 0), (7, 7, 7)))

UNANNOTATED = np.full_like(EMPTY, IGNORE)


@pytest.mark.parametrize(
    ("prediction", "reference", "expected"),
    [
        (EMPTY, EMPTY, UNSCORED),
        (SMALL, EMPTY, Scores(0.0, None, 0.0, VOXEL_ML, None)),
        (EMPTY, SMALL, Scores(0.0, None, 0.0, -VOXEL_ML, -1.0)),
        (SMALL, UNANNOTATED, UNSCORED),
        (FULL, FULL, Scores(1.0, None, None, 0.0, 0.0)),
        (EMPTY, FULL, Scores(0.0, None, 0.0, -343 * VOXEL_ML, -1.0)),
        (SMALL, FULL, Scores(2 / 344, None, 0.0, -342 * VOXEL_ML, -342 / 343)),
    ],
)
def test_empty_and_full(prediction, reference, expected):
    found = one(prediction, reference)
    for metric in METRICS:
        assert getattr(found, metric) == pytest.approx(getattr(expected, metric)), metric


def direct(prediction: np.ndarray, reference: np.ndarray, value: int) -> tuple[float, float, float]:
    """Dice, HD95 and NSD by the definition, voxel by voxel over the whole volume."""
    seen = set(map(tuple, np.argwhere(reference != IGNORE)))
    sides = [
        set(map(tuple, np.argwhere(labels == value))) & seen for labels in (prediction, reference)
    ]
    steps = [s * np.eye(3, dtype=int)[axis] for axis in range(3) for s in (1, -1)]
    surfaces = [
        np.array([v for v in side if any(tuple(v + step) in seen - side for step in steps)])
        for side in sides
    ]
    mm, voxels = (cdist(*(surface * unit for surface in surfaces)) for unit in (SPACING, 1))
    distances, steps_away = (np.concatenate([d.min(0), d.min(1)]) for d in (mm, voxels))
    dice = 2 * len(sides[0] & sides[1]) / (len(sides[0]) + len(sides[1]))
    return dice, float(np.percentile(distances, 95)), float((steps_away <= 1).mean())


@pytest.mark.parametrize("seed", range(4))
def test_crop_changes_nothing(seed):
    rng = np.random.default_rng(seed)
    reference, prediction = (
        boxes(((2, 2, 1), (5, 6, 3)), ((2, 1, 4), (4, 5, 6)), shape=(8, 9, 10)) for _ in range(2)
    )
    for labels in (reference, prediction):
        noisy = rng.random(labels.shape) < 0.1
        labels[noisy] = rng.integers(0, 3, noisy.sum())
    # The second structure spans the volume, the first is cropped to part of it.
    for labels in (reference, prediction):
        labels[5:][labels[5:] == 1] = 0
    reference[rng.random(reference.shape) < 0.2] = IGNORE
    found = evaluate_case(prediction, reference, SPACING, {1: "a", 2: "b"})
    for value, name in ((1, "a"), (2, "b")):
        scores = found[name]
        assert (scores.dice, scores.hd95_mm, scores.nsd) == pytest.approx(
            direct(prediction, reference, value)
        )
    padded = (np.pad(a, 5, constant_values=IGNORE) for a in (prediction, reference))
    assert evaluate_case(*padded, SPACING, {1: "a", 2: "b"}) == found


def test_partially_annotated_case():
    both = boxes(((1, 1, 1), (3, 3, 3)), ((4, 4, 4), (6, 6, 6)))
    spleen_alone = np.where(both == 1, 0, both)
    structures = {1: "liver", 2: "spleen"}
    assert list(evaluate_case(both, spleen_alone, SPACING, structures)) == ["liver", "spleen"]
    found = evaluate_case(both, spleen_alone, SPACING, structures, ["spleen"])
    assert found == {"spleen": Scores(1.0, 0.0, 1.0, 0.0, 0.0)}
    assert evaluate_case(both, spleen_alone, SPACING, structures, []) == {}
    with pytest.raises(InputError, match="among liver, spleen, found 'kidney'"):
        evaluate_case(both, both, SPACING, structures, ["kidney"])


def test_shapes_must_agree():
    with pytest.raises(InputError, match=r"shape \(7, 7, 7\), found \(6, 7, 7\)"):
        one(EMPTY[1:], EMPTY)


def test_summary():
    cases = [
        {"liver": Scores(0.5, 4.0, 0.5, 1.0, 0.5), "spleen": UNSCORED},
        {"liver": Scores(1.0, None, 0.0, -2.0, None), "spleen": Scores(0.25, 1.0, 1.0, 0.0, 0.0)},
        {"liver": Scores(0.75, 2.0, 1.0, 1.0, -0.5)},
    ]
    found = summary(cases, ["liver", "spleen", "kidney"])
    liver = found.structures["liver"]
    assert liver["dice"] == Statistics(0.75, pytest.approx((0.125 / 3) ** 0.5), 3)
    assert liver["hd95_mm"] == Statistics(3.0, 1.0, 2)
    assert found.structures["spleen"]["dice"] == Statistics(0.25, 0.0, 1)
    assert found.structures["spleen"]["volume_difference_ml"] == Statistics(0.0, 0.0, 2)
    assert found.structures["kidney"]["dice"] == Statistics(None, None, 0)
    assert found.mean == {
        "dice": 0.5,
        "hd95_mm": 2.0,
        "nsd": 0.75,
        "volume_difference_ml": 0.0,
        "volume_difference_relative": 0.0,
    }
