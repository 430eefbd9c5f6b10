"""Convolutions against Keras's own layers: values, gradients, half precision."""

import numpy as np
import pytest
import tensorflow as tf

from tl3d_keras.convolutions import BiasedConv3D, JoinedConv3D


def values_and_gradients(call, inputs, weights, upstream):
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        output = call(inputs)
    return [output, *tape.gradient(output, [*inputs, *weights], upstream[: output.shape[0]])]


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("activation", [None, "relu"])
def test_joined_is_that_of_the_doubled_and_concatenated(padding, activation, rng):
    inputs = [
        tf.constant(rng.normal(size=(2, *size, channels)), tf.float32)
        for size, channels in (((2, 3, 4), 3), ((4, 6, 8), 2))
    ]
    layers = tf.keras.layers
    ours = JoinedConv3D(5, padding, activation)
    plain = layers.Conv3D(5, 3, padding=padding, activation=activation)
    ours(inputs)
    plain.build((None, None, None, None, 5))
    weights = [rng.normal(size=w.shape).astype("f") for w in plain.get_weights()]
    ours.set_weights(weights)
    plain.set_weights(weights)

    def theirs(inputs):
        return plain(layers.Concatenate()([layers.UpSampling3D(2)(inputs[0]), inputs[1]]))

    lost = 2 if padding == "valid" else 0
    shape = (2, *(n - lost for n in (4, 6, 8)), 5)
    assert ours.compute_output_shape([i.shape for i in inputs]) == shape
    upstream = tf.constant(rng.normal(size=shape), tf.float32)
    found, expected = (
        values_and_gradients(call, inputs, layer.trainable_weights, upstream)
        for call, layer in ((ours, ours), (theirs, plain))
    )
    for ours_is, theirs_is in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours_is, theirs_is, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("kind", ["plain", "joined"])
def test_bias_gradients_in_half_precision(kind, rng):
    shape = (1, 32, 32, 32, 2)
    image = tf.constant(rng.normal(size=shape), tf.bfloat16)
    if kind == "plain":
        layer, inputs = BiasedConv3D(4, 3, padding="same", dtype="mixed_bfloat16"), image
    else:
        layer, inputs = (
            JoinedConv3D(4, "same", dtype="mixed_bfloat16"),
            [image[:, ::2, ::2, ::2], image],
        )
    # As of a loss that is a mean over voxels, every one wanting the bias up a little.
    upstream = rng.uniform(0, 1e-4, size=(*shape[:-1], 4))
    with tf.GradientTape() as tape:
        output = layer(inputs)
    found = tape.gradient(output, layer.trainable_weights[1], tf.cast(upstream, output.dtype))
    np.testing.assert_allclose(found, upstream.sum(axis=(0, 1, 2, 3)), rtol=0.01)


@pytest.mark.parametrize("kind", ["plain", "joined"])
@pytest.mark.parametrize("known", [True, False])
def test_kernel_gradients_of_two_slices_in_half_precision(kind, known, rng):
    """TensorFlow's own are memory as it was found."""
    skip = tf.constant(rng.normal(size=(2, 2, 6, 6, 8)), tf.float32)
    coarse = tf.constant(rng.normal(size=(2, 1, 3, 3, 8)), tf.float32)
    inputs = skip if kind == "plain" else [coarse, skip]
    signature = tf.nest.map_structure(
        lambda x: tf.TensorSpec(x.shape if known else [None, None, None, None, 8]), inputs
    )
    gradients = []
    for dtype in ("float32", "mixed_bfloat16"):
        layer = (
            BiasedConv3D(8, 3, padding="same", dtype=dtype)
            if kind == "plain"
            else JoinedConv3D(8, "same", dtype=dtype)
        )
        layer(tf.nest.map_structure(lambda x, d=layer.compute_dtype: tf.cast(x, d), inputs))
        start = np.random.default_rng(0)
        layer.set_weights([start.normal(size=w.shape) for w in layer.get_weights()])

        @tf.function(input_signature=[signature], autograph=False)
        def gradient(inputs, layer=layer):
            inputs = tf.nest.map_structure(lambda x: tf.cast(x, layer.compute_dtype), inputs)
            with tf.GradientTape() as tape:
                mean = tf.reduce_mean(tf.cast(layer(inputs), tf.float32) ** 2)
            return tape.gradient(mean, layer.trainable_weights[0])

        # What is found may be right by accident.
        gradients.append([gradient(inputs).numpy() for _ in range(4)])
    expected = gradients[0][0]
    for found in gradients[1]:
        assert np.linalg.norm(found - expected) < 0.02 * np.linalg.norm(expected)
