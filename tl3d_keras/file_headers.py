"""What a file's header claims, checked before anything of that size is allocated."""

import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from tl3d_keras import text_headers
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

# Held by whoever changes one of SimpleITK's switches, the process's, or must not see one changed.
SWITCHES = threading.RLock()
_UNIT_TOLERANCE = 0.01
# Axes that are closer to one plane than about 5 degrees are no grid.
_LEAST_DETERMINANT = 0.08


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
    limit, data = path.stat().st_size * MAX_COMPRESSION, None
    if image_io != "NiftiImageIO":
        data = text_headers.locate(path, image_io)
        limit = data.file.stat().st_size * (MAX_COMPRESSION if data.encoding else 1)
    reader = sitk.ImageFileReader()
    reader.SetImageIO(image_io)
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    pixel = sitk.GetPixelIDValueAsString(reader.GetPixelIDValue())
    if "complex" in pixel:
        raise InputError(f"{path}: expected real numbers, found {pixel}")
    if data and not data.has_spacing:
        raise InputError(f"{path}: expected a spacing, found none in the header")
    claimed = check_size(path, reader, limit)
    check_geometry(path, reader)
    if data and data.encoding in text_headers.DEFLATED:
        text_headers.check_stream(path, data, claimed)
    return reader


def check_size(path: Path, reader: sitk.ImageFileReader, limit: int, count: int = 1) -> int:
    """The bytes of voxels that `count` such headers claim.

    Raises:
        InputError: they are more than `limit` or than 16 GiB.
    """
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
    return claimed


def check_geometry(path: Path, reader: sitk.ImageFileReader | sitk.Image) -> None:
    """Raises an `InputError` unless spacing, origin and direction can be those of a scan."""
    check_spacing(path, reader.GetSpacing()[:3])
    dimension = reader.GetDimension()
    direction = np.reshape(reader.GetDirection(), (dimension, dimension))[:3, :3]
    # No cosine is beyond 1, nor NaN.
    cosines = (np.abs(direction) <= 1 + _UNIT_TOLERANCE).all()
    unit = cosines and np.abs(np.linalg.norm(direction, axis=0) - 1).max() <= _UNIT_TOLERANCE
    apart = unit and abs(np.linalg.det(direction)) >= _LEAST_DETERMINANT
    if not (apart and np.isfinite(reader.GetOrigin()).all()):
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


def reason(error: Exception) -> str:
    """What SimpleITK or the system says, in one line that is the same in every process."""
    said = (isinstance(error, OSError) and error.strerror) or str(error)
    line = (said.strip() or type(error).__name__).splitlines()[-1].strip()
    return re.sub(r"^(ITK ERROR: )?\w+\(0x[0-9a-f]+\): ", "", line)


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps SimpleITK's warnings back, where an error or a result of our own says it all.

    One thread at a time, for the switch is that of the process.
    """
    with SWITCHES:
        warns = sitk.ProcessObject.GetGlobalWarningDisplay()
        sitk.ProcessObject.SetGlobalWarningDisplay(False)
        try:
            yield
        finally:
            sitk.ProcessObject.SetGlobalWarningDisplay(warns)
