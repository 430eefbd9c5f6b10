"""What a file's header claims, checked before anything of that size is allocated."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from tl3d_keras.errors import InputError

IMAGE_IO = {
    ".nii.gz": "NiftiImageIO",
    ".nii": "NiftiImageIO",
    ".nrrd": "NrrdImageIO",
    ".nhdr": "NrrdImageIO",
    ".mha": "MetaImageIO",
    ".mhd": "MetaImageIO",
}

# A volume of 2048^3 voxels fits; a header that claims more is taken for a wrong or hostile one.
MAX_BYTES = 2**34
# Deflate reaches 1032:1 at most.
MAX_COMPRESSION = 1100
MAX_SPACING = 1000.0

_UNIT_TOLERANCE = 0.01
# Axes that are closer to one plane than about 5 degrees are no grid.
_LEAST_DETERMINANT = 0.08
_MAX_HEADER = 2**20
_END_OF_HEADER = {
    "MetaImageIO": rb"^\s*ElementDataFile[^\n]*",
    "NrrdImageIO": rb"^\r?$",
}
_METAIMAGE_LINE = re.compile(r"[\w ]{1,64}=[\x20-\x7e\t]{0,1000}")
_NUMBER = re.compile(r"[-+]?[\d.]{1,40}(e[-+]?\d{1,4})?", re.IGNORECASE)
# How many numbers a field has, as a power of the dimensions.
_METAIMAGE_LISTS = {
    "ndims": 0,
    "elementnumberofchannels": 0,
    "compresseddatasize": 0,
    "headersize": 0,
    "dimsize": 1,
    "elementspacing": 1,
    "elementsize": 1,
    "offset": 1,
    "position": 1,
    "origin": 1,
    "centerofrotation": 1,
    "transformmatrix": 2,
    "rotation": 2,
    "orientation": 2,
}
_DATA_FILE = {"MetaImageIO": "elementdatafile", "NrrdImageIO": "datafile"}
_ENCODING = {"MetaImageIO": "compresseddata", "NrrdImageIO": "encoding"}
_NOT_ENCODED = ("", "raw", "false")


def checked_reader(path: Path, suffix: str) -> sitk.ImageFileReader:
    """Reads the header of a file in the format of its suffix, and in no other.

    Returns:
        A reader that holds the header and can read the rest.

    Raises:
        InputError: the header claims more than the file can hold or than 16 GiB, points to data
            outside its folder, or gives an impossible geometry.
        RuntimeError: SimpleITK does not accept the header.
    """
    image_io = IMAGE_IO[suffix]
    data, limit = path, path.stat().st_size * MAX_COMPRESSION
    if image_io != "NiftiImageIO":
        data, encoded = _data_file(path, image_io)
        limit = data.stat().st_size * (MAX_COMPRESSION if encoded else 1)
    reader = sitk.ImageFileReader()
    reader.SetImageIO(image_io)
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    pixel = sitk.GetPixelIDValueAsString(reader.GetPixelIDValue())
    if "complex" in pixel:
        raise InputError(f"{path}: expected real numbers, found {pixel}")
    check_size(path, reader, limit)
    check_geometry(path, reader)
    return reader


def check_size(path: Path, reader: sitk.ImageFileReader, limit: int, count: int = 1) -> None:
    """Raises an `InputError` if `count` such headers claim more than `limit` bytes or 16 GiB."""
    pixel = sitk.Image([1, 1], reader.GetPixelIDValue(), reader.GetNumberOfComponents())
    # Integers of Python, for these products can be beyond those of NumPy.
    voxels = int(np.prod([count, *(int(n) for n in reader.GetSize())], dtype=object))
    values = voxels * pixel.GetNumberOfComponentsPerPixel()
    claimed = values * pixel.GetSizeOfPixelComponent()
    if claimed > min(limit, MAX_BYTES):
        raise InputError(
            f"{path}: expected voxels of at most {min(limit, MAX_BYTES)} bytes, found a header "
            f"that claims {claimed}; the file is cut short or its header is wrong"
        )


def check_geometry(path: Path, reader: sitk.ImageFileReader | sitk.Image) -> None:
    """Raises an `InputError` unless spacing, origin and direction can be those of a scan."""
    check_spacing(path, reader.GetSpacing()[:3])
    dimension = reader.GetDimension()
    direction = np.reshape(reader.GetDirection(), (dimension, dimension))[:3, :3]
    unit = np.abs(np.linalg.norm(direction, axis=0) - 1).max() < _UNIT_TOLERANCE
    # False for NaN, as every comparison above.
    apart = abs(np.linalg.det(direction)) > _LEAST_DETERMINANT
    if not (unit and apart and np.isfinite(reader.GetOrigin()).all()):
        raise InputError(
            f"{path}: expected a finite origin and different axes of unit length, found the "
            f"origin {reader.GetOrigin()} and the direction {reader.GetDirection()}"
        )


def check_spacing(path: Path, spacing: Sequence[float]) -> None:
    """Raises an `InputError` unless each spacing is above 0 and at most 1000 mm."""
    if not all(0 < s <= MAX_SPACING for s in spacing):
        raise InputError(
            f"{path}: expected a spacing above 0 and at most {MAX_SPACING:g} mm, found "
            f"{', '.join(f'{s:g}' for s in spacing)} (x, y, z)"
        )


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps SimpleITK's warnings back, where an error or a result of our own says it all."""
    warns = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(warns)


