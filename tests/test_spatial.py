"""Where a deformed patch comes from, in mm, and that labels stay what was annotated there."""

import numpy as np
import pytest
import tensorflow as tf
from scipy import ndimage

from tl3d_keras import case_source, patches, records, spatial
from tl3d_keras.annotation import IGNORE
from tl3d_keras.augmentation import OFF, Augmentation, Draw
from tl3d_keras.patches import OpenCase
from tl3d_keras.volumes import Volume

SHAPE, SPACING = (11, 20, 16), (3.0, 1.0, 1.5)
FLOOR = tf.constant([-7.0, -9.0])
SEED = tf.constant([3, 4], tf.int64)
ALL = Augmentation(
    rotation=Draw(-40, 40), scaling=Draw(0.7, 1.4), elastic=Draw(0, 5), elastic_grid=15.0
)


def make_case(labels: np.ndarray, image: np.ndarray | None = None) -> OpenCase:
    rng = np.random.default_rng(0)
    if image is None:
        image = rng.integers(-5, 1000, (*labels.shape, 2)).astype(np.int16)
    volume = Volume(image, SPACING)
    return case_source.opened(records.encode("a", volume, labels, [1, 2]))


def sparse(shape=SHAPE) -> np.ndarray:
    """Labels that follow from the position, in a third of the slices."""
    z, y, x = np.indices(shape)
    return np.where(z % 3 == 1, (z + y // 3 + x // 4) % 3, IGNORE).astype(np.uint8)


def source(settings, size, seed=SEED, spacing=SPACING) -> np.ndarray:
    drawn = tf.constant(
        [d.probability > 0 for d in (settings.rotation, settings.scaling, settings.elastic)]
    )
    return spatial.source(size, drawn, seed, settings, spacing).numpy()


def in_mm(coordinates: np.ndarray, spacing=SPACING) -> np.ndarray:
    """Coordinates [3, Z, Y, X] in mm from the patch's middle."""
    middle = (np.array(coordinates.shape[1:]) - 1) / 2
    return (coordinates - middle.reshape(3, 1, 1, 1)) * np.reshape(spacing, (3, 1, 1, 1))


def grid(size, spacing=SPACING) -> np.ndarray:
    return in_mm(np.indices(size).astype(float), spacing)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_quarter_turn_moves_millimetres(axis):
    size = (5, 7, 9)
    settings = Augmentation(rotation=Draw(90, 90), rotation_axes=(axis,))
    found, at = in_mm(source(settings, size)), grid(size)
    one, other = (axis + 1) % 3, (axis + 2) % 3
    # What is shown on the second axis was on the first one.
    expected = np.empty_like(at)
    expected[axis], expected[one], expected[other] = at[axis], at[other], -at[one]
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_rotations_about_all_axes_keep_distances():
    size = (5, 7, 9)
    found, at = in_mm(source(Augmentation(rotation=Draw(-50, 50)), size)), grid(size)
    np.testing.assert_allclose(
        np.linalg.norm(found, axis=0), np.linalg.norm(at, axis=0), rtol=1e-4, atol=1e-4
    )
    matrix, *_ = np.linalg.lstsq(at.reshape(3, -1).T, found.reshape(3, -1).T, rcond=None)
    np.testing.assert_allclose(np.linalg.det(matrix), 1, rtol=1e-4)
    assert (np.abs(matrix - np.eye(3)).max(0) > 0.05).all()


def test_rotation_angles_are_in_range_and_differ():
    turn = Augmentation(rotation=Draw(-30, 30), rotation_axes=(0,))
    angles = []
    for number in range(60):
        found = in_mm(source(turn, (1, 3, 3), tf.constant([3, number], tf.int64)))
        angles.append(np.degrees(np.arctan2(*found[1:, 0, 1, 2])))
    assert -30.01 < min(angles) < -25 and 25 < max(angles) < 30.01


def test_scaling_above_one_enlarges():
    at = grid((4, 5, 6))
    settings = Augmentation(scaling=Draw(2, 2))
    np.testing.assert_allclose(in_mm(source(settings, (4, 5, 6))), at / 2, atol=1e-5)


def test_elastic_stays_within_its_mm_and_is_smooth():
    size, largest = (12, 30, 20), 4.0
    settings = Augmentation(elastic=Draw(largest, largest), elastic_grid=12.0)
    moved = np.stack(
        [
            in_mm(source(settings, size, tf.constant([1, n], tf.int64))) - grid(size)
            for n in range(8)
        ]
    )
    assert 0.4 * largest < np.abs(moved).max() <= largest
    # In mm on each axis alike, whatever its spacing, and never folded.
    assert (np.abs(moved).max((0, 2, 3, 4)) > 0.3 * largest).all()
    for axis, step in enumerate(SPACING):
        assert np.diff(moved[:, axis], axis=axis + 1).min() > -step
    weak = Augmentation(elastic=Draw(0, 0))
    np.testing.assert_allclose(source(weak, size), np.indices(size), atol=1e-5)


def test_spline_weights():
    basis = spatial._spline_basis(9, 0.4)
    np.testing.assert_allclose(basis.sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(basis[0, :4], [1 / 6, 4 / 6, 1 / 6, 0], atol=1e-6)


def test_interpolation_equals_scipy():
    case = make_case(sparse())
    start = np.array([-2, 3, 5])
    coordinates = source(ALL, (9, 10, 12))
    found = spatial.interpolate(case, tf.constant(start), tf.constant(coordinates), FLOOR)
    image = records.intensities(case.words, 2).numpy()
    for channel in range(2):
        # Far beyond the volume lies the floor, too.
        padded = np.pad(image[..., channel], 30, constant_values=FLOOR[channel])
        expected = ndimage.map_coordinates(
            padded, coordinates + start.reshape(3, 1, 1, 1) + 30, order=1
        )
        np.testing.assert_allclose(found[..., channel], expected, atol=0.05)


def test_labels_are_those_of_the_nearest_voxel_and_never_blended():
    labels = sparse()
    case = make_case(labels)
    start = np.array([-2, 3, 5])
    seen = set()
    for number in range(6):
        coordinates = source(ALL, (9, 10, 12), tf.constant([3, number], tf.int64))
        found = spatial.nearest_labels(case, tf.constant(start), tf.constant(coordinates)).numpy()
        voxel = np.floor(coordinates + start.reshape(3, 1, 1, 1) + 0.5).astype(int)
        inside = ((voxel >= 0) & (voxel < np.reshape(SHAPE, (3, 1, 1, 1)))).all(0)
        voxel = np.where(inside, voxel, 0)
        expected = np.where(inside, labels[tuple(voxel)], IGNORE)
        np.testing.assert_array_equal(found, expected)
        seen |= set(np.unique(found))
    assert seen == {0, 1, 2, IGNORE}


def cut(case, settings, seed=SEED, image_size=(9, 12, 10), label_size=(5, 6, 4)):
    start = tf.constant([2, -3, 4], tf.int64)
    return spatial.cut(case, start, image_size, label_size, FLOOR, seed, settings, SPACING)


def test_image_and_labels_move_together():
    labels = sparse()
    labels[labels == IGNORE] = 0
    # The image shows the labels.
    image = np.stack([labels, labels], -1).astype(np.int16) * 100
    for number in range(4):
        shown, found = cut(make_case(labels, image), ALL, tf.constant([3, number], tf.int64))
        shown = shown.numpy()[2:7, 3:9, 3:7, 0] / 100
        inside = found.numpy() != IGNORE
        assert inside.mean() > 0.4
        # Nearest and linear differ by less than one step of the interpolation's corners.
        agree = np.abs(shown - found.numpy())[inside] < 0.75
        assert agree.mean() > 0.8


def test_an_undrawn_change_is_the_exact_crop():
    case = make_case(sparse())
    start = tf.constant([2, -3, 4], tf.int64)
    crop = patches.crop_image(case.words, start, tf.constant([9, 12, 10], tf.int64), FLOOR)
    inner = patches.crop_labels(case, start + [2, 3, 3], tf.constant([5, 6, 4], tf.int64))
    rare = Augmentation(rotation=Draw(90, 90, 0.3), scaling=Draw(1.3, 1.3, 0.3))
    exact = 0
    for number in range(30):
        image, labels = cut(case, rare, tf.constant([5, number], tf.int64))
        exact += np.array_equal(image, crop) and np.array_equal(labels, inner)
    # 0.49 of 30 are expected; four standard deviations.
    assert 4 <= exact <= 26
    for settings in (Augmentation(), Augmentation(rotation=Draw(90, 90, 0.0), scaling=OFF)):
        image, labels = cut(case, settings)
        np.testing.assert_array_equal(image, crop)
        np.testing.assert_array_equal(labels, inner)


def test_seed_decides_eagerly_and_in_a_map():
    case = make_case(sparse())
    settings = Augmentation(
        rotation=Draw(-40, 40, 0.5), scaling=Draw(0.7, 1.4, 0.5), elastic=Draw(0, 5, 0.3)
    )

    def change(number):
        return cut(case, settings, tf.stack([tf.constant(5, tf.int64), number]))

    in_graph = tf.data.Dataset.range(8).map(change)
    for number, (image, labels) in enumerate(in_graph):
        expected, expected_labels = change(tf.constant(number, tf.int64))
        np.testing.assert_allclose(image, expected, atol=0.05)
        assert (labels.numpy() != expected_labels.numpy()).mean() < 0.01
