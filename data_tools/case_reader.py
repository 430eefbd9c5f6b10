"""One case from its files to arrays on the records' grid; imports no TensorFlow, for workers."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk

from data_tools import label_reader
from data_tools.layouts import CaseSource, DataSet
from data_tools.reading import ReadOptions, read_image
from tl3d_keras import annotation, resampling, volume_io
from tl3d_keras.annotation import IGNORE
from tl3d_keras.errors import InputError
from tl3d_keras.volume_io import Volume

FOREGROUND_SAMPLES = 10_000
DEFAULT = ReadOptions()


@dataclass(frozen=True)
class ReadCase:
    """A case as it goes into a record.

    Attributes:
        case_id: its name.
        image: int16 or float32 [Z, Y, X, C] in LPS orientation.
        labels: uint8 [Z, Y, X], or None without a label file.
        annotated: names of the structures annotated in it.
        coverage: `annotation.coverage` of the labels.
        intensity: one entry a channel: mean, std, minimum, maximum of the volume.
        foreground: [N, C] intensities at up to 10,000 voxels of annotated structures.
        warnings: what looks as if it was meant otherwise, one line each.
    """

    case_id: str
    image: Volume
    labels: np.ndarray | None
    annotated: tuple[str, ...]
    coverage: dict[str, dict[str, int]]
    intensity: list[dict[str, float]]
    foreground: np.ndarray
    warnings: tuple[str, ...] = ()


def canonical_spacing(
    source: CaseSource, options: ReadOptions = DEFAULT, channels: int | None = None
) -> tuple[float, float, float]:
    """The (z, y, x) spacing of a case in LPS orientation, from the header of its first image."""
    path = source.images[0]
    dimension = 0
    if not path.is_dir():
        reader = sitk.ImageFileReader()
        reader.SetFileName(str(path))
        try:
            reader.ReadImageInformation()
            dimension = reader.GetDimension()
            probe = sitk.Image([2] * dimension, sitk.sitkUInt8)
            probe.SetSpacing(reader.GetSpacing())
            probe.SetDirection(reader.GetDirection())
        except RuntimeError:
            dimension = 0
    if dimension != 3:
        # The full reader takes series and 4D files, and names what is wrong with a file.
        image = read_image((path,), options.series, options.channel, channels)
        return resampling.canonical(image).spacing
    return resampling.canonical(volume_io.from_sitk(probe)).spacing


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
        volume = resampling.canonical(volume)
        labels = resampling.resample_labels(volume, spacing).array[..., 0]
    image = resampling.resample_image(resampling.canonical(image), spacing)
    seen = labels if labels is not None else np.full(image.shape, IGNORE, np.uint8)
    inside = np.flatnonzero((seen != 0) & (seen != IGNORE))
    inside = inside[:: max(1, -(-inside.size // FOREGROUND_SAMPLES))]
    return ReadCase(
        case_id=source.case_id,
        image=image,
        labels=labels,
        annotated=annotated,
        coverage=annotation.coverage(seen, dataset.structures),
        intensity=_channel_statistics(image.array),
        foreground=image.array.reshape(-1, image.array.shape[-1])[inside],
        warnings=warnings,
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


def _channel_statistics(array: np.ndarray) -> list[dict[str, float]]:
    channels = array.reshape(-1, array.shape[-1]).astype(np.float64)
    return [
        {
            "mean": float(c.mean()),
            "std": float(c.std()),
            "minimum": float(c.min()),
            "maximum": float(c.max()),
        }
        for c in channels.T
    ]
