"""Positions in the patient: kept by every change of grid, seen through a ramp of intensities."""

import itertools

import numpy as np
import pytest
from scipy.ndimage import binary_dilation, binary_erosion
from scipy.spatial.transform import Rotation

from tl3d_keras import resampling, volume_io
from tl3d_keras.annotation import IGNORE
from tl3d_keras.volumes import Volume, check_same_grid, to_sitk

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


@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.int32])
@pytest.mark.parametrize("direction", [DIRECTIONS[13], OBLIQUE])
def test_whole_numbers_are_rounded_to_the_nearest(rng, dtype, direction):
    array = rng.integers(0 if dtype == np.uint8 else -90, 90, (6, 7, 8, 2)).astype(dtype)
    volume = Volume(array, (2.0, 1.0, 1.0), ORIGIN, direction)
    exact = resampling.to_grid(volume.with_array(array.astype(np.float64)), (1.0, 0.7, 0.8)).array
    found = resampling.to_grid(volume, (1.0, 0.7, 0.8)).array
    assert found.dtype == dtype
    assert np.abs(found - exact).max() < 0.5 + 1e-4


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


@pytest.mark.parametrize("order", range(6))
@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_files_of_all_48_orientations_return(tmp_path, order, suffix, rng):
    for code, direction in enumerate(DIRECTIONS[8 * order : 8 * order + 8]):
        image = ramp((3, 4, 5), (3.0, 1.2, 2.0), direction)
        left = positions(image)[..., :1] > centre(image)[0] + 0.1
        labels = image.with_array(np.where(left, 2, rng.integers(0, 2, left.shape)).astype("u1"))
        path = tmp_path / f"{code}{suffix}"
        volume_io.write(path, labels)
        read = volume_io.read_labels(path)
        spacing = resampling.canonical(read).spacing
        upright = resampling.labels_to_grid(read, spacing)
        np.testing.assert_array_equal(np.reshape(upright.direction, (3, 3)), np.eye(3))
        # LPS: the last axis of the array runs to the left.
        assert (np.argwhere(upright.array == 2)[:, 2] >= (upright.shape[2] - 1) / 2).all()
        assert (upright.array == 2).sum() == left.sum() > 0
        back = resampling.labels_onto(upright, read)
        np.testing.assert_array_equal(back.array, labels.array)
        check_same_grid(labels, back, "written", "back")


def rotated(*degrees: float) -> tuple[float, ...]:
    return tuple(Rotation.from_euler("xyz", degrees, degrees=True).as_matrix().ravel())


def tilted(degrees: float) -> tuple[float, ...]:
    """Axial slices, shifted along y as a tilted gantry shifts them."""
    angle = np.radians(degrees)
    return (1.0, 0.0, 0.0, 0.0, 1.0, np.sin(angle), 0.0, 0.0, np.cos(angle))


FLIPPED_AND_OBLIQUE = tuple((np.reshape(rotated(12, 9, 14), (3, 3)) * [1, -1, 1]).ravel())
UNALIGNED = [
    rotated(10, 0, 0),
    rotated(0, 25, 0),
    rotated(13, -10, 17),
    rotated(100, 8, -75),
    FLIPPED_AND_OBLIQUE,
    tilted(12),
    tilted(-25),
]


def structures(volume: Volume) -> np.ndarray:
    """Three bodies that lie in the patient, as labels [Z, Y, X, 1]."""
    away = positions(volume) - centre(volume)
    labels = np.zeros(volume.shape, np.uint8)
    for value, (place, radius) in enumerate(
        [((0, 0, 0), 14), ((-12, 6, 4), 7), ((10, -8, -6), 6)], start=1
    ):
        labels[np.linalg.norm(away - place, axis=-1) < radius] = value
    return labels[..., np.newaxis]


@pytest.mark.parametrize("direction", UNALIGNED)
def test_unaligned_volumes_are_resampled_and_return(direction):
    volume = ramp((40, 44, 48), (1.5, 1.0, 1.0), direction)
    image = resampling.to_grid(volume, (1.0, 1.0, 1.0))
    np.testing.assert_array_equal(np.reshape(image.direction, (3, 3)), np.eye(3))
    assert image.spacing == (1.0, 1.0, 1.0) and centre(image) == pytest.approx(centre(volume))
    # Every voxel of the volume lies in the grid, and what lies in both is where it was.
    index = (positions(volume) - image.origin).reshape(-1, 3)
    assert (index >= -0.5).all() and (index <= np.array(image.shape[::-1]) - 0.5).all()
    middle = np.linalg.norm(positions(image) - centre(image), axis=-1) < 18
    expected = positions(image)[middle] @ RAMP
    np.testing.assert_allclose(image.array[middle][..., 0], expected, atol=1e-2)

    labels = resampling.labels_to_grid(volume.with_array(structures(volume)), image.spacing)
    check_same_grid(image, labels, "image", "labels")
    inside = labels.array != IGNORE
    agree = (labels.array == structures(labels))[inside]
    assert agree.mean() > 0.985
    back = resampling.labels_onto(labels, volume)
    border = np.zeros(volume.shape, bool)
    for value in range(1, 4):
        body = structures(volume)[..., 0] == value
        border |= binary_dilation(body) & ~binary_erosion(body)
    same = (back.array == structures(volume))[..., 0][2:-2, 2:-2, 2:-2]
    assert same[~border[2:-2, 2:-2, 2:-2]].mean() >= 0.99


