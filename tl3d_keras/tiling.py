"""Ways to cut an axis into tiles: exact ones, and training patches that meet or are blended.

A U-Net commutes with shifts by its pooling stride, and its output at a voxel depends on the input
within its reach. Tiles that start at multiples of the stride and see the reach around them compute
what one pass over the whole volume would.
"""

from collections.abc import Sequence
from itertools import pairwise, product
from typing import NamedTuple

import numpy as np

from tl3d_keras.geometry import Geometry

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


def tiles(axes: Axes) -> list[Tile]:
    """All tiles of a plan, in the order in which they lie in memory."""
    return list(product(*axes))


def place(tile: Tile) -> tuple[slice, slice, slice]:
    """Where a tile's kept voxels lie in the volume."""
    z, y, x = (slice(span.start, span.stop) for span in tile)
    return z, y, x
