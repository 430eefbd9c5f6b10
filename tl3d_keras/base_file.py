"""What transfer can start from: an artifact, a model that ships, the authors' file, old models."""

import os
from pathlib import Path
from typing import NamedTuple

from tl3d_keras import (
    artifact,
    keras_files,
    keras_import,
    published,
    shipped,
    unet3d_recognition,
)
from tl3d_keras.artifact import ModelInfo
from tl3d_keras.unet3d import UNet3D


class Base(NamedTuple):
    """A network to start from, and what is known of it; None for a model of other software."""

    network: UNet3D
    info: ModelInfo | None


def load(path: str | os.PathLike) -> Base:
    """Loads a base.

    Args:
        path: an artifact folder or the name of a model that ships; the authors' published `.h5`; or
            a `.keras`, `.h5` or SavedModel of Keras 2 with the architecture of `UNet3D`, whose
            channel 0 is background and whose other structures nobody knows.

    Raises:
        InputError: none of these, damaged, or of another architecture.
    """
    if not is_keras_file(path):
        return Base(*artifact.load(Path(path)))
    if Path(path).is_file() and published.is_published(path):
        return Base(*published.load(path))
    model = keras_import.import_keras_model(path)
    return Base(unet3d_recognition.as_unet3d(model, path), None)


def is_keras_file(path: str | os.PathLike) -> bool:
    """Whether a base is, by its name or its files, one that Keras has written and no artifact."""
    found = shipped.resolve(path)
    is_keras = found.suffix in keras_files.SUFFIXES or (found / keras_files.METADATA_FILE).is_file()
    return is_keras and not (found / artifact.CONFIG_FILE).is_file()
