"""Instance normalisation against Keras's group normalisation."""

import numpy as np
import pytest
import tensorflow as tf

from tl3d_keras.instance_normalization import InstanceNormalization


@pytest.mark.parametrize(
    "shape", [(1, 3, 4, 5, 8), (2, 3, 4, 5, 8), (3, 2, 2, 2, 3), (2, 1, 1, 1, 16)]
)
@pytest.mark.parametrize("static", [True, False])
def test_is_that_of_keras(shape, static, rng):
    image, upstream = (tf.constant(rng.normal(2.0, 3.0, shape), tf.float32) for _ in "ab")
    ours, theirs = InstanceNormalization(), tf.keras.layers.GroupNormalization(groups=-1)
    weights = [rng.normal(size=shape[-1]).astype("f") for _ in range(2)]
    results = []
    for layer in (ours, theirs):
        layer.build(shape)
        layer.set_weights(weights)

        def call(image, layer=layer):
            with tf.GradientTape() as tape:
                tape.watch(image)
                output = layer(image)
            return output, *tape.gradient(output, [image, *layer.trainable_weights], upstream)

        if not static:
            spec = tf.TensorSpec([None, None, None, None, shape[-1]])
            call = tf.function(call, input_signature=[spec])
        results.append(call(image))
    for found, expected in zip(*results, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("batch", [1, 2])
def test_statistics_of_half_precision_are_in_float32(precision, batch, rng):
    image = tf.cast(rng.normal(3.0, 1.0, (batch, 16, 16, 16, 8)), precision.removeprefix("mixed_"))
    exact = InstanceNormalization()(tf.cast(image, tf.float32))
    half = InstanceNormalization(dtype=precision)(image)
    assert half.dtype == image.dtype
    np.testing.assert_allclose(tf.cast(half, tf.float32), exact, atol=0.02)
    np.testing.assert_allclose(tf.reduce_mean(tf.cast(half, tf.float32), [1, 2, 3]), 0, atol=1e-3)
