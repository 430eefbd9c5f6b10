"""Which tiles a volume is cut into: exact ones, as cheap as the memory allows, or blended patches.

A U-Net commutes with shifts by its pooling stride, and its output at a voxel depends on the input
within its reach. Tiles that start at multiples of the stride and see the reach around them compute
what one pass over the whole volume would.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import pairwise, product
from math import prod
from typing import NamedTuple

import numpy as np

from tl3d_keras import tile_cost
from tl3d_keras.errors import InputError
from tl3d_keras.geometry import Geometry
from tl3d_keras.tile_cost import Network

# Counts of tiles an axis that are tried beyond the fewest.
_MORE_TILES = 12
# Of a patch's weights, in patches (arXiv 1904.08128).
_SIGMA = 1 / 8


class Span(NamedTuple):
    """One tile along one axis, in voxels of the volume.

    Attributes:
        read_start: first input voxel, may be negative.
        read_size: input voxels.
        start: first output voxel to keep.
        stop: end of the output voxels to keep.
        skip: output voxels of the network in front of `start`.
    """

    read_start: int
    read_size: int
    start: int
    stop: int
    skip: int


Axes = tuple[list[Span], list[Span], list[Span]]
Tile = tuple[Span, Span, Span]


def plan_axis(
    size: int, geometry: Geometry, step: int, first: int = 0, last: int | None = None
) -> list[Span]:
    """Cuts an axis into tiles that together give what one pass would.

    Args:
        size: voxels of the volume along the axis.
        geometry: of the network.
        step: output voxels of a tile, rounded up to a multiple of the stride.
        first: first voxel whose output is wanted, a multiple of the stride.
        last: end of the wanted ones; None for `size`.

    Returns:
        Tiles that cover first..last without overlap, starting at multiples of the stride.
    """
    stride, margin = geometry.stride, geometry.margin
    last = size if last is None else last
    step = -(-step // stride) * stride
    starts = range(first, last, step)
    if geometry.padding == "valid":
        read = geometry.input_size(min(step, last - first))
        return [Span(n - margin, read, n, min(n + step, last), 0) for n in starts]
    whole = -(-size // stride) * stride
    halo = -(-geometry.reach // stride) * stride
    spans = []
    for start in starts:
        stop = min(start + step, last)
        begin = max(0, start - halo)
        end = min(whole, -(-stop // stride) * stride + halo)
        spans.append(Span(begin, end - begin, start, stop, start - begin))
    return spans


def plan_patches(size: int, geometry: Geometry, patch: int) -> list[Span]:
    """Cuts an axis into tiles of `patch` input voxels each, for a network with normalisation.

    With same padding they overlap by half. Between two tiles, what they share is halved.
    """
    overlap = 0.0 if geometry.padding == "valid" else 0.5
    spans = plan_overlapping(size, geometry, patch, overlap)
    ends = [*((a.stop + b.start) // 2 for a, b in pairwise(spans)), size]
    begins = [0, *ends[:-1]]
    return [
        span._replace(start=begin, stop=end, skip=begin - span.read_start - geometry.margin)
        for span, begin, end in zip(spans, begins, ends, strict=True)
    ]


def plan_overlapping(size: int, geometry: Geometry, patch: int, overlap: float) -> list[Span]:
    """Cuts an axis into tiles of `patch` input voxels each, all of whose output counts.

    Args:
        size: voxels of the volume along the axis.
        geometry: of the network.
        patch: input voxels.
        overlap: the least part of a tile's output that it shares with the next one's.
    """
    output = geometry.output_size(patch)
    starts = np.array([min(0, (size - output) // 2)])
    if size > output:
        step = max(1, int(output * (1 - overlap)))
        starts = np.linspace(0, size - output, 1 + -(-(size - output) // step)).astype(int)
    return [
        Span(
            int(n) - geometry.margin, patch, max(0, int(n)), min(size, int(n) + output), max(0, -n)
        )
        for n in starts.tolist()
    ]


def blending_weights(spans: Sequence[Span], output: int) -> list[np.ndarray]:
    """Weights of each tile's kept voxels along an axis, which sum to 1 at each voxel.

    They fall off from the tile's middle as a Gaussian. Those of three axes multiply to those of a
    volume, and sum to 1 there, too.

    Args:
        spans: as `plan_overlapping` gives them.
        output: output voxels of a patch.
    """
    place = (np.arange(output) - (output - 1) / 2) / (_SIGMA * output)
    whole = np.exp(-0.5 * place**2)
    weights = [whole[s.skip : s.skip + s.stop - s.start] for s in spans]
    total = np.zeros(spans[-1].stop)
    for span, weight in zip(spans, weights, strict=True):
        total[span.start : span.stop] += weight
    return [
        (weight / total[span.start : span.stop]).astype(np.float32)
        for span, weight in zip(spans, weights, strict=True)
    ]


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


def tiles(axes: Axes) -> list[Tile]:
    """All tiles of a plan, in the order in which they lie in memory."""
    return list(product(*axes))


def place(tile: Tile) -> tuple[slice, slice, slice]:
    """Where a tile's kept voxels lie in the volume."""
    z, y, x = (slice(span.start, span.stop) for span in tile)
    return z, y, x


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
