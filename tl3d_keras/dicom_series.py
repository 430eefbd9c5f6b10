"""A folder of DICOM slices becomes one image; its series is chosen by name, its slices by place."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from tl3d_keras import dicom_elements, file_headers
from tl3d_keras.errors import InputError

# SeriesInstanceUID; SeriesNumber, SeriesDescription and Modality.
_SERIES_UID, _TOLD = "0020|000e", ("0020|0011", "0008|103e", "0008|0060")
_POSITION, _ORIENTATION, _PIXEL_SPACING = "0020|0032", "0020|0037", "0028|0030"
# Positions are written with few digits; a missing slice is off by 100 % of the distance.
_UNEVEN = 0.05
_ROUNDING_MM = 0.01
# Below this the slices count as stacked at right angles.
_TILT = 1e-3


@dataclass(frozen=True)
class Series:
    """One series in a folder.

    Attributes:
        uid: SeriesInstanceUID, empty where the files have none.
        number: SeriesNumber, or empty.
        description: SeriesDescription, or empty.
        modality: Modality, such as CT or MR, or empty.
        files: its files.
    """

    uid: str
    number: str
    description: str
    modality: str
    files: tuple[Path, ...]

    def __str__(self) -> str:
        return f"{self.uid} (number {self.number}, {self.description!r}, {len(self.files)} slices)"


@dataclass(frozen=True)
class _Slice:
    path: Path
    reader: sitk.ImageFileReader
    position: np.ndarray
    orientation: np.ndarray


def list_series(folder: Path) -> list[Series]:
    """The image series of a folder; reports, structure sets and other files are left out.

    Raises:
        InputError: there is none, or a slice is damaged.
    """
    groups: dict[str, list[Path]] = {}
    headers: dict[str, sitk.ImageFileReader] = {}
    images, others = set(), {}
    try:
        files = sorted(folder.iterdir())
    except OSError as error:
        raise InputError(f"{folder}: cannot read: {error.strerror}") from error
    for file in files:
        kind = dicom_elements.storage_class(file)
        if kind is None:
            continue
        try:
            header = _header(file)
        except RuntimeError:
            others[file] = kind
            continue
        images.add(kind)
        uid = _text(header, _SERIES_UID)
        headers.setdefault(uid, header)
        groups.setdefault(uid, []).append(file)
    for file, kind in others.items():
        # What is no image is of another class than the slices.
        if kind in images:
            raise InputError(f"{file}: cannot read: the file is damaged")
    if not groups:
        raise InputError(f"{folder}: expected a DICOM series, found none")
    found = []
    for uid, slices in groups.items():
        number, description, modality = (_text(headers[uid], tag) for tag in _TOLD)
        found.append(Series(uid, number, description, modality, tuple(slices)))
    return found


def choose(folder: Path, series: str | None) -> Series:
    """The one series of a folder, or the one whose UID, number or description is `series`.

    Raises:
        InputError: there is none, or more than one; the line lists what there is.
    """
    found = list_series(folder)
    if series is None:
        matching = found
    else:
        # A UID is unique, so nothing else that looks alike stands against it.
        matching = [s for s in found if s.uid == series] or [
            s for s in found if series.strip() in (s.number, s.description)
        ]
    if len(matching) == 1:
        return matching[0]
    listed = "; ".join(str(s) for s in found)
    asked = "--series=UID, number or description" if series is None else f"--series={series}"
    raise InputError(
        f"{folder}: expected {asked} to choose one DICOM series, found {len(matching)}: {listed}"
    )


def read(folder: Path, series: str | None = None) -> sitk.Image:
    """Reads a series in its own units (HU for CT); slices shifted by gantry tilt shear the grid.

    Raises:
        InputError: no or several series fit, or their slices do not make one even stack.
    """
    slices = [_slice(file) for file in choose(folder, series).files]
    _check_alike(slices)
    spacing, direction, order = _stack(slices)
    slices = [slices[i] for i in order]
    file_headers.check_size(folder, slices[0].reader, file_headers.MAX_BYTES, len(slices))
    reader = sitk.ImageSeriesReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileNames([str(s.path) for s in slices])
    reader.SetOutputPixelType(_common_type(slices))
    try:
        image = reader.Execute()
    except RuntimeError as error:
        raise InputError(
            f"{folder}: cannot read the DICOM series: {file_headers.reason(error)}"
        ) from error
    image.SetOrigin(slices[0].position.tolist())
    image.SetSpacing(spacing)
    image.SetDirection(direction.ravel().tolist())
    file_headers.check_geometry(folder, image)
    return image


def _header(file: Path) -> sitk.ImageFileReader:
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(file))
    reader.ReadImageInformation()
    return reader


def _text(reader: sitk.ImageFileReader, tag: str) -> str:
    if not reader.HasMetaDataKey(tag):
        return ""
    # Bytes that are not UTF-8 come as lone surrogates, which cannot be printed.
    text = reader.GetMetaData(tag).encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return " ".join(text.split())


def _numbers(reader: sitk.ImageFileReader, tag: str, count: int) -> np.ndarray:
    try:
        numbers = np.array([float(n) for n in _text(reader, tag).split("\\")])
    except ValueError:
        numbers = np.zeros(0)
    return numbers if len(numbers) == count else np.full(count, np.nan)


def _slice(path: Path) -> _Slice:
    try:
        reader = _header(path)
    except RuntimeError as error:
        raise InputError(f"{path}: cannot read: {file_headers.reason(error)}") from error
    file_headers.check_size(path, reader, path.stat().st_size * file_headers.MAX_COMPRESSION)
    file_headers.check_spacing(path, reader.GetSpacing()[:2])
    if reader.GetNumberOfComponents() != 1 or np.prod(reader.GetSize()[2:]) != 1:
        raise InputError(
            f"{path}: expected one slice of one channel a file, found size {reader.GetSize()} "
            f"with {reader.GetNumberOfComponents()} channels"
        )
    position = _numbers(reader, _POSITION, 3)
    orientation = _numbers(reader, _ORIENTATION, 6)
    if not (np.isfinite(position).all() and np.isfinite(orientation).all()):
        raise InputError(f"{path}: expected the position and orientation of a slice, found none")
    # GDCM takes 1 mm where there is none.
    if not np.isfinite(_numbers(reader, _PIXEL_SPACING, 2)).all():
        raise InputError(f"{path}: expected a spacing, found none: no PixelSpacing")
    return _Slice(path, reader, position, orientation.reshape(2, 3))


def _check_alike(slices: list[_Slice]) -> None:
    first = slices[0]
    for other in slices[1:]:
        for what, expected, found in (
            ("size", first.reader.GetSize()[:2], other.reader.GetSize()[:2]),
            ("pixel spacing", first.reader.GetSpacing()[:2], other.reader.GetSpacing()[:2]),
            ("orientation", first.orientation.ravel(), other.orientation.ravel()),
        ):
            if not np.allclose(expected, found, rtol=0, atol=1e-3):
                raise InputError(
                    f"{other.path}: expected the {what} {tuple(expected)} of {first.path}, found "
                    f"{tuple(found)}"
                )


def _stack(slices: list[_Slice]) -> tuple[tuple[float, float, float], np.ndarray, np.ndarray]:
    """The spacing (x, y, z), the direction matrix, and the order of the slices along the stack."""
    row, column = slices[0].orientation
    normal = np.cross(row, column)
    heights = np.array([s.position @ normal for s in slices])
    order = np.argsort(heights, kind="stable")
    x, y = slices[0].reader.GetSpacing()[:2]
    if len(slices) == 1:
        thickness = slices[0].reader.GetSpacing()[2]
        return (x, y, thickness), np.column_stack([row, column, normal]), order
    positions = np.array([slices[i].position for i in order])
    _check_even([slices[i].path for i in order], positions, heights[order])
    step = (positions[-1] - positions[0]) / (len(slices) - 1)
    distance = float(np.linalg.norm(step))
    axis = step / distance
    if np.linalg.norm(axis - normal) < _TILT:
        axis = normal
    return (x, y, distance), np.column_stack([row, column, axis]), order


def _check_even(paths: list[Path], positions: np.ndarray, heights: np.ndarray) -> None:
    gaps = np.diff(heights)
    usual = float(np.median(gaps))
    tolerance = _UNEVEN * usual + _ROUNDING_MM
    steps = np.diff(positions, axis=0)
    uneven = np.linalg.norm(steps - np.median(steps, axis=0), axis=1)
    worst = int(np.argmax(uneven))
    between = f"between {paths[worst].name} and {paths[worst + 1].name}"
    same = np.flatnonzero(gaps <= _ROUNDING_MM)
    if same.size:
        names = f"{paths[same[0]].name} and {paths[same[0] + 1].name}"
        raise InputError(
            f"{paths[0].parent}: expected one slice at each position, found {names} at the same"
        )
    if uneven[worst] > tolerance:
        raise InputError(
            f"{paths[0].parent}: expected a slice every {usual:.4g} mm, found "
            f"{gaps[worst]:.4g} mm {between}: slices are missing or unevenly spaced"
        )


def _common_type(slices: list[_Slice]) -> int:
    """A pixel type that holds the values of all slices, whose rescaling may differ (PET)."""
    types = [
        sitk.GetArrayFromImage(sitk.Image([1, 1], s.reader.GetPixelIDValue())).dtype for s in slices
    ]
    common = np.zeros((1, 1), np.result_type(*types))
    return sitk.GetImageFromArray(common).GetPixelIDValue()
