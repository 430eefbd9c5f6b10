"""The weights that the authors of arXiv 2311.05032 publish as `unet3d_Isomulti1v810.h5`."""

import os
import re
from typing import Any

import numpy as np

from tl3d_keras.errors import InputError
from tl3d_keras.unet3d import HEAD, UNet3D, named_weights


def load_weights(network: UNet3D, path: str | os.PathLike) -> None:
    """Fills `network` from a Keras 2 `.h5` of the authors' layout, by the order of its layers.

    The structures of the file are `paper.STRUCTURES`, its input is clipped to `paper.WINDOW` and
    not scaled. Background moves from the last channel to channel 0; kernels are the same in
    channels-first and channels-last order.

    Raises:
        InputError: the file cannot be read, or a layer's weights do not fit; the message names it.
    """
    convolutions = [
        name.removesuffix("/kernel") for name in named_weights(network) if name.endswith("/kernel")
    ]
    stored = _read(path)
    if len(stored) != len(convolutions):
        raise InputError(
            f"{path}: expected {len(convolutions)} layers with weights, found {len(stored)}"
        )
    variables = named_weights(network)
    for name, (stored_name, arrays) in zip(convolutions, stored, strict=True):
        targets = [variables[f"{name}/kernel"], variables[f"{name}/bias"]]
        found = [tuple(a.shape) for a in arrays]
        expected = [tuple(v.shape) for v in targets]
        if found != expected:
            raise InputError(
                f"{path}: expected the shapes {expected} for layer {stored_name} "
                f"({name}), found {found}"
            )
        for variable, array in zip(targets, arrays, strict=True):
            variable.assign(np.roll(array, 1, axis=-1) if name == HEAD else array)


def _read(path: str | os.PathLike) -> list[tuple[str, list[np.ndarray]]]:
    """The arrays of each layer that has any, in the order of the model's layers."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            group = file["model_weights"] if "model_weights" in file else file
            layers = [_text(name) for name in group.attrs["layer_names"]]
            found = []
            for layer in layers:
                names = [_text(name) for name in group[layer].attrs["weight_names"]]
                if names:
                    found.append((layer, [np.asarray(group[layer][name]) for name in names]))
    except (OSError, KeyError) as error:
        reason = re.sub(r"\s+", " ", str(error))
        raise InputError(f"{path}: cannot read Keras weights: {reason}") from error
    return found


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
