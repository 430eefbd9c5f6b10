"""Chooses the exact tiles of a volume that take the least time within the memory."""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import product
from math import prod

import numpy as np

from tl3d_keras import tile_cost
from tl3d_keras.errors import InputError
from tl3d_keras.geometry import Geometry
from tl3d_keras.tile_cost import Network
from tl3d_keras.tiling import Axes, Span, plan_axis

# Counts of tiles an axis that are tried beyond the fewest.
_MORE_TILES = 12


def plan_tiles(
    shape: Sequence[int],
    network: Network,
    memory_bytes: float,
    probabilities: bool = False,
    wanted: Sequence[tuple[int, int]] | None = None,
    is_needed: Callable[[Axes], np.ndarray] | None = None,
) -> Axes:
    """Chooses the tiles that are predicted to take the least time of those that fit the memory.

    Args:
        shape: (Z, Y, X) of the volume.
        network: its configuration.
        memory_bytes: for one tile.
        probabilities: as `tile_cost.of_tile`.
        wanted: first and last of `plan_axis` for each axis; None for all.
        is_needed: tells for the product of three axes' tiles which of them are computed, boolean
            [tiles along z, y, x]; None for all.

    Returns:
        The tiles along each axis; their products are the volume's.

    Raises:
        InputError: not even the smallest tile fits.
    """
    geometry = Geometry(network.levels, network.padding)
    bounds = wanted or [(0, n) for n in shape]
    choices = [
        _choices(n, geometry, first, last) for n, (first, last) in zip(shape, bounds, strict=True)
    ]
    largest = [[_largest(spans) for spans in axis] for axis in choices]

    def fits(z: int, y: int, x: int) -> bool:
        size = largest[0][z], largest[1][y], largest[2][x]
        cost = tile_cost.of_tile(network, size, probabilities)
        return cost.bytes <= memory_bytes and cost.numbers <= tile_cost.MOST_NUMBERS

    if not fits(-1, -1, -1):
        size = largest[0][-1], largest[1][-1], largest[2][-1]
        need = tile_cost.of_tile(network, size, probabilities).bytes
        raise InputError(
            f"expected at least {need / 2**30:.2f} GiB for the smallest tile of this network, "
            f"found {max(0, memory_bytes) / 2**30:.2f} GiB left for it; see --memory_gib"
        )
    best: tuple[float, Axes] | None = None
    for z, y, x in _frontier(fits, [len(axis) for axis in choices], is_needed is not None):
        axes = choices[0][z], choices[1][y], choices[2][x]
        seconds = seconds_of(axes, network, probabilities, is_needed)
        if best is None or seconds < best[0]:
            best = seconds, axes
    if best is None:
        raise AssertionError("the smallest tile fits and is not among the choices")
    return best[1]


def seconds_of(
    axes: Axes,
    network: Network,
    probabilities: bool = False,
    is_needed: Callable[[Axes], np.ndarray] | None = None,
) -> float:
    """Predicted seconds of all tiles of a plan; the arguments are those of `plan_tiles`."""

    sizes = [np.array([s.read_size for s in spans]) for spans in axes]
    needed = None if is_needed is None else is_needed(axes)
    total = 0.0
    for z, y, x in product(*map(np.unique, sizes)):
        alike = [np.flatnonzero(along == n) for along, n in zip(sizes, (z, y, x), strict=True)]
        count = prod(map(len, alike)) if needed is None else needed[np.ix_(*alike)].sum()
        size = int(z), int(y), int(x)
        total += int(count) * tile_cost.of_tile(network, size, probabilities).seconds
    return total


@lru_cache(maxsize=256)
def _choices(size: int, geometry: Geometry, first: int, last: int) -> tuple[list[Span], ...]:
    """The ways to cut an axis into equal tiles, from one tile on to tiles of a stride."""
    strides = -(-(last - first) // geometry.stride)
    counts = {-(-strides // count) for count in range(1, strides + 1)}
    choices: list[list[Span]] = []
    for step in sorted(counts, reverse=True):
        spans = plan_axis(size, geometry, step * geometry.stride, first, last)
        # Tiles at the border read less, so that more tiles may be larger ones.
        if not choices or _largest(spans) < _largest(choices[-1]):
            choices.append(spans)
    return tuple(choices)


def _largest(spans: Sequence[Span]) -> int:
    return max(s.read_size for s in spans)


def _frontier(
    fits: Callable[[int, int, int], bool], counts: Sequence[int], more: bool
) -> Iterator[tuple[int, int, int]]:
    """For each choice along z and y, the largest tile along x that fits; with `more` smaller, too.

    Tiles become smaller with the index, so what fits is everything from a first index on.
    """
    for z in range(counts[0]):
        x = 0
        # Smaller tiles along y leave room for larger ones along x.
        for y in reversed(range(counts[1])):
            while x < counts[2] and not fits(z, y, x):
                x += 1
            if x == counts[2]:
                break
            for smaller in range(x, min(counts[2], x + _MORE_TILES) if more else x + 1):
                yield z, y, smaller
