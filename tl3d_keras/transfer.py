"""From a base model to a new task: a head by structure name, and input channels."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tl3d_keras.errors import InputError
from tl3d_keras.unet3d import HEAD, UNet3D, named_weights

MODES = ("scratch", "transfer", "finetune", "adapter")
HEADS = ("by_name", "fresh")


class LayerRow(NamedTuple):
    """A line of the transfer table.

    Attributes:
        layer: its name.
        parameters: how many weights it has.
        origin: "copied", "new", or what of both.
        frozen: whether the first stage leaves it as it is.
    """

    layer: str
    parameters: int
    origin: str
    frozen: bool


def transfer_model(
    base: UNet3D,
    structures: Sequence[str],
    input_channels: int | None = None,
    head: str = "by_name",
    dtype: str | None = None,
) -> tuple[UNet3D, dict[str, str]]:
    """Makes a network for other structures or channels from a base network's weights.

    Args:
        base: the network to start from.
        structures: names of the new output channels 1..K.
        input_channels: of the new task; None keeps the base's. For another number, each new
            channel gets the mean of the base's kernels over its channels, scaled so that equal
            channels give the base's response.
        head: "by_name" copies background and the structures that the base has by name and draws
            the rest; "fresh" draws all.
        dtype: a Keras policy for the layers.

    Returns:
        The network, and by layer name where its weights come from: "copied", "new", or e.g.
        "copied 2 of 5" for the head.

    Raises:
        InputError: an unknown `head`.
    """
    if head not in HEADS:
        raise InputError(f"expected a head of {', '.join(HEADS)}, found {head!r}")
    config = base.get_config()
    channels = input_channels or config["input_channels"]
    network = base.rebuilt(
        num_classes=len(structures) + 1,
        structures=list(structures),
        input_channels=channels,
        dtype=dtype,
    )
    origins = {layer.name: "copied" for layer in network.layers if layer.weights}
    old, new = named_weights(base), named_weights(network)
    if channels != config["input_channels"]:
        stem = "encoder_0_conv_0/kernel"
        mean = tf.reduce_mean(old[stem], axis=3, keepdims=True)
        new[stem].assign(tf.repeat(mean, channels, axis=3) * (config["input_channels"] / channels))
        origins["encoder_0_conv_0"] = (
            f"{config['input_channels']} -> {channels} channels by their mean"
        )
    origins[HEAD] = _fill_head(base, network, structures, head)
    return network, origins


def _fill_head(base: UNet3D, network: UNet3D, structures: Sequence[str], head: str) -> str:
    """Draws a new head and copies the shared rows; returns where it comes from."""
    names = {f"{HEAD}/kernel", f"{HEAD}/bias"}
    fresh = UNet3D(**{**network.get_config(), "name": "fresh"})
    drawn, old, new = (named_weights(n) for n in (fresh, base, network))
    old_classes = ["background", *base.structures]
    new_classes = ["background", *structures]
    shared = (
        [(i, old_classes.index(name)) for i, name in enumerate(new_classes) if name in old_classes]
        if head == "by_name"
        else []
    )
    for name in names:
        values, source = drawn[name].numpy(), old[name].numpy()
        for to, of in shared:
            values[..., to] = source[..., of]
        new[name].assign(values)
    if len(shared) == len(new_classes):
        return "copied"
    return f"copied {len(shared)} of {len(new_classes)}" if shared else "new"


def layer_table(
    network: tf.keras.Model, origins: dict[str, str], frozen: Sequence[str]
) -> list[LayerRow]:
    """One row a layer with weights, in the network's order."""
    return [
        LayerRow(
            layer.name,
            int(sum(np.prod(w.shape) for w in layer.weights)),
            origins.get(layer.name, "new"),
            layer.name in frozen,
        )
        for layer in network.layers
        if layer.weights
    ]