@pytest.mark.parametrize("direction", UNALIGNED)
def test_nothing_outside_an_unaligned_volume_is_annotated(direction):
    volume = ramp((10, 12, 14), (2.0, 1.0, 1.0), direction)
    full = volume.with_array(np.ones((*volume.shape, 1), np.uint8))
    labels = resampling.labels_to_grid(full, (1.0, 1.0, 1.0))
    index = (positions(labels) - volume.origin) @ np.linalg.inv(np.reshape(direction, (3, 3))).T
    index /= volume.spacing[::-1]
    over = np.maximum(-0.5 - index, index + 0.5 - volume.shape[::-1]).max(-1)
    assert (labels.array[..., 0][over > 1e-6] == IGNORE).all()
    assert (labels.array[..., 0][over < -1e-6] == 1).all()
    image = resampling.to_grid(volume, (1.0, 1.0, 1.0))
    assert (image.array[over > 1e-6] == volume.array.min()).all()
    assert (over > 1e-6).any()


@pytest.mark.parametrize("direction", UNALIGNED)
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (4.0, 2.0, 2.0), (6.0, 6.0, 6.0)])
def test_sparse_annotation_of_unaligned_volumes_survives(direction, spacing):
    volume = ramp((30, 28, 26), (1.0, 1.0, 1.0), direction)
    array = np.full((*volume.shape, 1), IGNORE, np.uint8)
    array[9] = 0
    array[9, 4:9, 3:12] = 1
    array[14, 9, 9] = 2
    labels = resampling.labels_to_grid(volume.with_array(array), spacing)
    assert set(np.unique(labels.array)) == {0, 1, 2, IGNORE}
    # Each annotated voxel lies in an annotated one, unless that one's centre is outside the volume.
    # Those on the border between two voxels are of either.
    places = (positions(volume)[array[..., 0] != IGNORE] - labels.origin) / spacing[::-1]
    places = places[(np.abs(places - np.floor(places) - 0.5) > 1e-6).all(-1)]
    index = tuple(np.rint(places).astype(int).T[::-1])
    seen = (positions(labels) - volume.origin) @ np.linalg.inv(np.reshape(direction, (3, 3))).T
    inside = ((seen >= -0.5) & (seen <= np.array(volume.shape[::-1]) - 0.5)).all(-1)
    assert (labels.array[..., 0] != IGNORE)[index][inside[index]].all()
    # And each annotated voxel holds a label that lies within it or nearest to it.
    distance = np.linalg.norm(
        positions(labels)[labels.array[..., 0] == 2] - positions(volume)[14, 9, 9], axis=-1
    )
    assert distance.size >= 1 and distance.max() <= np.linalg.norm(spacing) / 2 + 1


def test_channels_outside_take_their_own_minimum(rng):
    volume = ramp((6, 7, 8), (1.0, 1.0, 1.0), rotated(0, 20, 0))
    array = np.concatenate([volume.array, rng.uniform(5, 6, volume.array.shape)], -1)
    image = resampling.to_grid(volume.with_array(array.astype(np.float32)), (1.0, 1.0, 1.0))
    np.testing.assert_allclose(image.array[0, 0, 0], image.array.min((0, 1, 2)))
    assert image.array[..., 1].min() >= 5 and image.array.dtype == np.float32


def test_a_structure_at_the_corner_does_not_vanish():
    volume = ramp((12, 12, 12), (1.0, 1.0, 1.0), rotated(20, 20, 20))
    for place in np.ndindex(2, 2, 2):
        array = np.full((12, 12, 12, 1), IGNORE, np.uint8)
        array[tuple(-p for p in place)] = 3
        labels = resampling.labels_to_grid(volume.with_array(array), (5.0, 5.0, 5.0))
        assert (labels.array == 3).sum() == 1


def test_almost_aligned_axes_keep_their_voxels(rng):
    volume = ramp((5, 6, 7), (1.0, 2.0, 3.0), rotated(0.04, 0.02, 0.03))
    labels = volume.with_array(rng.integers(0, 9, volume.array.shape, np.uint8))
    assert resampling.to_grid(labels, (1.0, 2.0, 3.0)).array.tolist() == labels.array.tolist()
    oblique = ramp((5, 6, 7), (1.0, 2.0, 3.0), rotated(0.2, 0, 0))
    assert not resampling.is_aligned(oblique)


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
