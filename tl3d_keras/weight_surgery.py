"""Weights of one network into another of other channels, classes, filters or depth."""

import re
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from tl3d_keras.errors import InputError
from tl3d_keras.unet3d import HEAD, UNet3D, named_weights

CHANNELS_BY = ("mean", "copy", "zero")
STEM = "encoder_0_conv_0"
COPIED, NEW = "copied", "new"
OTHER_SHAPE = "new, of another shape than the base's"
NOT_IN_BASE = "new, not in the base"
UNUSED = "unused"


def copy_trunk(base: UNet3D, network: UNet3D) -> dict[str, str]:
    """Copies the layers of the base's trunk that fit, whole; the stem and the head are not its.

    Returns:
        By layer name where its weights come from, with `UNUSED` for those that only the base has.
    """
    old, new = _by_layer(base), _by_layer(network)
    origins = {}
    for layer, weights in new.items():
        if layer in (STEM, HEAD):
            continue
        if layer not in old:
            origins[layer] = NOT_IN_BASE
        elif _shapes(old[layer]) != _shapes(weights):
            origins[layer] = OTHER_SHAPE
        else:
            origins[layer] = COPIED
            for name, variable in weights.items():
                variable.assign(old[layer][name])
    return origins | {layer: UNUSED for layer in old if layer not in new}


def unused_layers(origins: Mapping[str, str]) -> list[str]:
    """The base's layers of which `copy_trunk` has copied nothing, for the network has none."""
    return [layer for layer, origin in origins.items() if origin == UNUSED]


def fill_stem(base: UNet3D, network: UNet3D, sources: Sequence[int | None], by: str) -> str:
    """Fills the first convolution from the base's; returns where its weights come from.

    Args:
        base: the network to copy from.
        network: the network to fill.
        sources: see `channel_sources`.
        by: see `inflate`.
    """
    old, new = _by_layer(base)[STEM], _by_layer(network)[STEM]
    if old["bias"].shape != new["bias"].shape:
        return OTHER_SHAPE
    channels = old["kernel"].shape[3]
    new["kernel"].assign(inflate(old["kernel"].numpy(), sources, by))
    new["bias"].assign(old["bias"])
    if len(sources) != channels:
        return f"{channels} -> {len(sources)} channels by {by}"
    return COPIED if list(sources) == list(range(channels)) else "copied, channels by name"


def fill_head(base: UNet3D, network: UNet3D) -> str:
    """Copies background and the structures of equal name; returns where the weights come from.

    Names are equal whatever their case and whether blanks, hyphens or underscores part their words.
    A base without structure names shares only background.
    """
    old, new = _by_layer(base)[HEAD], _by_layer(network)[HEAD]
    if old["kernel"].shape[-2] != new["kernel"].shape[-2]:
        return OTHER_SHAPE
    rows = _rows(base.get_config()["structures"] or ())
    shared = [(to, rows[name]) for name, to in _rows(network.structures).items() if name in rows]
    for name, variable in new.items():
        values, source = variable.numpy(), old[name].numpy()
        for to, of in shared:
            values[..., to] = source[..., of]
        variable.assign(values)
    classes = len(network.structures) + 1
    return COPIED if len(shared) == classes else f"copied {len(shared)} of {classes}"


def channel_sources(old: Sequence[str], new: Sequence[str]) -> list[int | None]:
    """Which of the base's channels each new channel continues.

    Channels of equal name belong together; the others follow in their order while the base has any.

    Args:
        old: names of the base's channels.
        new: names of the new channels.

    Returns:
        For each new channel the index of the base's, or None.
    """
    names = [_plain(name) for name in old]
    sources: list[int | None] = [
        names.index(_plain(name)) if names.count(_plain(name)) == 1 else None for name in new
    ]
    # Of two new channels of one name the first has it.
    sources = [s if s not in sources[:i] else None for i, s in enumerate(sources)]
    free = iter([i for i in range(len(old)) if i not in sources])
    return [next(free, None) if s is None else s for s in sources]


def inflate(kernel: np.ndarray, sources: Sequence[int | None], by: str) -> np.ndarray:
    """A first kernel for other input channels.

    Args:
        kernel: [z, y, x, C, filters] of the base.
        sources: for each new channel the base's channel that it continues, or None. As many
            channels as the base has are put in that order, whatever `by` says.
        by: for another number of channels. "mean": each gets the mean over the base's channels,
            scaled so that equal channels give the base's response. "copy": each gets its source's
            kernel, the further ones those of the base again in turn, each divided by how often it
            is there. "zero": each gets its source's kernel, the further ones zeros, so that the
            first response is the base's whatever they show.

    Returns:
        [z, y, x, len(sources), filters].

    Raises:
        InputError: an unknown `by`.
    """
    if by not in CHANNELS_BY:
        raise InputError(f"expected input channels by {', '.join(CHANNELS_BY)}, found {by!r}")
    channels = kernel.shape[3]
    if by == "mean" and len(sources) != channels:
        mean = kernel.mean(axis=3, keepdims=True) * (channels / len(sources))
        return np.repeat(mean, len(sources), axis=3)
    extra = iter(range(len(sources)))
    taken = [next(extra) % channels if s is None and by == "copy" else s for s in sources]
    parts = [
        np.zeros_like(kernel[:, :, :, 0]) if s is None else kernel[:, :, :, s] / taken.count(s)
        for s in taken
    ]
    return np.stack(parts, axis=3)


def _rows(structures: Sequence[str]) -> dict[str, int]:
    """The output channel of each class by its plain name; of equal names the first counts."""
    rows: dict[str, int] = {}
    for row, name in enumerate(["background", *structures]):
        rows.setdefault(_plain(name), row)
    return rows


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", "_", name.strip().casefold())


def _shapes(weights: dict[str, tf.Variable]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(variable.shape) for name, variable in weights.items()}


def _by_layer(network: UNet3D) -> dict[str, dict[str, tf.Variable]]:
    layers: dict[str, dict[str, tf.Variable]] = {}
    for key, variable in named_weights(network).items():
        layer, name = key.split("/")
        layers.setdefault(layer, {})[name] = variable
    return layers
