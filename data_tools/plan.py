"""What sharding will do, from the headers of the files: which case goes to which shard."""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import SimpleITK as sitk

from data_tools.layouts import CaseSource
from data_tools.reading import ReadOptions, read_image
from tl3d_keras import nifti, regular_file, resampling
from tl3d_keras.errors import InputError
from tl3d_keras.manifest import SCHEMA_VERSION, crc32c

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

# Upper bounds, for images may become float32, and labels rarely change at every fourth voxel.
_IMAGE_BYTES_PER_VALUE, _LABEL_BYTES_PER_VOXEL, _FIXED_BYTES = 4, 1, 4096


@dataclass(frozen=True)
class Header:
    """What a case's first image says before it is read.

    Attributes:
        spacing: (z, y, x) in mm, along superior, posterior, left.
        shape: (Z, Y, X) that covers the volume at that spacing.
    """

    spacing: tuple[float, float, float]
    shape: tuple[int, int, int]


@dataclass(frozen=True)
class PlannedCase:
    """A case, its header and the shape that it will have."""

    source: CaseSource
    header: Header
    shape: tuple[int, int, int]


@dataclass(frozen=True)
class PlannedShard:
    """A shard before it is written.

    Attributes:
        file: its name.
        key: CRC32C of what it is made from: the files, their sizes and times, and the settings.
        cases: in order.
    """

    file: str
    key: str
    cases: tuple[PlannedCase, ...]


def read_header(source: CaseSource, options: ReadOptions, channels: int) -> Header:
    """Reads the header of a case's first image, where the format allows without its voxels.

    Args:
        source: the case's files.
        options: how they are read.
        channels: how many the data set declares.

    Raises:
        InputError: what is wrong with the file.
    """
    path = source.images[0]
    regular_file.check(path)
    dimension = 0
    if not path.is_dir():
        reader = sitk.ImageFileReader()
        reader.SetFileName(str(path))
        with suppress(RuntimeError, InputError):
            if path.name.lower().endswith(nifti.SUFFIXES):
                # Lest its library writes lines of its own about a header that is none.
                nifti.check_header(path)
            reader.ReadImageInformation()
            dimension = reader.GetDimension()
    if dimension not in (3, 4):
        # A folder of DICOM, or the full reader names what is wrong with the file.
        volume = read_image((path,), options.series, options.channel, channels)
        return _header(volume.shape[::-1], volume.spacing[::-1], volume.direction)
    direction = np.reshape(reader.GetDirection(), (dimension, dimension))[:3, :3]
    return _header(reader.GetSize()[:3], reader.GetSpacing()[:3], direction.ravel().tolist())


def make_plan(
    cases: Sequence[tuple[CaseSource, Header]],
    channels: int,
    spacing: Sequence[float],
    shard_bytes: int,
    settings: "DataclassInstance",
) -> list[PlannedShard]:
    """Deals the cases to shards in order, none larger than `shard_bytes` unless by one case alone.

    Args:
        cases: with their headers.
        channels: of every case.
        spacing: (z, y, x) in mm of the records.
        shard_bytes: limit of a shard.
        settings: all else that the records depend on; it becomes part of the keys.
    """
    groups: list[list[PlannedCase]] = []
    filled = 0
    for source, header in cases:
        shape = resampling.resampled_shape(header.shape, header.spacing, spacing)
        voxels = shape[0] * shape[1] * shape[2]
        size = voxels * (channels * _IMAGE_BYTES_PER_VALUE + _LABEL_BYTES_PER_VOXEL) + _FIXED_BYTES
        if not groups or filled + size > shard_bytes:
            groups.append([])
            filled = 0
        groups[-1].append(PlannedCase(source, header, shape))
        filled += size
    return [
        PlannedShard(f"shard-{i:05d}.tfrecord", _key(group, tuple(spacing), settings), tuple(group))
        for i, group in enumerate(groups)
    ]


def _header(size: Sequence[int], spacing: Sequence[float], direction: Sequence[float]) -> Header:
    """From ITK's (x, y, z) order of the file's own axes."""
    extent = np.abs(np.reshape(direction, (3, 3))) * np.multiply(size, spacing)
    letters = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(list(direction))
    axis = ["LRPASI".index(letter) // 2 for letter in letters]
    along = np.empty(3)
    along[axis] = spacing
    z, y, x = (max(1, round(e)) for e in (extent.sum(1) / along)[::-1])
    return Header((float(along[2]), float(along[1]), float(along[0])), (z, y, x))


def _key(
    cases: Sequence[PlannedCase], spacing: tuple[float, ...], settings: "DataclassInstance"
) -> str:
    content = {
        "schema": SCHEMA_VERSION,
        "spacing": spacing,
        "settings": asdict(settings),
        "cases": [
            {"source": asdict(case.source), "files": list(_states(asdict(case.source)))}
            for case in cases
        ],
    }
    return crc32c(json.dumps(content, default=str, sort_keys=True).encode())


def _states(value: Any) -> Iterator[tuple[str, int, int]]:
    """Name, size and time of every file in a case's source, however nested."""
    if isinstance(value, Path):
        files = sorted(value.iterdir()) if value.is_dir() else [value]
        for file in files:
            state = os.stat(file)
            yield str(file), state.st_size, state.st_mtime_ns
    elif isinstance(value, dict):
        for item in value.values():
            yield from _states(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _states(item)
