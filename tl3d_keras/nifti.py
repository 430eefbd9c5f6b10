"""What SimpleITK leaves unsaid about NIfTI files: repaired headers, lost voxels, sheared grids.

Its NIfTI library puts 1 for a spacing of 0, and 0 for NaN and for voxels that a file cut short does
not hold; SimpleITK takes the nearest rotation for the affine of a sheared grid (gantry tilt).
Offsets are those of the NIfTI-1 and NIfTI-2 headers (https://nifti.nimh.nih.gov).
"""

import gzip
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import ArrayLike

from tl3d_keras import file_headers
from tl3d_keras.errors import InputError

SUFFIXES = (".nii.gz", ".nii")

_CHUNK = 2**24
# Offset and type of pixdim[1] by the size of the header, which opens the file.
_PIXDIM = {348: (80, "f4"), 540: (112, "f8")}
# In the NIfTI-1 header that SimpleITK writes.
_QFORM_CODE, _SROW = 252, 280
_FLOATS = {"16": "f4", "64": "f8"}
_SHEARED = 1e-3
_FAR = 1e9
# Metres and micrometres; everything else is taken for millimetres.
_UNITS = {1: 1000.0, 3: 0.001}
# NIfTI counts towards right, anterior, superior; ITK towards left, posterior, superior.
_TO_LPS = np.diag([-1.0, -1.0, 1.0])


