"""Whether any Keras model computes what a `UNet3D` does, and the `UNet3D` with its weights."""

import os
from typing import Any

import numpy as np
import tensorflow as tf

from tl3d_keras.errors import InputError
from tl3d_keras.unet3d import UNet3D, named_weights

_TOLERANCE = 1e-4


def as_unet3d(model: tf.keras.Model, path: str | os.PathLike) -> UNet3D:
    """The `UNet3D` with a model's weights, if the model computes what that does.

    Layers are taken in their order. Whether the two are one is tried on a random image.

    Args:
        model: with any layer names, channels first or last.
        path: the file that it came from, for messages.

    Raises:
        InputError: another architecture.
    """
    config = _unet_config(model, path)
    network = UNet3D(**config)
    weights = [w for layer in model.layers for w in layer.get_weights()]
    variables = list(named_weights(network).values())
    found, expected = ([tuple(w.shape) for w in ws] for ws in (weights, variables))
    if found != expected:
        first = next((i for i, (a, b) in enumerate(zip(found, expected)) if a != b), -1)  # noqa: B905
        where = (
            f"the shape {found[first]} instead of {expected[first]}"
            if first >= 0
            else f"{len(found)} weights instead of {len(expected)}"
        )
        raise _other_architecture(path, where)
    for variable, value in zip(variables, weights, strict=True):
        variable.assign(value)
    difference = _difference(model, network)
    if not difference <= _TOLERANCE:
        raise _other_architecture(path, f"probabilities that differ by {difference:.1e}")
    return network


def _unet_config(model: tf.keras.Model, path: str | os.PathLike) -> dict[str, Any]:
    """The configuration of the `UNet3D` that has as many convolutions and the like widths."""
    convolutions = [layer for layer in model.layers if type(layer).__name__ == "Conv3D"]
    # Two a level and way, one way at the coarsest level, and the head.
    if len(convolutions) < 3 or len(convolutions) % 4 != 3:
        raise _other_architecture(path, f"{len(convolutions)} convolutions of three dimensions")
    norms = [layer for layer in model.layers if type(layer).__name__ == "GroupNormalization"]
    first, head = (layer.get_weights()[0] for layer in (convolutions[0], convolutions[-1]))
    normalization = None
    if norms:
        widths = [norm.get_weights()[0].shape[0] for norm in norms if norm.weights]
        each = [norm.groups for norm in norms] == widths
        normalization = "instance" if each else "group"
    return {
        "num_classes": head.shape[-1],
        "filters": first.shape[-1],
        "levels": (len(convolutions) + 1) // 4,
        "input_channels": first.shape[-2],
        "padding": convolutions[0].padding,
        "normalization": normalization,
    }


def _difference(model: tf.keras.Model, network: UNet3D) -> float:
    """The largest difference of a probability on a random image."""
    channels_first = any(type(layer).__name__ == "Permute" for layer in model.layers)
    shape = list(model.input_shape[1:])
    channels = shape.pop(0 if channels_first else -1)
    least = network.geometry.input_size(1)
    sizes = [n or least for n in shape]
    image = np.random.default_rng(0).normal(size=(1, *sizes, channels)).astype(np.float32)
    try:
        for size in sizes:
            network.geometry.output_size(size)
        if channels_first:
            found = np.moveaxis(model(np.moveaxis(image, -1, 1), training=False).numpy(), 1, -1)
        else:
            found = model(image, training=False).numpy()
        expected = network(image, training=False).numpy()
    except (ValueError, tf.errors.OpError):
        return np.inf
    return float(np.abs(found - expected).max()) if found.shape == expected.shape else np.inf


def _other_architecture(path: str | os.PathLike, found: str) -> InputError:
    return InputError(f"{path}: expected the layers of a UNet3D in their order, found {found}")
