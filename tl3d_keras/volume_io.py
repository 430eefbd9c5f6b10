"""Medical image files and the `Volume` they become, through SimpleITK."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from tl3d_keras import (
    argument_checks,
    dicom_series,
    file_headers,
    memory,
    nifti,
    regular_file,
    whole_folder,
)
from tl3d_keras.errors import InputError
from tl3d_keras.volumes import Volume, from_sitk, on_same_grid, to_sitk

SUFFIXES = tuple(file_headers.IMAGE_IO)


def has_known_suffix(path: str | os.PathLike) -> bool:
    """Whether the file's name ends like a format that `read` knows."""
    return str(path).lower().endswith(SUFFIXES)


def case_name(path: str | os.PathLike) -> str:
    """The file's name without folder and suffix (`a/b.nii.gz` -> `b`)."""
    name = Path(path).name
    for suffix in SUFFIXES:
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name


def read(
    path: str | os.PathLike,
    series: str | None = None,
    channel: int | None = None,
    channels: int | None = None,
) -> Volume:
    """Reads a NIfTI, NRRD or MetaImage file, or a DICOM series of a folder.

    Args:
        path: the file or folder.
        series: which series of the folder: its SeriesInstanceUID, SeriesNumber or
            SeriesDescription. None if there is only one.
        channel: take this channel alone (from 0): a volume along the 4th dimension of a 4D file, or
            a component of its voxels.
        channels: accept a 4D file whose 4th dimension is this long, as channels.

    Returns:
        A volume with the file's own type of number.

    Raises:
        InputError: the file is missing, empty, unreadable, cut short, not 3D, claims a size or a
            geometry that cannot be, or holds NaN or infinity.
        MemoryError: there is not enough for it.
    """
    path = Path(path)
    if path.is_dir():
        image = dicom_series.read(path, series)
    elif series is None:
        image = _read_file(path, channel)
    else:
        raise InputError(f"{path}: expected a folder with --series={series}, found a file")
    volume = _select(path, _from_stack(path, image, channel, channels), channel)
    bad = int(np.size(volume.array) - np.isfinite(volume.array).sum())
    if bad:
        raise InputError(f"{path}: expected finite intensities, found {bad} NaN or infinite values")
    if volume.array.dtype == np.float64:
        # Nothing here computes with more than float32, where more is infinite.
        most = float(np.finfo(np.float32).max)
        largest = float(max(volume.array.max(), -volume.array.min()))
        if largest > most:
            raise InputError(f"{path}: expected values up to {most:.3g}, found {largest:.3g}")
    return volume


def read_labels(path: str | os.PathLike) -> Volume:
    """Reads a label file.

    Returns:
        A volume with an integer array [Z, Y, X, 1].

    Raises:
        InputError: as `read`, or the values are not whole numbers of one channel.
    """
    volume = read(path)
    array = volume.array
    if array.shape[-1] != 1:
        raise InputError(f"{path}: expected labels of one channel, found {array.shape[-1]}")
    if np.issubdtype(array.dtype, np.integer):
        return volume
    # What is beyond int64 becomes another number.
    with np.errstate(invalid="ignore"):
        whole = np.rint(array).astype(np.int64)
    if not np.array_equal(whole, array):
        value = array[whole != array].flat[0]
        raise InputError(f"{path}: expected whole-number labels, found the value {value:g}")
    return volume.with_array(whole)


def read_channels(
    paths: Sequence[str | os.PathLike],
    channels: int | None = None,
    series: str | None = None,
    channel: int | None = None,
) -> Volume:
    """Reads files of one channel or more on one grid and stacks them along C.

    Args:
        paths: the files, or folders with DICOM series.
        channels: how many channels the caller expects; one 4D file may hold them all.
        series: as in `read`.
        channel: as in `read`, of each file.
    """
    expected = channels if len(paths) == 1 else None
    first = read(paths[0], series, channel, expected)
    if len(paths) == 1:
        return first
    others = [
        on_same_grid(first, read(path, series, channel), paths[0], path) for path in paths[1:]
    ]
    return first.with_array(np.concatenate([v.array for v in (first, *others)], axis=-1))


