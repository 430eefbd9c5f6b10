"""One case from its files to arrays on the records' grid; imports no TensorFlow, for workers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_tools.layouts import CaseSource, DataSet
from tl3d_keras import resampling, volume_io
from tl3d_keras.annotation import IGNORE
from tl3d_keras.errors import InputError
from tl3d_keras.volume_io import Volume


@dataclass(frozen=True)
class ReadOptions:
    """What to take from the files.

    Attributes:
        partial_labels: accept a label that covers part of the image's grid; the rest is
            unannotated.
    """

    partial_labels: bool = False


@dataclass(frozen=True)
class ReadCase:
    """A case as it goes into a record.

    Attributes:
        case_id: its name.
        image: int16 or float32 [Z, Y, X, C] in LPS orientation.
        labels: uint8 [Z, Y, X], or None without a label file.
        annotated: names of the structures annotated in it.
        warnings: lines for the user.
    """

    case_id: str
    image: Volume
    labels: np.ndarray | None
    annotated: tuple[str, ...]
    warnings: tuple[str, ...] = ()


def read_case(
    source: CaseSource,
    dataset: DataSet,
    spacing: Sequence[float],
    options: ReadOptions = ReadOptions(),
) -> ReadCase:
    """Reads a case, checks it and brings it to `spacing` (z, y, x) in mm.

    Args:
        source: the case's files.
        dataset: the data set it belongs to.
        spacing: of the records.
        options: what to take from the files.

    Raises:
        InputError: files that cannot be read, grids that differ, values that are not declared.
    """
    image = volume_io.read_channels(source.images, len(dataset.channels))
    if image.array.shape[-1] != len(dataset.channels):
        raise InputError(
            f"{source.images[0]}: expected {len(dataset.channels)} channels "
            f"({', '.join(dataset.channels)}), found {image.array.shape[-1]}"
        )
    image = image.with_array(_storable(image.array))
    labels = None
    if source.label is not None:
        label_volume = _read_label(source, image, dataset.file_values, options.partial_labels)
        _check_annotated(label_volume.array, source, dataset.structures)
        # On the very grid of the image, so that rounding in the header makes no other one.
        label_volume = image.with_array(label_volume.array)
        labels = resampling.labels_to_grid(label_volume, spacing).array[..., 0]
    image = resampling.to_grid(image, spacing)
    annotated = source.annotated if labels is not None else ()
    return ReadCase(source.case_id, image, labels, annotated)


def _read_label(
    source: CaseSource, image: Volume, file_values: Mapping[int, int], partial: bool
) -> Volume:
    path = source.label
    assert path is not None
    volume = volume_io.read_labels(path)
    if partial:
        volume = _placed_on(volume, image, path, source.images[0])
    else:
        volume_io.check_same_grid(image, volume, source.images[0], path)
    values = np.unique(volume.array)
    unknown = [int(v) for v in values if int(v) not in file_values]
    if unknown:
        raise InputError(
            f"{path}: expected the label values {sorted(set(file_values) - {IGNORE})} of "
            f"dataset.json or {IGNORE} (unannotated), found {unknown[0]}"
        )
    index = np.searchsorted(values, volume.array)
    mapped = np.array([file_values[int(v)] for v in values], np.uint8)
    return volume.with_array(mapped[index])


def _placed_on(label: Volume, image: Volume, label_path: Path, image_path: Path) -> Volume:
    """Lays a label that covers a box of the image's grid onto the whole grid, the rest IGNORE."""
    for what in ("spacing", "direction"):
        if not np.allclose(
            getattr(label, what), getattr(image, what), rtol=0, atol=volume_io.GEOMETRY_TOLERANCE
        ):
            raise InputError(f"{label_path}: expected the {what} of {image_path}, found another")
    index = volume_io.to_sitk(
        image.with_array(image.array[..., :1])
    ).TransformPhysicalPointToContinuousIndex(label.origin)
    start = [round(i) for i in reversed(index)]
    stop = [s + n for s, n in zip(start, label.shape, strict=True)]
    off_grid = not np.allclose(index[::-1], start, atol=0.01)
    if off_grid or min(start) < 0 or any(e > n for e, n in zip(stop, image.shape, strict=True)):
        raise InputError(
            f"{label_path}: expected a box of whole voxels inside {image_path}, found "
            f"voxels {start} to {stop} (z, y, x) of {image.shape}"
        )
    whole = np.full(
        (*image.shape, 1), IGNORE, label.array.dtype if label.array.dtype.itemsize > 1 else np.int16
    )
    whole[tuple(slice(s, e) for s, e in zip(start, stop, strict=True))] = label.array
    return image.with_array(whole)


def _check_annotated(labels: np.ndarray, source: CaseSource, structures: Sequence[str]) -> None:
    present = {structures[v - 1] for v in np.unique(labels) if v not in (0, IGNORE)}
    undeclared = sorted(present - set(source.annotated))
    if undeclared:
        raise InputError(
            f"{source.label}: expected labels of the structures annotated in this case "
            f"({', '.join(source.annotated)}), found {undeclared[0]}"
        )


def _storable(array: np.ndarray) -> np.ndarray:
    """int16 where that loses nothing, else float32."""
    if array.dtype == np.int16:
        return array
    whole = np.issubdtype(array.dtype, np.integer) or bool((array == np.rint(array)).all())
    limits = np.iinfo(np.int16)
    if whole and array.min() >= limits.min and array.max() <= limits.max:
        return array.astype(np.int16)
    return array.astype(np.float32)
