"""Sparse labels: runs, counts, and a resampling that neither loses nor invents annotation."""

import itertools
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import maximum_bipartite_matching

from tl3d_keras.annotation import IGNORE, coverage, from_runs, resample_labels, to_runs
from tl3d_keras.resampling import resampled_shape

BOUNDED = settings(max_examples=80, deadline=None, derandomize=True, database=None)
LABELS = st.sampled_from([IGNORE, IGNORE, IGNORE, 0, 0, 1, 2, 3])
SHAPES = st.tuples(*[st.integers(1, 6)] * 3)


def unannotated(*shape: int) -> np.ndarray:
    return np.full(shape, IGNORE, np.uint8)


def test_runs_by_hand():
    labels = unannotated(2, 2, 4)
    labels[0, 0, 1:] = 0
    labels[0, 1, :2] = 0
    labels[0, 1, 2] = 3
    labels[1, 1, 3] = 3
    runs = to_runs(labels)
    assert runs.start.tolist() == [1, 6, 15]
    assert runs.length.tolist() == [5, 1, 1]
    assert runs.value.tolist() == [0, 3, 3]
    assert {runs.start.dtype, runs.length.dtype, runs.value.dtype} == {np.dtype(np.int64)}


@BOUNDED
@given(SHAPES.flatmap(lambda shape: arrays(np.uint8, shape, elements=LABELS)))
def test_runs_round_trip(labels):
    runs = to_runs(labels)
    assert int(runs.length.sum()) == int((labels != IGNORE).sum())
    np.testing.assert_array_equal(from_runs(runs, labels.shape), labels)


@pytest.mark.parametrize("shape", [(0, 3, 3), (2, 3, 4)])
def test_no_runs(shape):
    runs = to_runs(unannotated(*shape))
    assert runs.start.size == runs.length.size == runs.value.size == 0
    np.testing.assert_array_equal(from_runs(runs, shape), unannotated(*shape))


def test_coverage_by_hand():
    labels = unannotated(5, 3, 4)
    labels[1] = 0
    labels[1, 0, :3] = 1
    labels[3, 2, 1:3] = [1, 2]
    assert coverage(labels, ["liver", "spleen", "aorta"]) == {
        "annotated": {"slices": 2, "voxels": 14},
        "liver": {"slices": 2, "voxels": 4},
        "spleen": {"slices": 1, "voxels": 1},
        "aorta": {"slices": 0, "voxels": 0},
    }


