"""One case from its files to the features of its record, wherever the work is done."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from data_tools import case_reader
from data_tools.case_reader import ReadCase
from data_tools.layouts import DataSet
from data_tools.plan import PlannedCase
from data_tools.reading import ReadOptions
from tl3d_keras import annotation
from tl3d_keras.annotation import IGNORE
from tl3d_keras.case_fields import Fields, make_fields
from tl3d_keras.distribution import Distribution, describe
from tl3d_keras.errors import InputError
from tl3d_keras.manifest import StructureStatistics

# Below this, CT is air, around the body and in it.
CT_AIR = -500


@dataclass(frozen=True)
class Settings:
    """What records depend on beside the files.

    Attributes:
        dataset: without its cases.
        spacing: (z, y, x) in mm of the records.
        options: of reading.
        encoding: of the images: "raw" or "zlib".
    """

    dataset: DataSet
    spacing: tuple[float, float, float]
    options: ReadOptions
    encoding: str


@dataclass(frozen=True)
class PreparedCase:
    """A case ready to be written.

    Attributes:
        fields: the features of its record.
        entry: the arguments of `manifest.CaseEntry` but for where the record lies.
    """

    fields: Fields
    entry: dict[str, Any]


@dataclass(frozen=True)
class SkippedCase:
    """A case that cannot be read, and why."""

    case_id: str
    reason: str


def prepare(planned: PlannedCase, settings: Settings) -> PreparedCase | SkippedCase:
    """Reads a case and makes its features; what is wrong with its files makes it a skipped case."""
    try:
        case = case_reader.read_case(
            planned.source, settings.dataset, settings.spacing, settings.options
        )
    except InputError as error:
        return SkippedCase(planned.source.case_id, str(error))
    except OSError as error:
        return SkippedCase(planned.source.case_id, f"{error.filename}: {error.strerror}")
    except MemoryError:
        return SkippedCase(
            planned.source.case_id,
            f"{planned.source.images[0]}: expected memory for this case, found too little; fewer "
            "--workers leave more",
        )
    header = planned.header
    dataset = settings.dataset
    return prepare_arrays(
        case, header.spacing, header.shape, dataset.structures, dataset.channels, settings.encoding
    )


def prepare_arrays(
    case: ReadCase,
    source_spacing: Sequence[float],
    source_shape: Sequence[int],
    structures: Sequence[str],
    channels: Sequence[str],
    encoding: str = "raw",
) -> PreparedCase:
    """Makes the features of a case that has been read.

    Args:
        case: on the records' grid.
        source_spacing: (z, y, x) in mm of its files.
        source_shape: (Z, Y, X) of its files.
        structures: of the data set.
        channels: likewise.
        encoding: of the image: "raw" or "zlib".
    """
    numbers = [structures.index(name) + 1 for name in case.annotated]
    entry = {
        "case_id": case.case_id,
        "shape": case.image.array.shape,
        "annotated_structures": list(case.annotated),
        "source_spacing": source_spacing,
        "source_shape": source_shape,
        "warnings": list(case.warnings),
        **_statistics(case, structures, channels),
    }
    fields = make_fields(case.case_id, case.image, case.labels, numbers, encoding)
    return PreparedCase(fields, entry)


def without_cases(dataset: DataSet) -> DataSet:
    """The data set's names and values alone, small enough to send along with every case."""
    return replace(dataset, cases=())


def is_ct(channels: Sequence[str]) -> bool:
    """Whether every channel is CT by name, so that its values are Hounsfield units."""
    return all(name.upper() == "CT" for name in channels)


def _statistics(case: ReadCase, names: Sequence[str], channels: Sequence[str]) -> dict[str, Any]:
    array, labels = case.image.array, case.labels
    if labels is None:
        labels = np.full(case.image.shape, IGNORE, np.uint8)
    coverage = annotation.coverage(labels, names)
    voxel_ml = float(np.prod(case.image.spacing)) / 1000
    boxes = ndimage.find_objects(labels, max_label=len(names))
    structures = {
        name: StructureStatistics(
            coverage[name]["voxels"] * voxel_ml, _describe(array[box], labels[box] == value)
        )
        for value, (name, box) in enumerate(zip(names, boxes, strict=True), start=1)
        if box
    }
    return {
        "coverage": coverage,
        "intensity": case.intensity,
        "body": _describe(array, _body(array[..., 0], is_ct(channels))),
        "foreground": _describe(array, (labels != 0) & (labels != IGNORE)),
        "structures": structures,
    }


def _describe(array: np.ndarray, mask: np.ndarray) -> list[Distribution]:
    """One distribution a channel, or none at all where the mask is empty."""
    inside = array[mask]
    return [describe(channel) for channel in inside.T] if len(inside) else []


def _body(channel: np.ndarray, ct: bool) -> np.ndarray:
    """Where the body is: above air in CT, else above Otsu's threshold (Otsu 1979)."""
    if ct:
        return channel > CT_AIR
    otsu = sitk.OtsuThresholdImageFilter()
    otsu.Execute(sitk.GetImageFromArray(channel))
    return channel > otsu.GetThreshold()