def write(path: str | os.PathLike, volume: Volume) -> None:
    """Writes a volume in the format of the path's suffix; the file appears when whole.

    Raises:
        InputError: the suffix is unknown, the volume is none, or the folder cannot be written.
    """
    argument_checks.check_volume(volume)
    path = Path(path)
    suffix = _writable_suffix(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_folder.passing_folder(path.parent) as folder:
            temporary = folder / f"volume{suffix}"
            if suffix in nifti.SUFFIXES and nifti.is_sheared(volume.direction):
                nifti.write_sheared(to_sitk(volume), temporary)
            else:
                sitk.WriteImage(to_sitk(volume), str(temporary), useCompression=True)
            os.replace(temporary, path)
    except (OSError, RuntimeError, TypeError) as error:
        # The last of numbers that SimpleITK does not have, such as bool.
        raise _failure(f"{path}: cannot write", error) from error


def check_writable(path: str | os.PathLike) -> None:
    """Raises the `InputError` of `write` for what is known before there is a volume."""
    _writable_suffix(Path(path))
    whole_folder.check_writable(path)


def _writable_suffix(path: Path) -> str:
    suffix = _suffix(path)
    if suffix is None:
        raise InputError(f"{path}: expected a name that ends in one of {', '.join(SUFFIXES)}")
    if suffix in (".mhd", ".nhdr"):
        raise InputError(
            f"{path}: header and data in two files cannot be replaced at once; use "
            f"{'.mha' if suffix == '.mhd' else '.nrrd'}"
        )
    return suffix


def _read_file(path: Path, channel: int | None) -> sitk.Image:
    if not path.exists():
        raise InputError(f"{path}: no such file")
    suffix = _suffix(path)
    if suffix is None:
        raise InputError(
            f"{path}: expected a file that ends in one of {', '.join(SUFFIXES)}, or a "
            "folder with a DICOM series"
        )
    regular_file.check(path)
    if path.stat().st_size == 0:
        raise InputError(f"{path}: expected a medical image, found an empty file")
    try:
        if suffix not in nifti.SUFFIXES:
            return file_headers.checked_reader(path, suffix).Execute()
        image = nifti.read(path, suffix)
        nifti.check_voxels(path, image, channel)
        return image
    except (RuntimeError, OSError) as error:
        raise _failure(f"{path}: cannot read", error) from error


def _from_stack(path: Path, image: sitk.Image, channel: int | None, channels: int | None) -> Volume:
    """A 3D image, or a 4D one whose 4th dimension becomes its channels where it may."""
    size = image.GetSize()
    if len(size) not in (3, 4) or min(size) < 1:
        raise InputError(f"{path}: expected a 3D volume, found size {size}")
    if len(size) == 3:
        return from_sitk(image)
    if image.GetNumberOfComponentsPerPixel() != 1:
        raise InputError(f"{path}: expected channels or a 4th dimension, found both in size {size}")
    if channel is None and size[3] not in (1, channels):
        raise InputError(
            f"{path}: expected a 3D volume, found {size[3]} of them along a 4th dimension; "
            f"--channel=N takes one (0 to {size[3] - 1})"
        )
    x, y, z = image.GetSpacing()[:3]
    direction = np.reshape(image.GetDirection(), (4, 4))[:3, :3].ravel().tolist()
    # The array runs through the 4th dimension first.
    array = np.moveaxis(sitk.GetArrayFromImage(image), 0, -1)
    return Volume(array, (z, y, x), image.GetOrigin()[:3], tuple(direction))


def _select(path: Path, volume: Volume, channel: int | None) -> Volume:
    found = volume.array.shape[-1]
    if channel is None:
        return volume
    if not 0 <= channel < found:
        raise InputError(f"{path}: expected --channel of 0 to {found - 1}, found {channel}")
    return volume.with_array(volume.array[..., channel : channel + 1])


def _suffix(path: Path) -> str | None:
    return next((s for s in SUFFIXES if path.name.lower().endswith(s)), None)


def _failure(what: str, error: Exception) -> Exception:
    kind = MemoryError if memory.ran_out(error) else InputError
    return kind(f"{what}: {file_headers.reason(error)}")
