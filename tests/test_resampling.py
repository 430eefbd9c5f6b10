"""Positions in the patient: kept by every change of grid, seen through a ramp of intensities."""

import itertools

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from tl3d_keras import resampling
from tl3d_keras.annotation import IGNORE
from tl3d_keras.volume_io import Volume, check_same_grid, to_sitk

ORIGIN = (-31.5, 12.25, 100.0)
RAMP = np.array([1.0, 10.0, -4.0])
OBLIQUE = tuple(Rotation.from_euler("xyz", [8, -5, 12], degrees=True).as_matrix().ravel())
# All ways in which the axes of a file may run: six orders, each axis either way.
DIRECTIONS = [
    tuple((np.eye(3)[list(order)] * signs).ravel())
    for order in itertools.permutations(range(3))
    for signs in itertools.product([1, -1], repeat=3)
]


def positions(volume: Volume) -> np.ndarray:
    """The (x, y, z) in mm of every voxel, [Z, Y, X, 3]."""
    index = np.stack(np.meshgrid(*map(np.arange, volume.shape), indexing="ij"), -1)[..., ::-1]
    direction = np.reshape(volume.direction, (3, 3))
    return index * volume.spacing[::-1] @ direction.T + volume.origin


def ramp(shape, spacing, direction=DIRECTIONS[0]) -> Volume:
    """A volume that holds at every voxel a linear function of where it lies."""
    volume = Volume(np.zeros((*shape, 1), np.float32), spacing, ORIGIN, direction)
    return volume.with_array((positions(volume) @ RAMP)[..., np.newaxis].astype(np.float32))


def centre(volume: Volume) -> tuple[float, ...]:
    image = to_sitk(volume)
    return image.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in image.GetSize()])


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (4.0, 1.5, 2.5), (0.7, 3.0, 1.1)])
@pytest.mark.parametrize("direction", [DIRECTIONS[0], DIRECTIONS[13], OBLIQUE])
def test_image_stays_in_place(spacing, direction):
    image = ramp((9, 11, 7), (3.0, 1.2, 2.0), direction)
    resampled = resampling.resample_image(image, spacing)
    assert resampled.spacing == pytest.approx(spacing)
    assert resampled.direction == pytest.approx(direction)
    assert centre(resampled) == pytest.approx(centre(image), abs=1e-6)
    # Linear interpolation of a ramp is exact between the outermost centres.
    index = [
        to_sitk(image).TransformPhysicalPointToContinuousIndex(p)
        for p in positions(resampled).reshape(-1, 3)
    ]
    between = ((np.array(index) >= 0) & (np.array(index) <= np.array(image.shape[::-1]) - 1)).all(1)
    expected = positions(resampled).reshape(-1, 3) @ RAMP
    assert between.sum() > 50
    np.testing.assert_allclose(resampled.array.ravel()[between], expected[between], atol=1e-2)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (4.0, 1.5, 2.5), (90.0, 0.4, 6.0)])
def test_labels_share_the_grid_of_the_image(spacing, rng):
    image = ramp((9, 11, 7), (3.0, 1.2, 2.0), DIRECTIONS[21])
    labels = image.with_array(rng.integers(0, 3, image.array.shape, np.uint8))
    on_image = resampling.resample_image(image, spacing)
    on_labels = resampling.resample_labels(labels, spacing)
    check_same_grid(on_image, on_labels, "image", "labels")
    expected = resampling.resampled_shape(image.shape, image.spacing, spacing)
    assert on_image.shape == on_labels.shape == expected
    assert on_labels.array.dtype == np.uint8


def test_labels_stay_in_place():
    image = ramp((12, 10, 14), (2.0, 2.0, 2.0))
    labels = image.with_array((positions(image)[..., :1] > ORIGIN[0] + 13.0).astype(np.uint8))
    resampled = resampling.resample_labels(labels, (1.0, 4.0, 1.0))
    np.testing.assert_array_equal(
        resampled.array[..., 0], positions(resampled)[..., 0] > ORIGIN[0] + 13.0
    )


def test_lone_annotated_slice_stays_in_place():
    labels = ramp((16, 4, 5), (1.0, 1.0, 1.0), DIRECTIONS[5])
    for annotated in range(16):
        array = np.full((16, 4, 5, 1), IGNORE, np.uint8)
        array[annotated] = 2
        resampled = resampling.resample_labels(labels.with_array(array), (2.0, 1.0, 1.0))
        found = np.unique(np.argwhere(resampled.array == 2)[:, 0])
        assert found.tolist() == [annotated // 2]
        assert (resampled.array != IGNORE).sum() == 20


def test_equal_spacing_changes_nothing():
    image = ramp((3, 4, 5), (1.0, 2.0, 3.0))
    assert resampling.resample_image(image, (1.0, 2.0, 3.0)) is image
    assert resampling.resample_labels(image, (1.0, 2.0, 3.0)) is image


@pytest.mark.parametrize(
    ("shape", "spacing", "new", "expected"),
    [
        ((10, 10, 10), (1, 1, 1), (2, 3, 4), (5, 3, 2)),
        ((10, 1, 3), (1, 1, 0.1), (0.5, 8, 8), (20, 1, 1)),
    ],
)
def test_resampled_shape_covers_the_same_extent(shape, spacing, new, expected):
    assert resampling.resampled_shape(shape, spacing, new) == expected


@pytest.mark.parametrize("order", range(6))
def test_canonical_and_back(order, rng):
    for direction in DIRECTIONS[8 * order : 8 * order + 8]:
        image = ramp((2, 3, 4), (3.0, 1.2, 2.0), direction)
        upright = resampling.canonical(image)
        assert upright.direction == pytest.approx(np.eye(3).ravel()), direction
        expected = positions(upright) @ RAMP
        np.testing.assert_allclose(upright.array[..., 0], expected, atol=1e-3)
        labels = image.with_array(rng.integers(0, 9, image.array.shape, np.uint8))
        back = resampling.labels_onto(resampling.canonical(labels), image)
        np.testing.assert_array_equal(back.array, labels.array)
        assert (back.spacing, back.origin, back.direction) == (
            image.spacing,
            image.origin,
            image.direction,
        )


def test_canonical_keeps_an_oblique_grid():
    image = ramp((4, 5, 6), (3.0, 1.2, 2.0), OBLIQUE)
    upright = resampling.canonical(image)
    assert upright.direction == pytest.approx(OBLIQUE)
    np.testing.assert_array_equal(upright.array, image.array)


def test_labels_return_onto_a_finer_grid(rng):
    original = ramp((8, 6, 10), (1.0, 1.0, 1.0), DIRECTIONS[30])
    coarse = rng.integers(0, 5, (4, 3, 5, 1), np.uint8)
    labels = resampling.resample_image(original, (2.0, 2.0, 2.0)).with_array(coarse)
    back = resampling.labels_onto(labels, original)
    np.testing.assert_array_equal(back.array, coarse.repeat(2, 0).repeat(2, 1).repeat(2, 2))
    assert back.array.dtype == np.uint8


def test_labels_reach_beyond_their_outermost_voxels():
    original = ramp((5, 5, 5), (1.0, 1.0, 1.0))
    labels = Volume(np.full((3, 3, 3, 1), 4, np.uint8), (1.0, 1.0, 1.0), ORIGIN)
    assert (resampling.labels_onto(labels, original).array == 4).all()