def check_voxels(path: Path, header: sitk.Image, channel: int | None) -> None:
    """Raises an `InputError` if voxels are missing, damaged, NaN or infinite.

    Args:
        path: the file.
        header: with the metadata of the file.
        channel: look for NaN and infinity in this 3D volume alone; None looks in all.
    """
    dims = [int(header.GetMetaData(f"dim[{i}]")) for i in range(1, 8)]
    itemsize = int(header.GetMetaData("bitpix")) // 8
    volume = int(np.prod(dims[:3])) * itemsize
    expected = volume * int(np.prod([max(1, n) for n in dims[3:]]))
    wanted = (0, expected) if channel is None else (channel * volume, (channel + 1) * volume)
    dtype = _FLOATS.get(header.GetMetaData("datatype"))
    found = bad = 0
    with _opened(path) as file:
        order = ">" if file.read(1) == b"\0" else "<"
        file.seek(int(float(header.GetMetaData("vox_offset"))))
        while found < expected:
            chunk = file.read(min(_CHUNK, expected - found))
            if not chunk:
                raise InputError(
                    f"{path}: expected {expected} bytes of voxels, found {found}; the file is cut "
                    "short"
                )
            if dtype:
                # A chunk can end within a value only where the file does.
                whole = chunk[: len(chunk) // itemsize * itemsize]
                places = np.flatnonzero(~np.isfinite(np.frombuffer(whole, order + dtype)))
                places = places * itemsize + found
                bad += int(((places >= wanted[0]) & (places < wanted[1])).sum())
            found += len(chunk)
        # Beyond the last voxel lies the checksum of a compressed file, which this compares.
        file.read(1)
    if bad:
        raise InputError(f"{path}: expected finite intensities, found {bad} NaN or infinite values")


def read(path: Path, suffix: str) -> sitk.Image:
    """Reads a file on its own grid, sheared or not.

    A qform cannot hold a shear, so a sheared sform counts where it is alone or where both claim to
    be the same space; otherwise SimpleITK chooses.

    Args:
        path: the file.
        suffix: of its name.

    Raises:
        InputError: header, spacing or sform is none, or as `file_headers.checked_reader`.
        RuntimeError: SimpleITK cannot read the file.
    """
    check_header(path)
    with file_headers.SWITCHES:
        try:
            image = file_headers.checked_reader(path, suffix).Execute()
            alone = False
        except RuntimeError as error:
            if "orthonormal" not in str(error):
                raise
            alone = True
            with _sheared_accepted():
                image = file_headers.checked_reader(path, suffix).Execute()
    qform, sform = (int(image.GetMetaData(f"{name}_code")) for name in ("qform", "sform"))
    if sform and qform in (0, sform):
        _place_by_sform(path, image, alone)
    return image


def check_header(path: Path) -> None:
    """Raises an `InputError` unless there is a header, whose three spacings are above 0."""
    with _opened(path) as file:
        header = file.read(max(_PIXDIM))
        if isinstance(file, gzip.GzipFile) and path.name.lower().endswith(".nii"):
            raise InputError(f"{path}: cannot read: it is compressed; rename it to end in .nii.gz")
    for order in "<>":
        size = int.from_bytes(header[:4], "little" if order == "<" else "big")
        if size in _PIXDIM and len(header) >= size:
            offset, dtype = _PIXDIM[size]
            pixdim = np.frombuffer(header, order + dtype, 3, offset)
            if not (np.isfinite(pixdim) & (pixdim > 0)).all():
                raise InputError(
                    f"{path}: expected a spacing above 0, found "
                    f"{', '.join(f'{s:g}' for s in pixdim)} (x, y, z)"
                )
            return
    # The NIfTI library would say so too, and write lines of its own.
    raise InputError(f"{path}: cannot read: expected a NIfTI header, found something else")


def _place_by_sform(path: Path, image: sitk.Image, alone: bool) -> None:
    rows = np.array([image.GetMetaData(f"srow_{axis}").split() for axis in "xyz"], float)
    millimetres = _UNITS.get(int(image.GetMetaData("xyzt_units")) & 7, 1.0)
    # What is beyond float32's squares is no place in a patient either.
    usable = (np.abs(rows) < _FAR).all()
    affine = _TO_LPS @ np.where(usable, rows, 0) * millimetres
    spacing = np.linalg.norm(affine[:, :3], axis=0)
    if spacing.min() <= 0:
        raise InputError(f"{path}: expected an sform with three axes, found {rows.tolist()}")
    direction = affine[:, :3] / spacing
    if alone or is_sheared(direction):
        extra = image.GetDimension() - 3
        whole = np.eye(3 + extra)
        whole[:3, :3] = direction
        image.SetSpacing([*spacing.tolist(), *image.GetSpacing()[3:]])
        image.SetOrigin([*affine[:, 3].tolist(), *image.GetOrigin()[3:]])
        image.SetDirection(whole.ravel().tolist())
        file_headers.check_geometry(path, image)


def is_sheared(direction: ArrayLike) -> bool:
    """Whether the axes of 3x3 direction cosines are not at right angles."""
    axes = np.reshape(direction, (3, 3))
    return bool(np.abs(axes.T @ axes - np.eye(3)).max() >= _SHEARED)


def write_sheared(image: sitk.Image, path: Path) -> None:
    """Writes an image whose grid only an sform can hold, compressed where the name ends in .gz."""
    plain = path.with_name("plain.nii")
    # It warns of the rotation that it writes, which is replaced below.
    with file_headers.quiet():
        sitk.WriteImage(image, str(plain))
    content = bytearray(plain.read_bytes())
    direction = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine = _TO_LPS @ np.column_stack([direction, image.GetOrigin()])
    content[_QFORM_CODE : _QFORM_CODE + 4] = np.array([0, 1], "<i2").tobytes()
    content[_SROW : _SROW + 48] = affine.astype("<f4").tobytes()
    with gzip.open(path, "wb") if path.name.endswith(".gz") else open(path, "wb") as file:
        file.write(content)


@contextmanager
def _sheared_accepted() -> Iterator[None]:
    """Lets SimpleITK read a sheared sform without a qform, which it makes a rotation of."""
    name = "ITK_NIFTI_SFORM_PERMISSIVE"
    with file_headers.quiet():
        former = os.environ.get(name)
        os.environ[name] = "YES"
        try:
            yield
        finally:
            del os.environ[name]
            if former is not None:
                os.environ[name] = former


@contextmanager
def _opened(path: Path) -> Iterator[gzip.GzipFile | BufferedReader]:
    try:
        with open(path, "rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            yield gzip.GzipFile(fileobj=raw) if packed else raw
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot read: {file_headers.reason(error)}") from error
