"""The labels of one case on its image's grid, IGNORE where nobody annotated."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_tools import doubts, label_files, placement
from data_tools.layouts import CaseSource, DataSet
from data_tools.reading import ReadOptions, is_dicom_label
from tl3d_keras import volume_io, volumes
from tl3d_keras.annotation import IGNORE
from tl3d_keras.errors import InputError
from tl3d_keras.volumes import Volume


class CaseLabels(NamedTuple):
    """What the label files of a case say.

    Attributes:
        volume: uint8 [Z, Y, X, 1] on the image's grid, 0..K or IGNORE.
        annotated: names of the structures annotated in the case.
        warnings: what looks as if it was meant otherwise, one line each.
    """

    volume: Volume
    annotated: tuple[str, ...]
    warnings: tuple[str, ...]


class _Mask(NamedTuple):
    structure: str
    source: str
    array: np.ndarray


def read(source: CaseSource, image: Volume, dataset: DataSet, options: ReadOptions) -> CaseLabels:
    """Reads the labels of a case that has some.

    A voxel counts as annotated if all that is said about it agrees: the label is not the ignore
    value, the mask file is not 0, its slice holds a label where `options.annotated` is
    "labelled_slices".

    Raises:
        InputError: files that cannot be read, grids that differ, values that are not declared,
            structures that overlap, or that are there and not declared as annotated.
    """
    annotated = source.annotated
    hidden: tuple[str, ...] = ()
    if source.label is not None and not is_dicom_label(source.label):
        label = _label_map(source.label, dataset.file_values)
        label_path = source.label
        if options.partial_labels:
            label = volumes.oriented_like(label, image)
        else:
            label = volumes.on_same_grid(image, label, source.images[0], label_path)
    else:
        masks = _from_files(source, image) if source.masks else _from_dicom(source, image, dataset)
        label_path = source.label or source.masks[0][1]
        label, present, hidden = _merged(masks, image, dataset.structures, options.overlap)
        if source.label is not None:
            hidden += _about_frame(source.label, source.images[0], options.series)
        annotated = present if annotated is None else annotated
    assert annotated is not None
    if source.annotated_mask is not None:
        label = _masked(label, label_path, source.annotated_mask)
    _check_annotated(label.array, label_path, annotated, dataset.structures)
    if options.annotated == "labelled_slices":
        label = _labelled_slices(label)
    start = (0, 0, 0)
    if options.partial_labels:
        start = _start_of(label, image, label_path, source)
    found = doubts.about_labels(label.array[..., 0], dataset.structures)
    found += placement.about_place(image.array[..., 0], label.array[..., 0], start)
    if (label.array == IGNORE).all():
        found.append("nothing of its label counts as annotated")
    warnings = tuple(f"{source.case_id}: {doubt}" for doubt in (*hidden, *found))
    if options.partial_labels:
        label = _placed_on(label, image, start)
    return CaseLabels(label, annotated, warnings)


def _label_map(path: Path, file_values: Mapping[int, int]) -> Volume:
    volume = volume_io.read_labels(path)
    return volume.with_array(label_files.mapped(volume.array, file_values, path))


def _from_files(source: CaseSource, image: Volume) -> Iterator[_Mask]:
    for structure, path in source.masks:
        volume = volume_io.read_labels(path)
        volume = volumes.on_same_grid(image, volume, source.images[0], path)
        values = [int(v) for v in np.unique(volume.array) if v != 0]
        if len(values) > 1:
            raise InputError(
                f"{path}: expected one value beside 0, found {', '.join(map(str, values[:5]))}"
            )
        yield _Mask(structure, str(path), volume.array[..., 0] != 0)


def _from_dicom(source: CaseSource, image: Volume, dataset: DataSet) -> Iterator[_Mask]:
    from data_tools import dicom_labels

    assert source.label is not None
    masks = dicom_labels.read(source.label, image)
    for structure in dataset.structures:
        if structure in masks:
            yield _Mask(structure, f"{source.label} ({structure})", masks[structure])


def _about_frame(label: Path, image: Path, series: str | None) -> tuple[str, ...]:
    from data_tools import dicom_labels

    return tuple(dicom_labels.about_frame(label, image, series))


def _merged(
    masks: Iterator[_Mask], image: Volume, structures: Sequence[str], overlap: str
) -> tuple[Volume, tuple[str, ...], tuple[str, ...]]:
    """One label of masks in order, the structures that were given, and doubts about them."""
    labels = np.zeros(image.shape, np.uint8)
    given: list[_Mask] = []
    for mask in masks:
        taken = labels[mask.array]
        if overlap == "error" and taken.any():
            value, counts = np.unique(taken[taken > 0], return_counts=True)
            other = next(m for m in given if m.structure == structures[value[0] - 1])
            raise InputError(
                f"{mask.source}: expected structures that do not overlap, found {counts[0]} voxels "
                f"of {other.source} too; --overlap=first or last chooses"
            )
        number = structures.index(mask.structure) + 1
        labels[mask.array] = np.where(taken > 0, taken, number) if overlap == "first" else number
        # The mask itself is needed no more, only whether it held a voxel.
        given.append(mask._replace(array=np.array(taken.size)))
    left = np.unique(labels)
    hidden = tuple(
        f"{mask.structure} lies under other structures altogether and is lost to --overlap"
        for mask in given
        if mask.array and structures.index(mask.structure) + 1 not in left
    )
    present = tuple(mask.structure for mask in given)
    return image.with_array(labels[..., np.newaxis]), present, hidden


def _masked(label: Volume, label_path: Path, mask_path: Path) -> Volume:
    mask = volume_io.read_labels(mask_path)
    mask = volumes.on_same_grid(label, mask, label_path, mask_path)
    return label.with_array(np.where(mask.array != 0, label.array, np.uint8(IGNORE)))


def _labelled_slices(label: Volume) -> Volume:
    labelled = ((label.array != 0) & (label.array != IGNORE)).any(axis=(1, 2, 3), keepdims=True)
    return label.with_array(np.where(labelled, label.array, np.uint8(IGNORE)))


def _check_annotated(
    labels: np.ndarray, path: Path, annotated: Sequence[str], structures: Sequence[str]
) -> None:
    present = {structures[v - 1] for v in np.unique(labels) if v not in (0, IGNORE)}
    undeclared = sorted(present - set(annotated))
    if undeclared:
        raise InputError(
            f"{path}: expected labels of the structures annotated in this case "
            f"({', '.join(annotated)}), found {undeclared[0]}"
        )


def _start_of(
    label: Volume, image: Volume, label_path: Path, source: CaseSource
) -> tuple[int, int, int]:
    """The first voxel (z, y, x) of the box of the image's grid that a label covers."""
    image_path = source.images[0]
    for what in ("spacing", "direction"):
        if not np.allclose(
            getattr(label, what), getattr(image, what), rtol=0, atol=volumes.GEOMETRY_TOLERANCE
        ):
            raise InputError(f"{label_path}: expected the {what} of {image_path}, found another")
    index = source.label_offset or _index_of(label.origin, image)
    z, y, x = (round(i) for i in index)
    start = z, y, x
    stop = [s + n for s, n in zip(start, label.shape, strict=True)]
    off_grid = not np.allclose(index, start, atol=0.01)
    if off_grid or min(start) < 0 or any(e > n for e, n in zip(stop, image.shape, strict=True)):
        raise InputError(
            f"{label_path}: expected a box of whole voxels inside {image_path}, found "
            f"voxels {list(start)} to {stop} (z, y, x) of {image.shape}"
        )
    return start


def _index_of(point: Sequence[float], image: Volume) -> Sequence[float]:
    """Where a point (x, y, z) in mm lies on an image's grid, in voxels (z, y, x)."""
    grid = volumes.to_sitk(image.with_array(image.array[..., :1]))
    return grid.TransformPhysicalPointToContinuousIndex(point)[::-1]


def _placed_on(label: Volume, image: Volume, start: Sequence[int]) -> Volume:
    """Lays a label that covers a box of the image's grid onto the whole grid, the rest IGNORE."""
    whole = np.full((*image.shape, 1), IGNORE, np.uint8)
    whole[tuple(slice(s, s + n) for s, n in zip(start, label.shape, strict=True))] = label.array
    return image.with_array(whole)
