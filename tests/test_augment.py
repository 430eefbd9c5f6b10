"""Random changes: image and labels stay together, amounts stay in range, seeds decide."""

import numpy as np
import pytest
import tensorflow as tf

from tl3d_keras import augment
from tl3d_keras.augment import Augmentation

SIZE, INNER = (8, 6, 10), (4, 2, 6)
ALL = Augmentation((0, 1, 2), 0.2, 0.3, 0.1)


def seeds(count: int) -> list[tf.Tensor]:
    return [tf.constant([11, number], tf.int64) for number in range(count)]


@pytest.fixture
def image(rng) -> tf.Tensor:
    return tf.constant(rng.normal(size=(*SIZE, 2)).astype(np.float32))


INSIDE = tuple(slice((n - m) // 2, (n + m) // 2) for n, m in zip(SIZE, INNER, strict=True))


def numbered() -> tuple[tf.Tensor, tf.Tensor]:
    """An image that numbers its voxels, and concentric labels made from the same numbers."""
    number = np.arange(np.prod(SIZE)).reshape(SIZE)
    return tf.constant(number[..., None], tf.float32), tf.constant(number[INSIDE] % 251, tf.uint8)


@pytest.mark.parametrize("axes", [(), (2,), (0, 1, 2)])
def test_flips_keep_image_and_labels_together(axes):
    image, labels = numbered()
    ways = set()
    for seed in seeds(40):
        flipped, flipped_labels = augment.flip(image, labels, seed, axes)
        np.testing.assert_array_equal(flipped.numpy()[INSIDE][..., 0] % 251, flipped_labels)
        ways.add(tuple(np.flatnonzero(np.argwhere(flipped.numpy()[..., 0] == 0)[0])))
    # Every combination of the axes allowed, and no other.
    assert len(ways) == 2 ** len(axes) and set().union(*ways) == set(axes)


def test_flip_is_a_reversal_and_nothing_else():
    image, labels = numbered()
    for seed in seeds(12):
        flipped, flipped_labels = augment.flip(image, labels, seed, (1,))
        turned = bool(flipped[0, 0, 0, 0] != image[0, 0, 0, 0])
        np.testing.assert_array_equal(flipped, image[:, ::-1] if turned else image)
        np.testing.assert_array_equal(flipped_labels, labels[:, ::-1] if turned else labels)


def test_scaling_is_one_factor_in_range(image):
    factors = [float((augment.scale(image, seed, 0.2) / image)[0, 0, 0, 0]) for seed in seeds(60)]
    assert 0.8 <= min(factors) < 0.85 and 1.15 < max(factors) <= 1.2
    scaled = augment.scale(image, seeds(1)[0], 0.2)
    np.testing.assert_allclose(scaled, image * factors[0], rtol=1e-5)


def test_shift_is_one_constant_in_range(image):
    shifts = [float((augment.shift(image, seed, 0.3) - image)[0, 0, 0, 0]) for seed in seeds(60)]
    assert -0.3 <= min(shifts) < -0.2 and 0.2 < max(shifts) <= 0.3 + 1e-6
    np.testing.assert_allclose(augment.shift(image, seeds(1)[0], 0.3), image + shifts[0], atol=1e-5)


def test_noise_of_a_level_in_range(image):
    added = [(augment.noise(image, seed, 0.1) - image).numpy() for seed in seeds(40)]
    levels = [a.std() for a in added]
    # 960 normal numbers show their standard deviation to within 10 %.
    assert min(levels) < 0.02 and 0.08 < max(levels) < 0.11
    assert max(abs(a.mean()) for a in added) < 0.02
    assert np.abs(np.corrcoef([a.ravel() for a in added[:8]]) - np.eye(8)).max() < 0.2


def test_none_changes_nothing(image):
    labels = numbered()[1]
    for seed in seeds(5):
        found, found_labels = augment.augment(image, labels, seed, augment.NONE)
        np.testing.assert_array_equal(found, image)
        np.testing.assert_array_equal(found_labels, labels)


def test_all_are_applied_each_with_its_own_draw(image):
    labels = numbered()[1]
    seed = seeds(1)[0]
    split = tf.random.experimental.stateless_split(seed, 4)
    expected, expected_labels = augment.flip(image, labels, split[0], ALL.flip_axes)
    expected = augment.noise(
        augment.shift(augment.scale(expected, split[1], ALL.scaling), split[2], ALL.shift),
        split[3],
        ALL.noise,
    )
    found, found_labels = augment.augment(image, labels, seed, ALL)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(found_labels, expected_labels)


def test_seed_decides_eagerly_and_in_a_graph(image):
    labels = numbered()[1]

    def change(number: tf.Tensor):
        return augment.augment(image, labels, tf.stack([tf.constant(11, tf.int64), number]), ALL)

    in_graph = list(tf.data.Dataset.range(6).map(change))
    for number, (found, found_labels) in enumerate(in_graph):
        expected, expected_labels = change(tf.constant(number, tf.int64))
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(found_labels, expected_labels)
    assert len({float(found[0, 0, 0, 0]) for found, _ in in_graph}) == 6
