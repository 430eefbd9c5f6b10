"""The authors' weights file: layer order, channels-first kernels, background moved to the front."""

import h5py
import numpy as np
import pytest

from tl3d_keras import published
from tl3d_keras.errors import InputError
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


def test_what_does_not_fit_is_named(tmp_path, arrays):
    with pytest.raises(InputError, match="expected 15 layers with weights, found 14"):
        published.load_weights(UNet3D(), write(tmp_path / "short.h5", arrays[1:]))
    swapped = [arrays[1], arrays[0], *arrays[2:]]
    with pytest.raises(InputError, match=r"for layer conv3d_0 \(encoder_0_conv_0\), found"):
        published.load_weights(UNet3D(), write(tmp_path / "swapped.h5", swapped))
    with pytest.raises(InputError, match="none.h5: cannot read Keras weights"):
        base_model(weights=str(tmp_path / "none.h5"))
