"""Arguments of another kind than a function of the library takes, told in one line."""

from collections.abc import Sequence
from math import inf
from typing import Any

import numpy as np

from tl3d_keras.errors import InputError
from tl3d_keras.volumes import Volume


def check_kind(value: Any, kind: type, what: str) -> None:
    """Raises an `InputError` unless `value` is a `kind`; `what` says so in words."""
    if not isinstance(value, kind):
        raise InputError(f"expected {what}, found a {type(value).__name__}")


def check_volume(volume: Any) -> None:
    """Raises an `InputError` unless it is a `Volume` of a whole grid."""
    check_kind(volume, Volume, "a Volume, as volume_io.read gives")
    shape = np.shape(volume.array)
    if len(shape) != 4:
        raise InputError(f"expected a Volume of an array [Z, Y, X, C], found the shape {shape}")
    check_spacing(volume.spacing, "a Volume's spacing")


def check_spacing(spacing: Any, what: str) -> None:
    """Raises an `InputError` unless it is three positive numbers."""
    if not _are_three(spacing, float) or not all(0 < number < inf for number in spacing):
        raise InputError(f"expected three positive numbers (z, y, x) as {what}, found {spacing}")


def check_size(size: Any, what: str) -> None:
    """Raises an `InputError` unless it is three positive whole numbers."""
    if not _are_three(size, int) or not all(number > 0 for number in size):
        raise InputError(f"expected three whole numbers (z, y, x) as {what}, found {size}")


def check_image(shape: Sequence[int], channels: int) -> None:
    """Raises an `InputError` unless it is the shape of an image [Z, Y, X, C]."""
    if len(shape) != 4 or shape[-1] != channels:
        raise InputError(
            f"expected an image [Z, Y, X, C] of {channels} channels, found the shape {tuple(shape)}"
        )


def _are_three(values: Any, kind: type) -> bool:
    kinds = (int, np.integer) if kind is int else (int, float, np.integer, np.floating)
    is_sequence = isinstance(values, Sequence | np.ndarray) and not isinstance(values, str)
    return is_sequence and len(values) == 3 and all(isinstance(value, kinds) for value in values)
