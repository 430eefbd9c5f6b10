"""The authors' weights file: layer order, channels-first kernels, background moved to the front."""

import tarfile
from pathlib import Path

import h5py
import helpers
import numpy as np
import pytest
import tensorflow as tf

from experiments import export
from tl3d_keras import artifact, base_file, paper, published, transfer
from tl3d_keras.errors import InputError
from tl3d_keras.intensity import Intensity
from tl3d_keras.unet3d import UNet3D, base_model, named_weights


@pytest.fixture
def arrays():
    """Kernel and bias of each layer in the file's order, background last in the last one."""
    rng = np.random.default_rng(0)
    weights = named_weights(UNet3D())
    names = [name.removesuffix("/kernel") for name in weights if name.endswith("/kernel")]
    return [
        (
            name,
            0.02 * rng.normal(size=weights[f"{name}/kernel"].shape).astype("f"),
            rng.normal(scale=0.05, size=weights[f"{name}/bias"].shape).astype("f"),
        )
        for name in names
    ]


def write(path, arrays):
    """An `.h5` as Keras 2 saves a whole model, with layers that have no weights in between."""
    with h5py.File(path, "w") as file:
        group = file.create_group("model_weights")
        layers = []
        for i, (_, kernel, bias) in enumerate(arrays):
            for name, values in ((f"conv3d_{i}", (kernel, bias)), (f"max_pooling3d_{i}", ())):
                layers.append(name.encode())
                layer = group.create_group(name)
                stored = [
                    f"{name}/{part}:0" for part, _ in zip(("kernel", "bias"), values, strict=False)
                ]
                layer.attrs["weight_names"] = [s.encode() for s in stored]
                for s, value in zip(stored, values, strict=True):
                    layer.create_dataset(s, data=value)
        group.attrs["layer_names"] = layers
    return str(path)


def test_reads_the_published_layout(tmp_path, arrays):
    network = base_model(weights=write(tmp_path / "weights.h5", arrays))
    expected = UNet3D()
    for name, kernel, bias in arrays:
        named_weights(expected)[f"{name}/kernel"].assign(kernel)
        named_weights(expected)[f"{name}/bias"].assign(bias)
    image = np.random.default_rng(1).normal(scale=200, size=(1, 92, 92, 92, 1)).astype("f")
    found, background_last = network(image).numpy(), expected(image).numpy()
    np.testing.assert_allclose(found[..., 1:], background_last[..., :-1], atol=1e-6)
    np.testing.assert_allclose(found[..., 0], background_last[..., -1], atol=1e-6)
    assert np.ptp(found, axis=(1, 2, 3)).max() > 0.01


def theirs(levels=2, filters=2, classes=4):
    """The network of the authors' code, channels first, by the layers of either Keras."""
    layers, order = tf.keras.layers, {"data_format": "channels_first"}
    x = inputs = tf.keras.Input((1, None, None, None))

    def convolved(x, *widths):
        for width in widths:
            x = layers.Conv3D(width, 3, activation="relu", **order)(x)
        return x

    skips = []
    for level in range(levels):
        x = convolved(x, filters * 2**level, filters * 2 ** (level + 1))
        skips.append(x)
        x = layers.MaxPooling3D(2, **order)(x) if level < levels - 1 else x
    for level in reversed(range(levels - 1)):
        width = filters * 2 ** (level + 1)
        crop = layers.Cropping3D(6 * 2 ** (levels - 1 - level) - 8, **order)(skips[level])
        x = layers.Concatenate(axis=1)([layers.UpSampling3D(2, **order)(x), crop])
        x = convolved(x, width, width)
    x = layers.Conv3D(classes, 1, name="output_segm", **order)(x)
    return tf.keras.Model(inputs, layers.Softmax(axis=1)(x))


def probabilities(model, image):
    """Background first and channels last, from a channels-first image with background last."""
    # Where Keras 3 sees an axis as long as there are filters it takes that for the channels.
    shape = [None, image.shape[-1], None, None, None]
    run = tf.function(
        model, autograph=False, jit_compile=True, input_signature=[tf.TensorSpec(shape)]
    )
    return np.roll(np.moveaxis(run(np.moveaxis(image, -1, 1)).numpy(), 1, -1), 1, axis=-1)