def test_lone_slice_survives_halving_wherever_it_lies(rng):
    for annotated_slice in range(16):
        labels = unannotated(16, 6, 5)
        labels[annotated_slice] = rng.integers(0, 4, (6, 5))
        expected = unannotated(8, 6, 5)
        expected[annotated_slice // 2] = labels[annotated_slice]
        found = resample_labels(labels, (1.0, 1.0, 1.0), (8, 6, 5), (2.0, 1.0, 1.0))
        np.testing.assert_array_equal(found, expected, err_msg=f"slice {annotated_slice}")


@pytest.mark.parametrize("reduction", [2, 3, 4])
def test_lone_scribble_voxel_survives(reduction):
    for place in np.ndindex(*[2 * reduction] * 3):
        labels = unannotated(*[2 * reduction] * 3)
        labels[place] = 2
        expected = unannotated(2, 2, 2)
        expected[tuple(p // reduction for p in place)] = 2
        found = resample_labels(labels, (1.0,) * 3, (2, 2, 2), (float(reduction),) * 3)
        np.testing.assert_array_equal(found, expected, err_msg=str(place))


def test_scribble_takes_the_label_nearest_to_the_new_centre():
    # 15 voxels onto 3: the new centres lie on old voxels 2, 7 and 12.
    labels = unannotated(1, 1, 15)
    labels[0, 0, [0, 1, 4]] = [0, 1, 0]
    labels[0, 0, [5, 8, 9]] = [1, 0, 1]
    labels[0, 0, 12:] = [2, 1, 1]
    found = resample_labels(labels, (1.0,) * 3, (1, 1, 3), (1.0, 1.0, 5.0))
    assert found.ravel().tolist() == [1, 0, 2]


def test_enlarging_repeats_each_voxel(rng):
    labels = rng.choice(np.array([0, 1, 2, IGNORE], np.uint8), (3, 4, 2))
    found = resample_labels(labels, (3.0, 2.0, 4.0), (9, 8, 8), (1.0,) * 3)
    np.testing.assert_array_equal(found, labels.repeat(3, 0).repeat(2, 1).repeat(4, 2))


def test_small_structure_keeps_a_voxel_at_its_place():
    labels = np.zeros((8, 8, 8), np.uint8)
    labels[5, 1, 6] = 1
    found = resample_labels(labels, (1.0,) * 3, (2, 2, 2), (4.0,) * 3)
    assert np.argwhere(found).tolist() == [[1, 0, 1]]


@pytest.mark.parametrize(
    "row",
    [
        [2, 1, 2, 3, 1, 3, 1, 0, 0],
        [1, 0, 0, 3, 1, 3, 2, 1, 2],
        [1, 2, 0, 2, 3, 1, 3, 2, 3],
    ],
)
def test_crowded_structures_make_room(row):
    # Each row has one place or more for each of three structures, in three new voxels.
    labels = np.array(row, np.uint8).reshape(1, 1, 9)
    found = resample_labels(labels, (1.0,) * 3, (1, 1, 3), (1.0, 1.0, 3.0))
    assert sorted(found.ravel()) == [1, 2, 3]
    assert all(value in old for value, old in zip(found.ravel(), labels.reshape(3, 3), strict=True))


class Grids(NamedTuple):
    """An old and a new grid and what lies on the old one."""

    labels: np.ndarray
    spacing: tuple[float, ...]
    new_spacing: tuple[float, ...]


@st.composite
def lone(draw) -> np.ndarray:
    """What is lost most easily: a lone slice, a scribble of a voxel, a point where labels meet."""
    labels = unannotated(*draw(st.tuples(*[st.integers(2, 9)] * 3)))
    place = tuple(draw(st.integers(0, n - 2)) for n in labels.shape)
    kind = draw(st.sampled_from(["slice", "voxel", "point"]))
    if kind == "slice":
        np.moveaxis(labels, draw(st.integers(0, 2)), 0)[place[0] % min(labels.shape)] = 1
    elif kind == "voxel":
        labels[place] = draw(st.sampled_from([0, 1, 2, 3]))
    else:
        z, y, x = place
        labels[z : z + 2, y : y + 2, x : x + 2] = [[[0, 1], [2, 3]], [[2, 3], [0, 1]]]
    return labels


@st.composite
def grids(draw) -> Grids:
    anything = SHAPES.flatmap(lambda shape: arrays(np.uint8, shape, elements=LABELS))
    labels = draw(anything | lone())
    spacing = draw(st.tuples(*[st.floats(0.3, 8)] * 3))
    factors = draw(st.tuples(*[st.floats(0.2, 5)] * 3))
    return Grids(labels, spacing, tuple(s / f for s, f in zip(spacing, factors, strict=True)))


def touching(old: int, spacing: float, new: int, new_spacing: float) -> tuple[np.ndarray, ...]:
    """Bool [new, old] of an axis: the old centre surely in, maybe in, nearest to the new voxel."""
    centres = (np.arange(old) + 0.5 - old / 2) * spacing
    edges = (np.arange(new + 1) - new / 2) * new_spacing
    # The outermost voxels answer for what rounding the size to whole voxels leaves beyond them.
    edges[0], edges[-1] = -np.inf, np.inf
    slack = 1e-6 * min(spacing, new_spacing)
    surely = (centres > edges[:-1, None] + slack) & (centres < edges[1:, None] - slack)
    maybe = (centres > edges[:-1, None] - slack) & (centres < edges[1:, None] + slack)
    far = np.abs(centres - (np.arange(new) + 0.5 - new / 2)[:, None] * new_spacing)
    return surely, maybe, far <= far.min(axis=1, keepdims=True) + slack


def join(per_axis, mask: np.ndarray) -> np.ndarray:
    """Bool [new Z, Y, X]: whether any old voxel of `mask` touches the new voxel along all axes."""
    z, y, x = (a.astype(int) for a in per_axis)
    return np.einsum("iz,jy,kx,zyx->ijk", z, y, x, mask.astype(int)) > 0


@BOUNDED
@given(grids())
def test_resampling_neither_loses_nor_invents(case):
    labels = case.labels
    shape = resampled_shape(labels.shape, case.spacing, case.new_spacing)
    found = resample_labels(labels, case.spacing, shape, case.new_spacing)
    assert found.shape == shape and found.dtype == np.uint8
    axes = zip(labels.shape, case.spacing, shape, case.new_spacing, strict=True)
    surely, maybe, nearest = zip(*(touching(*axis) for axis in axes), strict=True)

    for value in (0, 1, 2, 3):
        at_hand = join(maybe, labels == value) | join(nearest, labels == value)
        assert not ((found == value) & ~at_hand).any(), f"label {value} is annotated out of nothing"

    annotated = np.argwhere(labels != IGNORE)
    for voxel in annotated:
        cells = np.ix_(*[a[:, v] for a, v in zip(maybe, voxel, strict=True)])
        assert (found[cells] != IGNORE).any(), f"the annotation of voxel {voxel} is lost"

    structures = [value for value in (1, 2, 3) if (labels == value).any()]
    places = np.array([join(surely, labels == value).ravel() for value in structures])
    if structures and (maximum_bipartite_matching(csr_matrix(places), "column") >= 0).all():
        assert set(structures) <= set(found.ravel()), "a structure vanished though there is room"


@st.composite
def scans(draw) -> Grids:
    """Blocks of four structures in a volume of which whole slices are unannotated."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = draw(st.tuples(*[st.integers(16, 24)] * 3))
    labels = np.zeros(shape, np.uint8)
    for value in (1, 2, 3, 4):
        start = rng.integers(0, 14, 3)
        labels[
            tuple(slice(s, s + n) for s, n in zip(start, rng.integers(1, 14, 3), strict=True))
        ] = value
    labels[rng.random(shape[0]) < draw(st.sampled_from([0.0, 0.5, 0.95]))] = IGNORE
    spacing = draw(st.tuples(*[st.floats(0.3, 8)] * 3))
    factors = draw(st.tuples(*[st.floats(0.2, 5)] * 3))
    return Grids(labels, spacing, tuple(s / f for s, f in zip(spacing, factors, strict=True)))


@settings(BOUNDED, max_examples=40)
@given(scans())
def test_resampling_agrees_with_the_nearest_source_label(case):
    shape = resampled_shape(case.labels.shape, case.spacing, case.new_spacing)
    found = resample_labels(case.labels, case.spacing, shape, case.new_spacing)
    # Half-way between two old voxels, either is the nearest.
    either = []
    for new, t, old, s in zip(
        shape, case.new_spacing, case.labels.shape, case.spacing, strict=True
    ):
        place = (np.arange(new) + 0.5 - new / 2) * (t / s) + old / 2 - 0.5
        places = np.rint([place - 1e-6, place + 1e-6]).clip(0, old - 1)
        either.append(places.astype(int))
    nearest = np.stack([case.labels[np.ix_(*places)] for places in itertools.product(*either)])
    annotated = (nearest != IGNORE).all(0)
    disagree = np.count_nonzero((found != nearest).all(0)[annotated])
    # Beside one voxel for each structure that would have vanished.
    assert disagree <= 0.01 * annotated.sum() + 4
    assert set(np.unique(found)) == set(np.unique(case.labels)) or found.size < 100
