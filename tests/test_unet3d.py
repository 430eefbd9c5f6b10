"""The network: the paper's size, geometry, names, dynamic shape, configuration round trip."""

import numpy as np
import pytest
import tensorflow as tf

import tl3d_keras
from tl3d_keras.errors import InputError
from tl3d_keras.unet3d import Geometry, UNet3D, base_model, named_weights


def test_defaults_are_the_papers():
    network = base_model()
    assert network.count_params() == 16_317_015
    assert network.geometry.output_size(132) == 44
    assert network.input_shape == (None, None, None, None, 1)
    assert network.output_shape[-1] == 23
    assert tl3d_keras.base_model is base_model


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("levels", [1, 2, 3, 4, 5])
def test_geometry_is_that_of_the_network(padding, levels):
    geometry = Geometry(levels, padding)
    network = UNet3D(num_classes=2, filters=1, levels=levels, padding=padding)
    sizes = [geometry.input_size(1), geometry.input_size(1) + geometry.stride]
    output = network(tf.zeros((1, sizes[0], sizes[1], sizes[0], 1)))
    assert output.shape[1:4] == tuple(geometry.output_size(sizes[i]) for i in (0, 1, 0))


@pytest.mark.parametrize(
    ("levels", "padding", "fitting", "not_fitting"),
    [
        (4, "valid", [92, 100, 108, 132, 156], [88, 91, 96, 131, 133]),
        (4, "same", [8, 16, 132 // 8 * 8], [0, 4, 132]),
        (1, "valid", [5, 6, 7], [4]),
    ],
)
def test_input_sizes(levels, padding, fitting, not_fitting):
    geometry = Geometry(levels, padding)
    assert all(geometry.is_input_size(n) for n in fitting)
    assert not any(geometry.is_input_size(n) for n in not_fitting)


def test_wrong_input_size_names_the_nearest():
    with pytest.raises(InputError, match="such as 124, 132, 140 for valid .* found 131"):
        Geometry(4, "valid").output_size(131)


@pytest.mark.parametrize("padding", ["valid", "same"])
def test_reach_is_how_far_the_input_matters(padding):
    network = UNet3D(num_classes=2, filters=2, levels=3, padding=padding)
    geometry = network.geometry
    # Positive weights and inputs let every rectifier pass.
    for variable in named_weights(network).values():
        variable.assign(tf.abs(variable))
    size = 2 * geometry.reach + 8 * geometry.stride
    size = geometry.input_size(size - 2 * geometry.margin)
    image = tf.Variable(tf.random.stateless_uniform((1, size, size, size, 1), (0, 1)))
    middle = size // 2 // geometry.stride * geometry.stride
    farthest = 0
    # Every position within the stride, for pooling makes the reach depend on it.
    for at in range(middle, middle + geometry.stride):
        with tf.GradientTape() as tape:
            value = network.logits(image)[
                0, at - geometry.margin, at - geometry.margin, at - geometry.margin, 0
            ]
        gradient = tape.gradient(value, image).numpy()[0, :, :, :, 0]
        reached = np.flatnonzero(np.abs(gradient).sum(axis=(1, 2)))
        assert reached.size
        farthest = max(farthest, at - reached.min(), reached.max() - at)
    assert geometry.reach - geometry.stride < farthest <= geometry.reach


def test_same_padding_and_precisions_share_the_weights():
    valid = base_model(3, filters=2)
    same = valid.rebuilt(padding="same", dtype="mixed_bfloat16")
    for name, variable in named_weights(valid).items():
        np.testing.assert_array_equal(variable, named_weights(same)[name])
        assert named_weights(same)[name].dtype == tf.float32
    assert same(tf.zeros((1, 8, 8, 8, 1))).dtype == tf.float32


def test_layer_names():
    names = [layer.name for layer in base_model(2, filters=1, levels=2).layers if layer.weights]
    assert names == [
        "encoder_0_conv_0",
        "encoder_0_conv_1",
        "encoder_1_conv_0",
        "encoder_1_conv_1",
        "decoder_0_conv_0",
        "decoder_0_conv_1",
        "head",
    ]
    assert list(named_weights(base_model(2, filters=1, levels=1))) == [
        "encoder_0_conv_0/kernel",
        "encoder_0_conv_0/bias",
        "encoder_0_conv_1/kernel",
        "encoder_0_conv_1/bias",
        "head/kernel",
        "head/bias",
    ]


@pytest.mark.parametrize("normalization", [None, "group", "instance"])
def test_trunk_and_head_apart(normalization):
    network = base_model(3, filters=2, padding="same", normalization=normalization)
    image = tf.random.stateless_normal((1, 16, 8, 24, 1), (0, 1))
    features = network.trunk(image)
    assert [tuple(f.shape[1:]) for f in features] == [
        (2, 1, 3, 32),
        (4, 2, 6, 16),
        (8, 4, 12, 8),
        (16, 8, 24, 4),
    ]
    kernel, bias = (named_weights(network)[f"head/{n}"] for n in ("kernel", "bias"))
    expected = tf.nn.softmax(features[-1] @ kernel[0, 0, 0] + bias)
    np.testing.assert_allclose(network(image), expected, atol=1e-6)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"normalization": "group", "filters": 8, "padding": "same", "structures": ["a", "b"]},
        {"input_channels": 2, "levels": 2, "dtype": "mixed_bfloat16"},
    ],
)
def test_configuration_and_keras_file_round_trip(arguments, tmp_path):
    network = UNet3D(**{"num_classes": 3, "filters": 2, **arguments})
    clone = UNet3D.from_config(network.get_config())
    assert clone.get_config() == network.get_config()
    network.save(tmp_path / "model.keras")
    loaded = tf.keras.models.load_model(tmp_path / "model.keras")
    assert isinstance(loaded, UNet3D)
    assert loaded.get_config() == network.get_config()
    size = network.geometry.input_size(1)
    image = tf.random.stateless_normal(
        (1, size, size, size, arguments.get("input_channels", 1)), (0, 1)
    )
    # In bfloat16 the processor's kernels differ from call to call.
    exact = (model.rebuilt(dtype="float32")(image) for model in (loaded, network))
    np.testing.assert_array_equal(*exact)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"num_classes": 1}, "expected num_classes of at least 2, found 1"),
        ({"num_classes": 256}, "expected num_classes of at most 255, .* found 256"),
        ({"padding": "full"}, "expected padding of valid, same, found 'full'"),
        ({"normalization": "batch"}, "found 'batch'"),
        ({"filters": 12, "normalization": "group"}, "divisible by 8"),
        ({"num_classes": "3"}, "expected a whole number as num_classes, found '3'"),
        ({"filters": 2.5}, "expected a whole number as filters, found 2.5"),
        ({"structures": "ab", "num_classes": 3}, "expected a list of names as structures"),
        ({"structures": ["a", "a"], "num_classes": 3}, "different names, found a twice"),
        ({"structures": ["background"], "num_classes": 2}, "found background twice"),
        ({"structures": ["a"]}, "expected 22 structure names for 23 classes, found 1"),
    ],
)
def test_wrong_arguments(wrong, message):
    with pytest.raises(InputError, match=message):
        base_model(**wrong)


@pytest.mark.parametrize(
    ("padding", "shape", "message"),
    [
        ("same", (1, 1, 8, 8, 8), r"\[N, Z, Y, X, 1\], channels last, found .*np.moveaxis"),
        (
            "same",
            (1, 8, 7, 8, 1),
            "expected an input size such as 4, 6, 8 .* found 7",
        ),
        ("valid", (1, 4, 4, 4, 1), "expected an input size such as 18, .* 2 levels, found 4"),
        ("valid", (1, 21, 20, 20, 1), "expected an input size such as 18, 20, 22 .* found 21"),
    ],
)
def test_images_that_do_not_fit_are_refused_before_any_layer(padding, shape, message):
    network = UNet3D(2, 2, 2, padding=padding)
    with pytest.raises(InputError, match=message):
        network(np.zeros(shape, "float32"))
    # Keras 2 puts where it was in front of it, in an error of TensorFlow's.
    with pytest.raises(Exception, match=message):
        network.predict_on_batch(np.zeros(shape, "float32"))
