"""Flips and changes of intensity: each its formula, its amounts, its seed, eagerly and in a map."""

import numpy as np
import pytest
import tensorflow as tf
from scipy import ndimage

from tl3d_keras import augment, augmentation
from tl3d_keras.augmentation import OFF, Augmentation, Draw

SIZE, INNER = (8, 6, 10), (4, 2, 6)
INSIDE = tuple(slice((n - m) // 2, (n + m) // 2) for n, m in zip(SIZE, INNER, strict=True))
SPACING = (3.0, 1.0, 1.5)
ALL = augmentation.preset("any_contrast", SPACING, (0, 1, 2))
OPS = {
    "curve": lambda *a: augment.curve(*a, Draw(0.5, 2), 5),
    "gamma": lambda *a: augment.gamma(*a, Draw(0.5, 2)),
    "contrast": lambda *a: augment.contrast(*a, Draw(0.8, 1.2)),
    "brightness": lambda *a: augment.brightness(*a, Draw(-0.3, 0.3)),
    "low_resolution": lambda *a: augment.low_resolution(*a, Draw(2, 4), SPACING),
    "blur": lambda *a: augment.blur(*a, Draw(0.5, 2), SPACING),
    "noise": lambda *a: augment.noise(*a, Draw(0, 0.1)),
    "noise now and then": lambda *a: augment.noise(*a, Draw(0.1, 0.2, 0.5)),
}


def seeds(count: int) -> list[tf.Tensor]:
    return [tf.constant([11, number], tf.int64) for number in range(count)]


SEED = seeds(1)[0]


@pytest.fixture
def image(rng) -> tf.Tensor:
    return tf.constant(rng.normal(size=(*SIZE, 2)).astype(np.float32))


def numbered() -> dict[str, tf.Tensor]:
    """An image that numbers its voxels, and concentric labels made from the same numbers."""
    number = np.arange(np.prod(SIZE)).reshape(SIZE)
    return {
        "image": tf.constant(number[..., None], tf.float32),
        "labels": tf.constant(number[INSIDE] % 251, tf.uint8),
        "annotated": tf.constant([1, 1, 0, 1], tf.uint8),
    }


@pytest.mark.parametrize("axes", [(), (2,), (0, 1, 2)])
def test_flips_keep_image_and_labels_together(axes):
    patch, ways = numbered(), set()
    for seed in seeds(40):
        flipped = augment.flip(patch, seed, axes, range(4))
        shown = flipped["image"].numpy()
        np.testing.assert_array_equal(shown[INSIDE][..., 0] % 251, flipped["labels"])
        turned = tuple(np.flatnonzero(np.argwhere(shown[..., 0] == 0)[0]))
        np.testing.assert_array_equal(shown, np.flip(patch["image"], turned))
        ways.add(turned)
    # Every combination of the axes allowed, and no other.
    assert len(ways) == 2 ** len(axes) and set().union(*ways) == set(axes)


def test_a_flip_along_x_exchanges_left_and_right():
    patch, ways = numbered(), set()
    for seed in seeds(20):
        flipped = augment.flip(patch, seed, (1, 2), [0, 2, 1, 3])
        plain = augment.flip(patch, seed, (1, 2), range(4))
        along_x = bool(flipped["image"][0, 0, 0, 0] % 10)
        expected, other = plain["labels"].numpy(), plain["labels"].numpy()
        if along_x:
            other[expected == 1], other[expected == 2] = 2, 1
        np.testing.assert_array_equal(flipped["labels"], other)
        # 255 in the image's numbers modulo 251 never occurs; 250 stays what it is.
        assert flipped["annotated"].numpy().tolist() == [1, 0, 1, 1] if along_x else [1, 1, 0, 1]
        ways.add(along_x)
    assert ways == {False, True}


def test_unannotated_voxels_have_no_other_side():
    patch = numbered() | {"labels": tf.fill(INNER, tf.constant(255, tf.uint8))}
    for seed in seeds(8):
        assert (augment.flip(patch, seed, (2,), [0, 2, 1])["labels"].numpy() == 255).all()


def test_contrast_is_one_factor_in_range(image):
    changed = [augment.contrast(image, seed, Draw(0.8, 1.2)) for seed in seeds(60)]
    factors = [float((c / image)[0, 0, 0, 0]) for c in changed]
    assert 0.8 <= min(factors) < 0.85 and 1.15 < max(factors) <= 1.2
    np.testing.assert_allclose(changed[0], image * factors[0], rtol=1e-5)


def test_brightness_is_one_constant_in_range(image):
    changed = [augment.brightness(image, seed, Draw(-0.3, 0.3)) for seed in seeds(60)]
    shifts = [float((c - image)[0, 0, 0, 0]) for c in changed]
    assert -0.3 <= min(shifts) < -0.2 and 0.2 < max(shifts) <= 0.3 + 1e-6
    np.testing.assert_allclose(changed[0], image + shifts[0], atol=1e-5)


def test_noise_of_a_level_in_range(image):
    added = [(augment.noise(image, seed, Draw(0, 0.1)) - image).numpy() for seed in seeds(40)]
    levels = [a.std() for a in added]
    # 960 normal numbers show their standard deviation to within 10 %.
    assert min(levels) < 0.02 and 0.08 < max(levels) < 0.11
    assert max(abs(a.mean()) for a in added) < 0.02
    assert np.abs(np.corrcoef([a.ravel() for a in added[:8]]) - np.eye(8)).max() < 0.2


def test_curve_connects_random_values_by_straight_lines():
    ramp = tf.stack([tf.range(9.0), 3 * tf.range(9.0) - 7], -1)[:, tf.newaxis, tf.newaxis]
    found = [augment.curve(ramp, seed, Draw(2, 2), 5).numpy()[:, 0, 0] for seed in seeds(30)]
    for curve in found:
        np.testing.assert_allclose(curve[1::2], (curve[:-1:2] + curve[2::2]) / 2, atol=1e-5)
    knots = np.concatenate([curve[::2] for curve in found])
    assert -2 <= knots.min() < -1.9 and 1.9 < knots.max() <= 2
    # Each channel and each seed has another curve.
    assert np.abs(np.diff(knots, axis=1)).max() > 1 and len(np.unique(knots)) == knots.size
    constant = tf.fill((2, 2, 2, 1), -1.5)
    assert np.ptp(augment.curve(constant, SEED, Draw(1, 1), 5)) == 0


def test_gamma_keeps_the_range_of_each_channel(image):
    image = image * [1.0, 5.0] + [0.0, 2.0]
    low, high = image.numpy().min((0, 1, 2)), image.numpy().max((0, 1, 2))
    found = augment.gamma(image, SEED, Draw(2, 2)).numpy()
    np.testing.assert_allclose(
        found, ((image - low) / (high - low)) ** 2 * (high - low) + low, 1e-4, 1e-5
    )
    constant = tf.fill((2, 2, 2, 1), -1.5)
    np.testing.assert_array_equal(augment.gamma(constant, SEED, Draw(0.5, 0.5)), constant)


@pytest.mark.parametrize("sigma", [1.5, 3.0])
def test_blur_is_a_gaussian_in_mm(sigma):
    point = np.zeros((25, 31, 27, 2), np.float32)
    point[12, 15, 13] = [1, 2]
    found = augment.blur(tf.constant(point), SEED, Draw(sigma, sigma), SPACING).numpy()
    sigmas = [sigma / step for step in SPACING]
    expected = ndimage.gaussian_filter(point, [*sigmas, 0], truncate=8, mode="constant")
    np.testing.assert_allclose(found, expected, atol=2e-3 * expected.max())
    np.testing.assert_allclose(found.sum((0, 1, 2)), [1, 2], rtol=1e-3)


def test_blur_keeps_a_constant_to_the_border():
    constant = tf.fill((6, 7, 8, 1), 3.0)
    found = augment.blur(constant, SEED, Draw(2, 2), SPACING)
    np.testing.assert_allclose(found, constant, rtol=1e-5)
    np.testing.assert_allclose(augment.blur(constant, SEED, Draw(0, 0), SPACING), constant, 1e-5)


def test_low_resolution_averages_over_voxels_of_mm(rng):
    # Of 3 mm on 3, 1 and 1.5 mm: none, three and two voxels in one.
    fine = rng.normal(size=(4, 9, 8, 1)).astype(np.float32)
    coarse = fine.reshape(4, 3, 3, 4, 2, 1).mean((2, 4))
    found = augment.low_resolution(tf.constant(fine), SEED, Draw(3, 3), SPACING).numpy()
    # Centres of coarse voxels along y are voxels; along x they lie between two.
    between = (found[:, 1::3, 0::2] + found[:, 1::3, 1::2]) / 2
    middle = between[:, :, 1:-1] * 1.0
    smoothed = coarse[:, :, 1:-1] * 0.75 + (coarse[:, :, 2:] + coarse[:, :, :-2]) * 0.125
    np.testing.assert_allclose(middle, smoothed, atol=1e-5)
    np.testing.assert_allclose(found[:, :2, 0], np.repeat(found[:, :1, 0], 2, 1), atol=1e-5)


def test_low_resolution_leaves_coarser_axes_and_constants():
    fine = tf.random.normal((5, 6, 7, 1), seed=1)
    found = augment.low_resolution(fine, SEED, Draw(1, 1), SPACING)
    np.testing.assert_allclose(found, fine, atol=1e-6)
    constant = tf.fill((5, 6, 7, 1), 2.0)
    for edge in (3.0, 4.7):
        found = augment.low_resolution(constant, SEED, Draw(edge, edge), SPACING)
        np.testing.assert_allclose(found, constant, rtol=1e-5)


@pytest.mark.parametrize("name", OPS)
def test_seed_decides_eagerly_and_in_a_map(image, name):
    def change(number: tf.Tensor) -> tf.Tensor:
        return OPS[name](image, tf.stack([tf.constant(11, tf.int64), number]))

    in_graph = tf.data.Dataset.range(4).map(change)
    assert in_graph.element_spec.shape == image.shape
    found = list(in_graph.as_numpy_iterator())
    for number, one in enumerate(found):
        expected = change(tf.constant(number, tf.int64))
        np.testing.assert_allclose(one, expected, rtol=1e-5, atol=1e-6)
    assert not np.allclose(found[0], found[1])


def test_all_together_eagerly_and_in_a_map():
    patch = numbered()

    def change(number: tf.Tensor) -> dict[str, tf.Tensor]:
        seed = tf.stack([tf.constant(11, tf.int64), number])
        return augment.augment(patch, seed, ALL, SPACING, [0, 2, 1, 3])

    for number, found in enumerate(tf.data.Dataset.range(6).map(change)):
        expected = change(tf.constant(number, tf.int64))
        np.testing.assert_allclose(found["image"], expected["image"], rtol=1e-4, atol=1e-3)
        for key in ("labels", "annotated"):
            np.testing.assert_array_equal(found[key], expected[key])


def test_each_change_is_asked_for(image):
    patch = numbered() | {"image": image}
    for name in OPS:
        if name == "noise now and then":
            continue
        only = Augmentation(**{name: getattr(ALL, name)._replace(probability=1.0)})
        found = augment.augment(patch, SEED, only, SPACING, range(4))
        assert np.abs(found["image"] - image).max() > 1e-3, name
        np.testing.assert_array_equal(found["labels"], patch["labels"])


def test_nothing_drawn_changes_nothing(image):
    patch = numbered() | {"image": image}
    for settings in (augmentation.NONE, Augmentation(blur=OFF, noise=Draw(1, 2, 0.0))):
        for seed in seeds(3):
            found = augment.augment(patch, seed, settings, SPACING, range(4))
            for key in patch:
                np.testing.assert_array_equal(found[key], patch[key])


def test_probability(image):
    changed = [
        bool(tf.reduce_any(augment.noise(image, seed, Draw(1, 1, 0.3)) != image))
        for seed in seeds(200)
    ]
    # Four standard deviations of 200 draws.
    assert 0.17 < np.mean(changed) < 0.43
