"""One case from its files to arrays on the records' grid; imports no TensorFlow, for workers."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data_tools import label_reader
from data_tools.layouts import CaseSource, DataSet
from data_tools.reading import ReadOptions, read_image
from tl3d_keras import resampling
from tl3d_keras.distribution import summaries
from tl3d_keras.errors import InputError
from tl3d_keras.volumes import Volume

DEFAULT = ReadOptions()


@dataclass(frozen=True)
class ReadCase:
    """A case as it goes into a record.

    Attributes:
        case_id: its name.
        image: int16 or float32 [Z, Y, X, C] in LPS orientation.
        labels: uint8 [Z, Y, X], or None without a label file.
        annotated: names of the structures annotated in it.
        intensity: `distribution.summaries` of it; of an oblique scan as it came, for the corners
            of the grid around it are none of it.
        warnings: what looks as if it was meant otherwise, one line each.
    """

    case_id: str
    image: Volume
    labels: np.ndarray | None
    annotated: tuple[str, ...]
    intensity: list[dict[str, float]]
    warnings: tuple[str, ...] = ()


def read_case(
    source: CaseSource,
    dataset: DataSet,
    spacing: Sequence[float],
    options: ReadOptions = DEFAULT,
) -> ReadCase:
    """Reads a case, checks it and brings it to `spacing` (z, y, x) in mm.

    Args:
        source: the case's files.
        dataset: the data set it belongs to.
        spacing: of the records.
        options: how its files are read.

    Raises:
        InputError: files that cannot be read, grids that differ, values that are not declared.
    """
    count = len(dataset.channels)
    image = read_image(source.images, options.series, options.channel, count)
    if image.array.shape[-1] != count:
        raise InputError(
            f"{source.images[0]}: expected {count} channels "
            f"({', '.join(dataset.channels)}), found {image.array.shape[-1]}"
        )
    image = image.with_array(_storable(image.array))
    labels = None
    annotated: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    if source.label is not None or source.masks:
        volume, annotated, warnings = label_reader.read(source, image, dataset, options)
        # On the very grid of the image, so that rounding in the header makes no other one.
        volume = image.with_array(volume.array)
        labels = resampling.labels_to_grid(volume, spacing).array[..., 0]
    seen = resampling.to_grid(image, spacing)
    intensity = summaries((seen if resampling.is_aligned(image) else image).array)
    return ReadCase(source.case_id, seen, labels, annotated, intensity, warnings)


def _storable(array: np.ndarray) -> np.ndarray:
    """int16 where that loses nothing, else float32."""
    if array.dtype == np.int16:
        return array
    whole = np.issubdtype(array.dtype, np.integer) or bool((array == np.rint(array)).all())
    limits = np.iinfo(np.int16)
    if whole and array.min() >= limits.min and array.max() <= limits.max:
        return array.astype(np.int16)
    return array.astype(np.float32)