def _data_file(path: Path, image_io: str) -> tuple[Path, bool]:
    """The file that holds the voxels of a header in words, and whether they are encoded there."""
    with open(path, "rb") as file:
        start = file.read(_MAX_HEADER)
    end = re.search(_END_OF_HEADER[image_io], start, re.MULTILINE | re.IGNORECASE)
    if end is None and len(start) == _MAX_HEADER:
        raise InputError(f"{path}: cannot read: expected a header of at most {_MAX_HEADER} bytes")
    lines = start[: end.end() if end else None].decode("latin-1").splitlines()
    fields: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition("=" if image_io == "MetaImageIO" else ":")
        fields.setdefault("".join(name.lower().split()), value.strip())
    if image_io == "MetaImageIO":
        _check_metaimage(path, lines, fields)
    encoded = fields.get(_ENCODING[image_io], "").lower() not in _NOT_ENCODED
    name = fields.get(_DATA_FILE[image_io], "LOCAL")
    if name.upper() == "LOCAL":
        return path, encoded
    data = path.parent / name
    if not data.resolve().is_relative_to(path.parent.resolve()):
        raise InputError(f"{path}: expected its data file inside {path.parent}, found {name!r}")
    if not data.is_file():
        raise InputError(f"{path}: expected one data file, found {name!r}")
    return data, encoded


def _check_metaimage(path: Path, lines: Sequence[str], fields: Mapping[str, str]) -> None:
    """Keeps from MetaImage's library what it writes beyond its buffers for."""
    names = [line.partition("=")[0].strip() for line in lines if line.strip()]
    wrong = [line for line in lines if line.strip() and not _METAIMAGE_LINE.fullmatch(line)]
    if wrong or len(set(names)) < len(names):
        raise InputError(f"{path}: cannot read: expected a MetaImage header of lines NAME = VALUE")
    dimensions = fields.get("ndims", "")
    if dimensions not in ("2", "3", "4"):
        raise InputError(f"{path}: expected a 3D volume, found NDims = {dimensions!r}")
    for name, power in _METAIMAGE_LISTS.items():
        found, expected = fields.get(name, "").split(), int(dimensions) ** power
        if name in fields and not (len(found) == expected and all(map(_NUMBER.fullmatch, found))):
            raise InputError(
                f"{path}: expected {expected} numbers as {name}, found {fields[name][:80]!r}"
            )
