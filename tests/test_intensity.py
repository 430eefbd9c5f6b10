"""Windows and z-scores by hand, and which of them is proposed for what."""

import numpy as np
import pytest
import tensorflow as tf

from tl3d_keras.errors import InputError
from tl3d_keras.intensity import Intensity


def volume(*values) -> tf.Tensor:
    return tf.reshape(tf.constant(values, tf.float32), [1, 1, -1, 1])


def test_window_by_hand():
    settings = Intensity("window", (-160.0,), (240.0,))
    found = settings.normalise(volume(-1000, -160, -60, 40, 240, 900))
    np.testing.assert_allclose(tf.reshape(found, [-1]), [-1, -1, -0.5, 0, 1, 1], atol=1e-6)


def test_window_of_each_channel():
    image = tf.constant([[-160.0, 0.0], [40.0, 5.0], [240.0, 99.0]])[tf.newaxis, tf.newaxis]
    found = Intensity("window", (-160.0, 0.0), (240.0, 10.0)).normalise(image)
    np.testing.assert_allclose(found[0, 0], [[-1, -1], [0, 0], [1, 1]], atol=1e-6)


def test_zscore_by_hand():
    found = Intensity("zscore").normalise(volume(2, 4, 4, 4, 5, 5, 7, 9))
    np.testing.assert_allclose(
        tf.reshape(found, [-1]), [-1.5, -0.5, -0.5, -0.5, 0, 0, 1, 2], atol=1e-6
    )


def test_zscore_of_each_volume_and_channel(rng):
    image = rng.normal([5, -300], [2, 70], (3, 4, 5, 6, 2)).astype(np.float32)
    image[1] += 50
    found = Intensity("zscore").normalise(tf.constant(image)).numpy()
    np.testing.assert_allclose(found.mean(axis=(1, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(found.std(axis=(1, 2, 3)), 1, atol=1e-4)


@pytest.mark.parametrize("value", [0.0, 7.0, 1000.1, -2048.3])
def test_constant_channel_becomes_zero(value):
    image = tf.concat([tf.fill([24, 24, 24, 1], value), tf.random.normal([24, 24, 24, 1])], -1)
    found = Intensity("zscore").normalise(image).numpy()
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(found[..., 0], 0)
    assert found[..., 1].std() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("settings", [Intensity("zscore"), Intensity("window", (0.0,), (50.0,))])
def test_parts_with_the_coefficients_of_the_whole(settings, rng):
    image = tf.constant(rng.normal(20, 30, (6, 5, 4, 1)).astype(np.float32))
    scale, shift = settings.coefficients(image)
    part = settings.apply(image[1:3, :2], scale, shift)
    np.testing.assert_allclose(part, settings.normalise(image)[1:3, :2], atol=1e-6)
    graph = tf.function(settings.normalise)(image)
    np.testing.assert_allclose(graph, settings.normalise(image), atol=1e-6)


@pytest.mark.parametrize(
    "settings", [Intensity("zscore"), Intensity("window", (-160.0, 0.0), (240.0, 10.0))]
)
def test_json_round_trip(settings):
    assert Intensity.from_json(settings.to_json()) == settings


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("minmax",), "expected an intensity mode of window, zscore, found 'minmax'"),
        (("window",), "expected a finite window low < high for each channel"),
        (
            ("window", (1.0,), (1.0,)),
            r"expected a finite window .* found low \(1.0,\) and high \(1.0,\)",
        ),
        (("window", (-np.inf,), (400.0,)), r"expected a finite window .* found low \(-inf,\)"),
        (("window", (0.0,), (np.inf,)), r"expected a finite window .* high \(inf,\)"),
        (("window", (1.0, 2.0), (3.0,)), "expected a finite window low < high for each channel"),
    ],
)
def test_settings_that_cannot_be_used(arguments, message):
    with pytest.raises(InputError, match=message):
        Intensity(*arguments)


@pytest.mark.parametrize(
    "intensity", [Intensity("zscore"), Intensity("window", (-50.0, 0.0), (50.0, 9.0))]
)
def test_coefficients_from_statistics_are_those_of_the_volume(rng, intensity):
    image = rng.normal(5, 30, (4, 5, 6, 2)).astype(np.float32)
    image[..., 1] = 7
    statistics = [
        {"mean": c.mean(), "std": c.std(), "minimum": c.min(), "maximum": c.max()}
        for c in np.moveaxis(image, -1, 0)
    ]
    expected = intensity.coefficients(tf.constant(image))
    for found, one in zip(intensity.coefficients_of(statistics), expected, strict=True):
        assert found.shape == (2,) and found.dtype == np.float32
        np.testing.assert_allclose(found, np.squeeze(one), rtol=1e-5)
