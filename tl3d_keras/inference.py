"""Whole-volume segmentation in tiles that give the same result whatever their size.

A U-Net commutes with shifts by its pooling stride, and its output at a voxel depends on the input
within its reach. Tiles that start at multiples of the stride and see the reach around them compute
what one pass over the whole volume would.

Group and instance normalisation look at the whole tile, so networks with them get tiles of the size
that they were trained on, overlapping by half for same padding, of which the middle counts.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tl3d_keras import resampling
from tl3d_keras.errors import InputError
from tl3d_keras.intensity import Intensity
from tl3d_keras.memory import available_memory
from tl3d_keras.unet3d import Geometry, UNet3D
from tl3d_keras.volumes import Volume

# Peak bytes a voxel of input and filter of the first level, measured with the default network.
_BYTES_PER_VOXEL_AND_FILTER = 60


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


def plan_axis(size: int, geometry: Geometry, max_input: int) -> list[Span]:
    """Cuts an axis into tiles.

    Args:
        size: voxels of the volume along the axis.
        geometry: of the network.
        max_input: most input voxels of a tile; the smallest possible tile may be larger.

    Returns:
        Tiles that cover 0..size without overlap, starting at multiples of the stride.
    """
    if geometry.padding == "valid":
        return _plan_valid(size, geometry, max_input)
    return _plan_same(size, geometry, max_input)


def _plan_valid(size: int, geometry: Geometry, max_input: int) -> list[Span]:
    margin, stride = geometry.margin, geometry.stride
    whole = geometry.input_size(size)
    if whole <= max_input:
        return [Span(-margin, whole, 0, size, 0)]
    read = geometry.input_size(stride)
    while read + stride <= max_input:
        read += stride
    step = (read - 2 * margin) // stride * stride
    return [
        Span(start - margin, read, start, min(start + step, size), 0)
        for start in range(0, size, step)
    ]


def _plan_same(size: int, geometry: Geometry, max_input: int) -> list[Span]:
    stride = geometry.stride
    whole = -(-size // stride) * stride
    if whole <= max_input:
        return [Span(0, whole, 0, size, 0)]
    halo = -(-geometry.reach // stride) * stride
    step = max(stride, (max_input - 2 * halo) // stride * stride)
    spans = []
    for start in range(0, size, step):
        read_start = max(0, start - halo)
        read_stop = min(whole, start + step + halo)
        spans.append(
            Span(
                read_start,
                read_stop - read_start,
                start,
                min(start + step, size),
                start - read_start,
            )
        )
    return spans


def plan_patches(size: int, geometry: Geometry, patch: int) -> list[Span]:
    """Cuts an axis into tiles of `patch` input voxels each, for a network with normalisation."""
    output = geometry.output_size(patch)
    if size <= output:
        starts = np.array([(size - output) // 2])
    else:
        step = output if geometry.padding == "valid" else output // 2
        starts = np.linspace(0, size - output, 1 + -(-(size - output) // step)).astype(int)
    # Between two tiles, what they share is halved.
    ends = [*((starts[1:] + starts[:-1] + output) // 2), size]
    begins = [0, *ends[:-1]]
    return [
        Span(int(start) - geometry.margin, patch, int(begin), int(end), int(begin - start))
        for start, begin, end in zip(starts, begins, ends, strict=True)
    ]


def plan_tiles(
    shape: Sequence[int], network: UNet3D, memory_bytes: float
) -> list[tuple[Span, Span, Span]]:
    """Chooses tiles (z, y, x) for a volume that fit the memory, as few and large as possible.

    Raises:
        InputError: not even the smallest tile fits.
    """
    geometry = network.geometry
    per_voxel = _BYTES_PER_VOXEL_AND_FILTER * network.get_config()["filters"]
    most_voxels = memory_bytes / per_voxel
    sizes = [geometry.input_size(n) for n in shape]
    axes = [plan_axis(n, geometry, m) for n, m in zip(shape, sizes, strict=True)]
    while _largest(axes) > most_voxels:
        # Shrinking the longest side keeps tiles near cubes, which have the least halo.
        longest = int(np.argmax([max(s.read_size for s in spans) for spans in axes]))
        sizes[longest] = max(s.read_size for s in axes[longest]) - geometry.stride
        spans = plan_axis(shape[longest], geometry, sizes[longest])
        if max(s.read_size for s in spans) > sizes[longest]:
            need = _largest(axes) * per_voxel / 2**30
            raise InputError(
                f"expected at least {need:.1f} GiB for the smallest tile of this "
                f"network, found {memory_bytes / 2**30:.1f} GiB; see --memory_gib"
            )
        axes[longest] = spans
    z, y, x = axes
    return list(product(z, y, x))


def _largest(axes: Sequence[Sequence[Span]]) -> int:
    return int(np.prod([max(s.read_size for s in spans) for spans in axes]))


class Segmenter:
    """Segments volumes with one network; compiles once for all tile shapes.

    Args:
        network: with weights; float32 or mixed precision.
        intensity: the normalisation that it was trained with.
        memory_bytes: limit for a tile's working memory; None takes `available_memory()`.
        patch_size: (Z, Y, X) of the training patches, the tiles of a network with normalisation.
    """

    def __init__(
        self,
        network: UNet3D,
        intensity: Intensity,
        memory_bytes: float | None = None,
        patch_size: Sequence[int] | None = None,
    ) -> None:
        self._network = network
        self._intensity = intensity
        self._patch_size = patch_size if network.get_config()["normalization"] else None
        self._memory_bytes = memory_bytes or available_memory()
        channels = network.get_config()["input_channels"]
        self._probabilities = tf.function(
            lambda tile: network(tile, training=False)[0],
            input_signature=[tf.TensorSpec([1, None, None, None, channels])],
            autograph=False,
        )
        self._labels = tf.function(
            lambda tile: tf.cast(tf.argmax(network(tile, training=False)[0], -1), tf.uint8),
            input_signature=self._probabilities.input_signature,
            autograph=False,
        )

    def labels(self, image: np.ndarray) -> np.ndarray:
        """Segments a raw volume.

        Args:
            image: [Z, Y, X, C] in the modality's units, at the network's spacing.

        Returns:
            uint8 [Z, Y, X], 0 for background and 1..K for the structures.
        """
        result = np.zeros(image.shape[:3], np.uint8)
        for where, tile in self._tiles(image, self._labels):
            result[where] = tile
        return result

    def probabilities(self, image: np.ndarray) -> np.ndarray:
        """As `labels`, but float32 [Z, Y, X, K + 1]."""
        classes = self._network.get_config()["num_classes"]
        result = np.zeros((*image.shape[:3], classes), np.float32)
        for where, tile in self._tiles(image, self._probabilities):
            result[where] = tile
        return result

    def _plan(self, shape: Sequence[int]) -> list[tuple[Span, Span, Span]]:
        if not self._patch_size:
            return plan_tiles(shape, self._network, self._memory_bytes)
        z, y, x = (
            plan_patches(n, self._network.geometry, patch)
            for n, patch in zip(shape, self._patch_size, strict=True)
        )
        return list(product(z, y, x))

    def _tiles(
        self, image: np.ndarray, function: Callable[[tf.Tensor], tf.Tensor]
    ) -> Iterator[tuple[tuple[slice, ...], np.ndarray]]:
        image = np.asarray(image, np.float32)
        scale, shift = self._intensity.coefficients(tf.constant(image))
        floor = image.min(axis=(0, 1, 2))
        for spans in self._plan(image.shape[:3]):
            raw = _read(image, spans, floor)
            tile = self._intensity.apply(tf.constant(raw), scale, shift)
            output = function(tile[tf.newaxis]).numpy()
            keep = tuple(slice(s.skip, s.skip + s.stop - s.start) for s in spans)
            yield tuple(slice(s.start, s.stop) for s in spans), output[keep]


def _read(image: np.ndarray, spans: Sequence[Span], floor: np.ndarray) -> np.ndarray:
    """The input of a tile; beyond the volume lies its lowest value, as in training."""
    tile = np.empty((*(s.read_size for s in spans), image.shape[-1]), np.float32)
    tile[:] = floor
    source, target = [], []
    for span, size in zip(spans, image.shape, strict=False):
        start, stop = max(0, span.read_start), min(size, span.read_start + span.read_size)
        source.append(slice(start, stop))
        target.append(slice(start - span.read_start, stop - span.read_start))
    tile[tuple(target)] = image[tuple(source)]
    return tile


def segment(volume: Volume, segmenter: Segmenter, spacing: Sequence[float]) -> Volume:
    """Segments a volume on any grid.

    Args:
        volume: as read from a file.
        segmenter: with the network.
        spacing: (z, y, x) in mm that the network was trained at.

    Returns:
        uint8 labels [Z, Y, X, 1] on exactly the grid of `volume`.
    """
    # Between whole numbers too, which an image of integers would lose.
    image = volume.with_array(volume.array.astype(np.float32, copy=False))
    seen = resampling.to_grid(image, spacing)
    labels = segmenter.labels(seen.array)
    return resampling.labels_onto(seen.with_array(labels[..., np.newaxis]), volume)