@pytest.fixture
def kept(tmp_path):
    """What `keras2_models` has written."""
    with tarfile.open(Path(__file__).parent / "keras2_models.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    with np.load(tmp_path / "published.npz") as arrays:
        image, found = (np.moveaxis(arrays[name], 1, -1) for name in ("in_0", "out_0"))
    return str(tmp_path / "published.h5"), image, np.roll(found, 1, axis=-1)


def test_a_file_of_keras_2_gives_equal_outputs(kept):
    path, image, expected = kept
    network = base_model(4, 2, 2, weights=path)
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(network(image), expected, atol=1e-5)


def test_a_file_of_keras_2_starts_a_transfer(kept):
    path, image, expected = kept
    network, info = base_file.load(path)
    assert info.intensity == Intensity("window", (-500.0,), (400.0,))
    assert network.get_config()["structures"] is None and network.geometry.padding == "valid"
    np.testing.assert_allclose(network(info.intensity.normalise(image)), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("levels", "window"), [(1, None), (2, (-100.0, 300.0)), (3, (-500.0, 400.0))]
)
def test_ours_goes_back_to_such_a_file(tmp_path, levels, window):
    network = UNet3D(num_classes=4, filters=2, levels=levels)
    for name, variable in named_weights(network).items():
        if name.endswith("bias"):
            variable.assign(tf.random.stateless_normal(variable.shape, (0, 1)))
    intensity = Intensity("window", *((end,) for end in window)) if window else Intensity("zscore")
    size = network.geometry.input_size(4)
    image = np.random.default_rng(0).normal(size=(1, size, size, size, 1)).astype("f")
    expected = network(image).numpy()
    if window:
        # To raw intensities within the window, which is what the file's network takes.
        image = np.clip(image, -1, 1)
        expected = network(image).numpy()
        image = (image * (window[1] - window[0]) + window[1] + window[0]) / 2
    published.save(network, intensity, tmp_path / "ours.h5")
    model = theirs(levels)
    model.load_weights(str(tmp_path / "ours.h5"))
    np.testing.assert_allclose(probabilities(model, image), expected, atol=1e-5)
    again = base_model(4, 2, levels, weights=str(tmp_path / "ours.h5"))
    np.testing.assert_allclose(again(image), expected, atol=1e-5)
    assert np.ptp(expected) > 0.1
    if window == paper.WINDOW:
        helpers.assert_equal_weights(base_file.load(tmp_path / "ours.h5").network, network, 1e-5)


def test_the_export_command_writes_it(tmp_path, command, capsys):
    network = helpers.network(padding="valid")
    folder = artifact.save(network, helpers.info(), tmp_path / "model")
    command(export, model=folder, output_dir=tmp_path / "out", format="published_h5")
    assert capsys.readouterr().out.startswith(f"{tmp_path}/out/unet3d.h5: ")
    assert published.is_published(tmp_path / "out" / "unet3d.h5")
    with pytest.raises(InputError, match="unet3d.h5: expected a new file, found one"):
        command(export, model=folder, output_dir=tmp_path / "out", format="published_h5")
    with pytest.raises(InputError, match="found same padding and normalization None"):
        published.save(helpers.network(), helpers.WINDOW, tmp_path / "same.h5")
    assert not (tmp_path / "same.h5").exists()


def test_the_papers_file_starts_a_transfer_by_its_names(tmp_path, arrays):
    network, info = base_file.load(write(tmp_path / "weights.h5", arrays))
    assert info.structures == network.structures == paper.STRUCTURES
    assert info.intensity == Intensity("window", (-500.0,), (400.0,))
    _, origins = transfer.transfer_model(network, ["liver", "colon"])
    assert origins["head"] == "copied 2 of 3"


def test_what_does_not_fit_is_named(tmp_path, arrays):
    with pytest.raises(InputError, match="expected 15 layers with weights, found 14"):
        published.load_weights(UNet3D(), write(tmp_path / "short.h5", arrays[1:]))
    swapped = [arrays[1], arrays[0], *arrays[2:]]
    with pytest.raises(InputError, match=r"for layer conv3d_0 \(encoder_0_conv_0\), found"):
        published.load_weights(UNet3D(), write(tmp_path / "swapped.h5", swapped))
    with pytest.raises(InputError, match="none.h5: no such file"):
        base_model(weights=str(tmp_path / "none.h5"))
