"""DICOM SEG and RTSTRUCT files as masks on the grid of an image; needs the extra `dicom`.

Contours are filled with Matplotlib's polygon test, which is installed anyway: the libraries made
for RTSTRUCT bring OpenCV along or want the DICOM series in place of a grid.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tl3d_keras import dicom_series
from tl3d_keras.errors import InputError
from tl3d_keras.volumes import Volume

# Segments apart, and as one label map.
_SEG = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
_RTSTRUCT = "1.2.840.10008.5.1.4.1.1.481.3"
# In voxels: positions are written in mm with a few digits.
_OFF_GRID = 0.1
_FRAME = "FrameOfReferenceUID"
_CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")


def is_dicom_label(path: str | os.PathLike) -> bool:
    """Whether a file is a DICOM SEG or RTSTRUCT.

    Raises:
        InputError: the file is DICOM and the extra `dicom` is not installed.
    """
    path = Path(path)
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        if file.read(132)[128:] != b"DICM":
            return False
    return _read_dataset(path, ["SOPClassUID"]).get("SOPClassUID") in (*_SEG, _RTSTRUCT)


def read(path: str | os.PathLike, image: Volume) -> dict[str, np.ndarray]:
    """Reads a DICOM SEG or RTSTRUCT.

    Frames and contours are placed by their positions in the patient. A voxel belongs to a contour
    if its centre lies within; contours in one slice are combined by XOR, so that an inner one is a
    hole. Fractional segments count from half of their maximum. A segment without frames is an empty
    mask; regions of an RTSTRUCT without a closed contour (points) are left out.

    Args:
        path: the file.
        image: the volume on whose grid the masks are made.

    Returns:
        Structure name -> bool mask [Z, Y, X]; structures may overlap.

    Raises:
        InputError: the file cannot be read, lies off the grid, repeats a name, holds no structure,
            or the extra `dicom` is not installed.
    """
    path = Path(path)
    dataset = _read_dataset(path)
    kind = dataset.get("SOPClassUID")
    if kind not in (*_SEG, _RTSTRUCT):
        raise InputError(f"{path}: expected a DICOM SEG or RTSTRUCT, found the class {kind}")
    structures = _segments if kind in _SEG else _regions
    masks: dict[str, np.ndarray] = {}
    try:
        for name, mask in structures(path, dataset, image):
            if name in masks:
                raise InputError(
                    f"{path}: expected structures of different names, found two {name!r}"
                )
            masks[name] = mask
    except InputError:
        raise
    except Exception as error:
        # A malformed data set can make its library raise anything.
        raise InputError(f"{path}: cannot read: {_one_line(error)}") from error
    if not masks:
        raise InputError(f"{path}: expected structures, found none")
    return masks


def about_frame(path: Path, image: Path, series: str | None) -> list[str]:
    """A doubt where a label was drawn in other coordinates than those of its DICOM series.

    Positions mean the same within a frame of reference alone; of files without one nothing is said.

    Args:
        path: the DICOM SEG or RTSTRUCT.
        image: what it was placed on; nothing is known of what is no folder.
        series: which series of the folder, as in `volume_io.read`.
    """
    if not image.is_dir():
        return []
    parts = ["StructureSetROISequence", "ReferencedFrameOfReferenceSequence"]
    label = _read_dataset(path, [_FRAME, *parts])
    items = [label, *(item for part in parts for item in label.get(part, []))]
    named = {str(item.get(key, "")) for item in items for key in (_FRAME, f"Referenced{_FRAME}")}
    slices = dicom_series.choose(image, series).files
    own = str(_read_dataset(slices[0], [_FRAME]).get(_FRAME, ""))
    if not own or not named - {""} or own in named:
        return []
    return [
        f"{path.name} is of the frame of reference {min(named - {''})}, {image.name} of {own}: "
        "was it drawn on another scan?"
    ]


def _read_dataset(path: Path, tags: list[str] | None = None) -> Any:
    try:
        import pydicom
    except ImportError:
        raise InputError(
            f'{path}: DICOM labels need the extra "dicom": pip install "tl3d-keras[dicom]"'
        ) from None
    try:
        return pydicom.dcmread(path, stop_before_pixels=tags is not None, specific_tags=tags)
    except Exception as error:
        raise InputError(f"{path}: cannot read: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def _to_index(points: np.ndarray, image: Volume) -> np.ndarray:
    """Voxel coordinates (z, y, x) of points (x, y, z) in mm, [..., 3]."""
    affine = np.reshape(image.direction, (3, 3)) * image.spacing[::-1]
    return ((points - image.origin) @ np.linalg.inv(affine).T)[..., ::-1]


def _segments(path: Path, dataset: Any, image: Volume) -> Iterator[tuple[str, np.ndarray]]:
    # A label map may describe its background, as number 0.
    described = {
        int(s.SegmentNumber): str(s.SegmentLabel)
        for s in dataset.SegmentSequence
        if int(s.SegmentNumber)
    }
    claimed = int(dataset.Rows) * int(dataset.Columns) * int(dataset.get("NumberOfFrames", 1))
    if claimed > image.array[..., 0].size * len(described):
        raise InputError(f"{path}: expected frames on the grid of the image, found too many voxels")
    fractional = dataset.SegmentationType == "FRACTIONAL"
    least = int(dataset.MaximumFractionalValue) / 2 if fractional else 1
    shared = dataset.get("SharedFunctionalGroupsSequence", [None])[0]
    frames = np.reshape(dataset.pixel_array, (-1, int(dataset.Rows), int(dataset.Columns)))
    masks = {number: np.zeros(image.shape, bool) for number in described}
    for frame, group in zip(frames, dataset.PerFrameFunctionalGroupsSequence, strict=True):
        if dataset.SegmentationType == "LABELMAP":
            drawn = {number: frame == number for number in described}
        else:
            item = _item((group, shared), "SegmentIdentificationSequence")
            drawn = {int(item.ReferencedSegmentNumber): frame >= least}
        for number, pixels in drawn.items():
            _place_frame(path, pixels, (group, shared), image, masks[number])
    for number, name in described.items():
        yield name, masks[number]


def _place_frame(
    path: Path, frame: np.ndarray, groups: tuple[Any, Any], image: Volume, mask: np.ndarray
) -> None:
    """Adds the pixels of a frame [rows, columns] to the mask, wherever the grid has them."""
    orientation = _item(groups, "PlaneOrientationSequence").ImageOrientationPatient
    row, column = np.array(orientation, float).reshape(2, 3)
    between_rows, between_columns = map(float, _item(groups, "PixelMeasuresSequence").PixelSpacing)
    position = _item(groups, "PlanePositionSequence").ImagePositionPatient
    corner = np.array(position, float)
    down, right = np.array(frame.shape) - 1
    # Where the first pixel, the last of its column and the last of its row lie on the grid.
    corners = corner + np.array(
        [np.zeros(3), column * between_rows * down, row * between_columns * right]
    )
    place = _to_index(corners, image)
    whole = np.rint(place).astype(int)
    _check_on_grid(path, place, whole, image)
    steps = [
        (whole[1 + axis] - whole[0]) // max(1, length) for axis, length in enumerate((down, right))
    ]
    exact = all(
        (whole[1 + axis] - whole[0] == steps[axis] * length).all()
        and (length == 0 or np.abs(steps[axis]).sum() == 1)
        for axis, length in enumerate((down, right))
    )
    if not exact:
        raise InputError(f"{path}: expected frames along the axes and spacing of the image")
    rows, columns = np.nonzero(frame)
    index = whole[0] + rows[:, None] * steps[0] + columns[:, None] * steps[1]
    mask[tuple(index.T)] = True


def _item(groups: tuple[Any, Any], name: str) -> Any:
    """What describes a frame stands with the frame, or once for all."""
    for group in groups:
        if group is not None and name in group:
            return group[name][0]
    raise ValueError(f"expected {name} for every frame")


def _check_on_grid(path: Path, place: np.ndarray, whole: np.ndarray, image: Volume) -> None:
    shape = np.array(image.shape)
    if np.abs(place - whole).max() > _OFF_GRID or (whole < 0).any() or (whole >= shape).any():
        worst = place[np.argmax(np.abs(place - whole).max(axis=-1))]
        raise InputError(
            f"{path}: expected frames on the grid of the image, found one at voxel "
            f"{np.round(worst, 2).tolist()} (z, y, x) of {image.shape}"
        )


def _regions(path: Path, dataset: Any, image: Volume) -> Iterator[tuple[str, np.ndarray]]:
    names = {int(r.ROINumber): str(r.ROIName) for r in dataset.StructureSetROISequence}
    for region in dataset.get("ROIContourSequence", []):
        contours = [
            _to_index(np.array(c.ContourData, float).reshape(-1, 3), image)
            for c in region.get("ContourSequence", [])
            if c.ContourGeometricType in _CLOSED
        ]
        if contours:
            name = names[int(region.ReferencedROINumber)]
            yield name, _filled(path, name, contours, image)


def _filled(path: Path, name: str, contours: list[np.ndarray], image: Volume) -> np.ndarray:
    from matplotlib.path import Path as Polygon

    # The axis across the contours, which need not be that of the array's slices.
    across = int(np.argmin(np.max([np.ptp(c, axis=0) for c in contours], axis=0)))
    mask = np.zeros(image.shape, bool)
    slices = np.moveaxis(mask, across, 0)
    for contour in contours:
        flat = np.delete(contour, across, axis=1)
        level = contour[:, across]
        number = int(np.rint(level.mean()))
        inside = (flat > -1).all() and (flat < slices.shape[1:]).all()
        if np.abs(level - number).max() > _OFF_GRID or not 0 <= number < len(slices) or not inside:
            raise InputError(
                f"{path}: expected contours of {name!r} in slices of the image, found one around "
                f"voxel {np.round(contour.mean(axis=0), 2).tolist()} (z, y, x) of {image.shape}"
            )
        low = np.maximum(0, np.floor(flat.min(axis=0)).astype(int))
        high = np.minimum(slices.shape[1:], np.ceil(flat.max(axis=0)).astype(int) + 1)
        centres = np.stack(np.meshgrid(*map(np.arange, low, high), indexing="ij"), axis=-1)
        within = Polygon(flat).contains_points(centres.reshape(-1, 2)).reshape(centres.shape[:2])
        slices[number, low[0] : high[0], low[1] : high[1]] ^= within
    return mask
