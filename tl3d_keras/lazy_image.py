"""Images that are read box by box, so that no second copy of a large one is ever whole."""

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np

from tl3d_keras import argument_checks, resampling
from tl3d_keras.distribution import summaries
from tl3d_keras.tiling import Tile
from tl3d_keras.volumes import Volume

_SLAB_VOXELS = 1 << 24


class LazyImage(Protocol):
    """An image [Z, Y, X, C] of raw intensities.

    Attributes:
        shape: (Z, Y, X).
        channels: C.
        nbytes: what it holds in memory, or will before its segmentation is written.
    """

    shape: tuple[int, int, int]
    channels: int
    nbytes: int

    def statistics(self) -> list[dict[str, float]] | None:
        """`distribution.summaries` of the scan, where those of the image would be others."""

    def read(self, start: Sequence[int], stop: Sequence[int]) -> np.ndarray:
        """The box start..stop (z, y, x), which lies within the image, [z, y, x, C]."""


class ArrayImage:
    """An array [Z, Y, X, C] as it is.

    Args:
        array: the array.
        statistics: see `LazyImage`.
    """

    def __init__(self, array: np.ndarray, statistics: list[dict[str, float]] | None = None) -> None:
        self._array, self._statistics = array, statistics
        z, y, x, self.channels = array.shape
        self.shape = (z, y, x)
        self.nbytes = array.nbytes

    def statistics(self) -> list[dict[str, float]] | None:
        """See `LazyImage`."""
        return self._statistics

    def read(self, start: Sequence[int], stop: Sequence[int]) -> np.ndarray:
        """See `LazyImage`; a view."""
        return self._array[tuple(map(slice, start, stop))]


def as_lazy(image: np.ndarray | LazyImage, channels: int) -> LazyImage:
    """An image, or an array [Z, Y, X, C] as one.

    Raises:
        InputError: another shape, or other than so many channels.
    """
    if isinstance(image, np.ndarray):
        argument_checks.check_image(image.shape, channels)
        return ArrayImage(image)
    argument_checks.check_image((*image.shape, image.channels), channels)
    return image


class GridImage:
    """The image that `resampling.to_grid` gives in float32, resampled where it is read.

    Args:
        volume: on any grid.
        spacing: (z, y, x) in mm of the image.
    """

    def __init__(self, volume: Volume, spacing: Sequence[float]) -> None:
        upright = self._upright = resampling.is_aligned(volume)
        self._volume = resampling.canonical(volume) if upright else volume
        self.grid = resampling.grid_of(volume, spacing)
        self._as_it_is = upright and np.allclose(self._volume.spacing, spacing)
        self.shape = self.grid.shape
        self.channels = volume.array.shape[-1]
        # Labels on the volume's grid, and the image of them that is written.
        self.nbytes = volume.array.nbytes + 3 * math.prod(volume.shape)
        # As `to_grid`: an upright volume covers its grid.
        self._floor = [0] * self.channels if upright else volume.array.min(axis=(0, 1, 2)).tolist()
        affine = _affine(self._volume)
        self._from_grid = np.linalg.solve(affine, _affine(self.grid))[:3]

    def statistics(self) -> list[dict[str, float]] | None:
        """See `LazyImage`; the grid around an oblique volume has empty corners."""
        return None if self._upright else summaries(self._volume.array)

    def read(self, start: Sequence[int], stop: Sequence[int]) -> np.ndarray:
        """See `LazyImage`."""
        if self._as_it_is:
            return self._volume.array[tuple(map(slice, start, stop))]
        corners = np.stack(np.meshgrid(*[(a, b - 1) for a, b in zip(start, stop, strict=True)]))
        corners = np.concatenate([corners.reshape(3, -1)[::-1], np.ones((1, 8))])
        # Where they lie in the volume, (z, y, x), and its voxels around them.
        places = (self._from_grid @ corners)[::-1]
        limits = np.array(self._volume.shape)
        first = np.clip(np.floor(places.min(1)).astype(int) - 1, 0, limits - 1)
        last = np.clip(np.ceil(places.max(1)).astype(int) + 2, first + 1, limits)
        part = _box(self._volume, first.tolist(), last.tolist())
        # Between whole numbers too, which an image of integers would lose.
        part = part.with_array(part.array.astype(np.float32))
        return resampling.interpolated(part, _box(self.grid, start, stop), self._floor)


def slabs(image: LazyImage) -> Iterator[tuple[int, np.ndarray]]:
    """The image slab by slab along Z: first slice and array."""
    depth, *plane = image.shape
    step = max(1, _SLAB_VOXELS // (plane[0] * plane[1]))
    for first in range(0, depth, step):
        yield first, image.read((first, 0, 0), (min(depth, first + step), *plane))


def read_ahead(
    image: LazyImage, tiles: Sequence[Tile], floor: np.ndarray
) -> Iterator[tuple[Tile, np.ndarray]]:
    """What each tile reads, float32 [z, y, x, C]; the next is read while the last is worked on.

    Args:
        image: the image.
        tiles: of it.
        floor: [C], what lies beyond it.
    """
    if not tiles:
        return
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(_read, image, tiles[0], floor)
        for number, tile in enumerate(tiles, start=1):
            raw = coming.result()
            if number < len(tiles):
                coming = pool.submit(_read, image, tiles[number], floor)
            yield tile, raw


def _read(image: LazyImage, tile: Tile, floor: np.ndarray) -> np.ndarray:
    raw = np.empty((*(s.read_size for s in tile), image.channels), np.float32)
    start = [max(0, s.read_start) for s in tile]
    stop = [min(n, s.read_start + s.read_size) for s, n in zip(tile, image.shape, strict=True)]
    inside = tuple(
        slice(a - s.read_start, b - s.read_start) for a, b, s in zip(start, stop, tile, strict=True)
    )
    found = image.read(start, stop)
    if found.shape != raw.shape:
        raw[:] = floor
    raw[inside] = found
    return raw


def _box(volume: Volume, start: Sequence[int], stop: Sequence[int]) -> Volume:
    origin = _affine(volume) @ [*start[::-1], 1]
    return Volume(
        volume.array[tuple(map(slice, start, stop))],
        volume.spacing,
        tuple(origin[:3].tolist()),
        volume.direction,
    )


def _affine(volume: Volume) -> np.ndarray:
    """4x4, from (x, y, z, 1) of a voxel to its place in mm."""
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(volume.direction, (3, 3)) * volume.spacing[::-1]
    affine[:3, 3] = volume.origin
    return affine
