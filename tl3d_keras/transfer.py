"""From a base model to a new task: a head by structure name, and input channels."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tl3d_keras import weight_surgery
from tl3d_keras.errors import InputError
from tl3d_keras.unet3d import HEAD, UNet3D
from tl3d_keras.weight_surgery import NEW

MODES = ("scratch", "transfer", "finetune", "adapter")
HEADS = ("by_name", "fresh")
ARCHITECTURE = ("filters", "levels", "padding", "normalization")


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
    input_channels_by: str = "mean",
    channel_names: tuple[Sequence[str], Sequence[str]] | None = None,
    architecture: Mapping[str, Any] | None = None,
) -> tuple[UNet3D, dict[str, str]]:
    """Makes a network for other structures, channels or of another size from a base's weights.

    Args:
        base: the network to start from.
        structures: names of the new output channels 1..K.
        input_channels: of the new task; None keeps the base's.
        head: "by_name" copies background and the structures that the base has by name and draws
            the rest; "fresh" draws all.
        dtype: a Keras policy for the layers.
        input_channels_by: how another number of channels starts, "mean", "copy" or "zero"; see
            `weight_surgery.inflate`.
        channel_names: of the base's and of the new channels, which then belong together by name;
            None: by position.
        architecture: `filters`, `levels`, `padding` or `normalization` where they are not the
            base's. Layers that do not fit then are drawn.

    Returns:
        The network, and by layer name where its weights come from: "copied", "new" and why, or e.g.
        "copied 2 of 5" for the head. Layers that only the base has are "unused".

    Raises:
        InputError: `base` is no `UNet3D`, or an argument is none of those named above.
    """
    if not isinstance(base, UNet3D):
        raise InputError(
            f"expected a network of base_model or load as base, found a {type(base).__name__}"
        )
    if isinstance(structures, str) or not structures:
        raise InputError(f"expected a list of names as structures, found {structures!r}")
    check_architecture(architecture or {})
    if head not in HEADS:
        raise InputError(f"expected a head of {', '.join(HEADS)}, found {head!r}")
    config = base.get_config()
    channels = input_channels or config["input_channels"]
    network = UNet3D(
        **config
        | dict(architecture or {})
        | {
            "num_classes": len(structures) + 1,
            "structures": list(structures),
            "input_channels": channels,
            "dtype": dtype,
        }
    )
    names = channel_names or (
        [str(i) for i in range(config["input_channels"])],
        [str(i) for i in range(channels)],
    )
    sources = weight_surgery.channel_sources(*names)
    origins = weight_surgery.copy_trunk(base, network)
    origins[weight_surgery.STEM] = weight_surgery.fill_stem(
        base, network, sources, input_channels_by
    )
    origins[HEAD] = weight_surgery.fill_head(base, network) if head == "by_name" else NEW
    return network, origins


def layer_table(
    network: tf.keras.Model, origins: Mapping[str, str], frozen: Sequence[str]
) -> list[LayerRow]:
    """One row a layer with weights, in the network's order."""
    return [
        LayerRow(
            layer.name,
            int(sum(np.prod(w.shape) for w in layer.weights)),
            origins.get(layer.name, NEW),
            layer.name in frozen,
        )
        for layer in network.layers
        if layer.weights
    ]


def check_architecture(architecture: Mapping[str, Any]) -> None:
    """Raises an `InputError` for anything but `ARCHITECTURE`."""
    unknown = sorted(set(architecture) - set(ARCHITECTURE))
    if unknown:
        raise InputError(
            f"expected architecture of {', '.join(ARCHITECTURE)}, found {', '.join(unknown)}"
        )
