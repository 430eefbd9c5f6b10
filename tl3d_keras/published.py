"""The weights that the authors of arXiv 2311.05032 publish as `unet3d_Isomulti1v810.h5`.

Kernel and bias of each convolution in the order of the layers, background last in the head; the
input is clipped to `paper.WINDOW` and not scaled. Kernels are the same in channels-first and
channels-last order.
"""

import io
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tl3d_keras import keras_files, paper
from tl3d_keras.artifact import Artifact, ModelInfo
from tl3d_keras.errors import InputError
from tl3d_keras.intensity import Intensity
from tl3d_keras.unet3d import HEAD, UNet3D, named_weights
from tl3d_keras.weight_surgery import STEM
from tl3d_keras.whole_folder import write_file

# What the authors' code calls the layer of the head.
_THEIR_HEAD = "output_segm"
# Of the paper's network: how many convolutions, and the kernels of the first and the last.
_LAYERS, _SHAPES = 15, [(3, 3, 3, 1, 32), (1, 1, 1, 64, 23)]
Arrays = list[tuple[str, list[np.ndarray]]]


def load_weights(network: UNet3D, path: str | os.PathLike) -> None:
    """Fills `network` from a Keras 2 `.h5` of the authors' layout, by the order of its layers.

    Its structures and input stay those of the file; background moves from the last channel to 0.

    Raises:
        InputError: the file cannot be read, or a layer's weights do not fit; the message names it.
    """
    _fill(network, _read(path), path)


def is_published(path: str | os.PathLike) -> bool:
    """Whether a file is of the authors' layout: by its head's name, or as many weights as theirs.

    Raises:
        InputError: the name ends in `.h5`, but the file cannot be read.
    """
    if Path(path).suffix != ".h5":
        return False
    stored = _read(path)
    if not stored:
        return False
    shapes = [stored[i][1][0].shape for i in (0, -1)]
    return stored[-1][0] == _THEIR_HEAD or (len(stored) == _LAYERS and shapes == _SHAPES)


def load(path: str | os.PathLike) -> Artifact:
    """The network of a file of the authors' layout, of any size, to start a transfer from.

    Unlike with `load_weights` its input is scaled to -1 .. 1 as everywhere in this package; the
    first convolution makes up for it.

    Returns:
        The network, whose structures have the paper's names where there are as many.

    Raises:
        InputError: the file cannot be read, or its weights are not those of such a network.
    """
    stored = _read(path)
    first, head = ([*arrays, np.zeros(0)][0].shape for _, arrays in (stored[0], stored[-1]))
    if len(first) != 5 or len(head) != 5 or len(stored) % 4 != 3:
        raise InputError(f"{path}: expected the convolutions of a UNet3D, found {len(stored)}")
    known = head[-1] == len(paper.STRUCTURES) + 1 and first[-2] == 1
    network = UNet3D(
        num_classes=head[-1],
        filters=first[-1],
        levels=(len(stored) + 1) // 4,
        input_channels=first[-2],
        structures=paper.STRUCTURES if known else None,
    )
    _fill(network, stored, path)
    window = Intensity("window", *((end,) * first[-2] for end in paper.WINDOW))
    weights = named_weights(network)
    kernel, bias = (weights[f"{STEM}/{part}"] for part in ("kernel", "bias"))
    scale, shift = window.coefficients_of([])
    scaled, shifted = _rescaled(kernel.numpy(), bias.numpy(), 1 / scale, -shift / scale)
    kernel.assign(scaled)
    bias.assign(shifted)
    # Of the spacing the file says nothing, and transfer takes the records'.
    info = ModelInfo(
        network.structures,
        ("CT",) if first[-2] == 1 else tuple(f"channel_{i}" for i in range(first[-2])),
        (1.0, 1.0, 1.0),
        window,
        paper.PATCH_SIZE,
        {"weights": str(path)},
    )
    return Artifact(network, info)


def save(network: UNet3D, intensity: Intensity, path: str | os.PathLike) -> None:
    """Writes a network as a Keras 2 `.h5` of the authors' layout, which their code loads.

    Args:
        network: with valid padding and without normalisation layers.
        intensity: of its input. A window becomes part of the first convolution, so that the file's
            network takes what is clipped to it and not scaled; a z-score does not.
        path: the new file.

    Raises:
        InputError: another kind of network, or the file exists or cannot be written.
    """
    import h5py

    config = network.get_config()
    if config["padding"] != "valid" or config["normalization"]:
        raise InputError(
            "expected a network with valid padding and without normalization for the published "
            f"layout, found {config['padding']} padding and normalization {config['normalization']}"
        )
    if Path(path).exists():
        raise InputError(f"{path}: expected a new file, found one")
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        names = []
        for i, (name, arrays) in enumerate(_layers(network, intensity)):
            stored = _THEIR_HEAD if name == HEAD else f"conv3d_{i}" if i else "conv3d"
            names.append(stored.encode())
            parts = [f"{stored}/{part}:0" for part in ("kernel", "bias")]
            group = file.create_group(stored)
            group.attrs["weight_names"] = [part.encode() for part in parts]
            for part, array in zip(parts, arrays, strict=True):
                group.create_dataset(part, data=array)
        file.attrs["layer_names"] = names
        file.attrs["backend"] = b"tensorflow"
        file.attrs["keras_version"] = b"2.15.0"
    write_file(path, content.getvalue())


def _layers(network: UNet3D, intensity: Intensity) -> Iterator[tuple[str, list[np.ndarray]]]:
    weights = {name: variable.numpy() for name, variable in named_weights(network).items()}
    if intensity.mode == "window":
        scale, shift = intensity.coefficients_of([])
        kernel, bias = f"{STEM}/kernel", f"{STEM}/bias"
        weights[kernel], weights[bias] = _rescaled(weights[kernel], weights[bias], scale, shift)
    for name in _convolutions(network):
        arrays = [weights[f"{name}/{part}"] for part in ("kernel", "bias")]
        yield name, [np.roll(a, -1, axis=-1) for a in arrays] if name == HEAD else arrays


def _rescaled(
    kernel: np.ndarray, bias: np.ndarray, scale: np.ndarray, shift: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """A valid convolution of x that gives what `kernel` and `bias` give of scale * x + shift."""
    exact = kernel.astype(np.float64)
    added = np.einsum("zyxcf,c->f", exact, shift)
    return exact * scale[:, np.newaxis], bias + added


def _fill(network: UNet3D, stored: Arrays, path: str | os.PathLike) -> None:
    convolutions = _convolutions(network)
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


def _convolutions(network: UNet3D) -> list[str]:
    names = named_weights(network)
    return [name.removesuffix("/kernel") for name in names if name.endswith("/kernel")]


def _read(path: str | os.PathLike) -> Arrays:
    """The arrays of each layer that has any, in the order of the model's layers."""
    import h5py

    with keras_files.reading(path), h5py.File(path, "r") as file:
        group = file["model_weights"] if "model_weights" in file else file
        layers = [(name, list(arrays.values())) for name, arrays in keras_files.arrays_of(group)]
    return [(name, arrays) for name, arrays in layers if arrays]
