"""Medical image files and the `Volume` they become, through SimpleITK."""

import gzip
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from tl3d_keras.errors import InputError

SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")

# Headers store float32 in places, so equal grids may differ by rounding.
GEOMETRY_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Volume:
    """A volume and where it lies in the patient (LPS millimetres).

    Attributes:
        array: [Z, Y, X, C].
        spacing: (z, y, x) in mm.
        origin: (x, y, z) of the centre of voxel 0 in mm.
        direction: 3x3 row-major direction cosines in ITK's (x, y, z) order.
    """

    array: np.ndarray
    spacing: tuple[float, float, float]
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)
    direction: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along (Z, Y, X)."""
        z, y, x = self.array.shape[:3]
        return z, y, x

    def with_array(self, array: np.ndarray) -> "Volume":
        """Returns `array` on this volume's grid."""
        return replace(self, array=array)


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


def read(path: str | os.PathLike) -> Volume:
    """Reads a NIfTI, NRRD or MetaImage file, or a folder that holds one DICOM series.

    Returns:
        A volume whose array is int16 or float32 for images of few values or many.

    Raises:
        InputError: the file is missing, empty, unreadable, not 3D, or holds NaN or infinity.
    """
    path = Path(path)
    image = _read_series(path) if path.is_dir() else _read_file(path)
    if image.GetDimension() != 3 or min(image.GetSize()) < 1:
        raise InputError(f"{path}: expected a 3D volume, found size {image.GetSize()}")
    if "complex" in image.GetPixelIDTypeAsString():
        raise InputError(f"{path}: expected real numbers, found {image.GetPixelIDTypeAsString()}")
    volume = from_sitk(image)
    bad = (
        _non_finite_in_nifti(path, image)
        if path.name.lower().endswith((".nii", ".nii.gz"))
        else int(np.size(volume.array) - np.isfinite(volume.array).sum())
    )
    if bad:
        raise InputError(f"{path}: expected finite intensities, found {bad} NaN or infinite values")
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
    whole = np.rint(array).astype(np.int64)
    if not np.array_equal(whole, array):
        value = array[whole != array].flat[0]
        raise InputError(f"{path}: expected whole-number labels, found the value {value:g}")
    return volume.with_array(whole)


def read_channels(paths: Sequence[str | os.PathLike]) -> Volume:
    """Reads files of one channel or more on one grid and stacks them along C."""
    volumes = [read(path) for path in paths]
    for path, volume in zip(paths[1:], volumes[1:], strict=True):
        check_same_grid(volumes[0], volume, paths[0], path)
    if len(volumes) == 1:
        return volumes[0]
    return volumes[0].with_array(np.concatenate([v.array for v in volumes], axis=-1))


def check_same_grid(
    first: Volume,
    second: Volume,
    first_path: str | os.PathLike,
    second_path: str | os.PathLike,
) -> None:
    """Raises an `InputError` that names what differs unless both volumes lie on one grid."""
    if first.shape != second.shape:
        raise InputError(
            f"{second_path}: expected the shape {first.shape} (z, y, x) of {first_path}, "
            f"found {second.shape}"
        )
    for what in ("spacing", "origin", "direction"):
        expected, found = getattr(first, what), getattr(second, what)
        if not np.allclose(expected, found, rtol=0, atol=GEOMETRY_TOLERANCE):
            raise InputError(
                f"{second_path}: expected the {what} {_rounded(expected)} of {first_path}, "
                f"found {_rounded(found)}"
            )


def write(path: str | os.PathLike, volume: Volume) -> None:
    """Writes a volume in the format of the path's suffix; the file appears when whole.

    Raises:
        InputError: the suffix is unknown or the folder cannot be written.
    """
    path = Path(path)
    suffix = next((s for s in SUFFIXES if path.name.lower().endswith(s)), None)
    if suffix is None:
        raise InputError(f"{path}: expected a name that ends in one of {', '.join(SUFFIXES)}")
    if suffix in (".mhd", ".nhdr"):
        raise InputError(
            f"{path}: header and data in two files cannot be replaced at once; use "
            f"{'.mha' if suffix == '.mhd' else '.nrrd'}"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".writing-") as folder:
            temporary = Path(folder) / f"volume{suffix}"
            sitk.WriteImage(to_sitk(volume), str(temporary), useCompression=True)
            os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        raise InputError(f"{path}: cannot write: {_last_line(error)}") from error


def from_sitk(image: sitk.Image) -> Volume:
    """Converts a 3D SimpleITK image."""
    array = sitk.GetArrayFromImage(image)
    if image.GetNumberOfComponentsPerPixel() == 1:
        array = array[..., np.newaxis]
    x, y, z = image.GetSpacing()
    return Volume(array, (z, y, x), image.GetOrigin(), image.GetDirection())


def to_sitk(volume: Volume) -> sitk.Image:
    """Converts to a SimpleITK image: scalar where C is 1, else a vector image."""
    array = volume.array
    single = array.shape[-1] == 1
    image = sitk.GetImageFromArray(array[..., 0] if single else array, isVector=not single)
    image.SetSpacing(volume.spacing[::-1])
    image.SetOrigin(volume.origin)
    image.SetDirection(volume.direction)
    return image


def _read_file(path: Path) -> sitk.Image:
    if not path.exists():
        raise InputError(f"{path}: no such file")
    if not has_known_suffix(path):
        raise InputError(
            f"{path}: expected a file that ends in one of {', '.join(SUFFIXES)}, or a "
            "folder with a DICOM series"
        )
    if path.stat().st_size == 0:
        raise InputError(f"{path}: expected a medical image, found an empty file")
    try:
        return sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise InputError(f"{path}: cannot read: {_last_line(error)}") from error


def _non_finite_in_nifti(path: Path, image: sitk.Image) -> int:
    """Counts NaN and infinity in the file itself, for NIfTI's own library reads them as 0."""
    dtype = {"16": "f4", "64": "f8"}.get(image.GetMetaData("datatype"))
    if dtype is None:
        return 0
    data = path.read_bytes()
    if data.startswith(b"\x1f\x8b"):
        data = gzip.decompress(data)
    # A file starts with the size of its header, 348 or 540, in its own order of bytes.
    order = ">" if data[0] == 0 else "<"
    count = image.GetNumberOfPixels() * image.GetNumberOfComponentsPerPixel()
    start = int(float(image.GetMetaData("vox_offset")))
    values = np.frombuffer(data, order + dtype, count, start)
    return count - int(np.isfinite(values).sum())


def _read_series(folder: Path) -> sitk.Image:
    reader = sitk.ImageSeriesReader()
    series = reader.GetGDCMSeriesIDs(str(folder))
    if len(series) != 1:
        raise InputError(f"{folder}: expected one DICOM series, found {len(series)}")
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder), series[0]))
    try:
        return reader.Execute()
    except RuntimeError as error:
        raise InputError(f"{folder}: cannot read the DICOM series: {_last_line(error)}") from error


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1].strip()


def _rounded(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(round(float(v), 4) for v in values)
