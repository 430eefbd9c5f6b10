"""Segmentation tile by tile in a graph: exact tiles, or blended patches as in `blending`.

The tiles lie elsewhere than `tiling` puts them, for all are of one size, and the labels are alike.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import tensorflow as tf

from tl3d_keras.intensity import Intensity
from tl3d_keras.tiling import SIGMA
from tl3d_keras.unet3d import Geometry

Logits = Callable[[tf.Tensor], tf.Tensor]


class Spans(NamedTuple):
    """The tiles along one axis, as `tiling.Span` but n at once: int32 [n], or [] for the size.

    Attributes:
        read_starts: first input voxels, may be negative.
        read_size: input voxels of each.
        starts: first output voxels to keep.
        stops: ends of the output voxels to keep.
        skips: output voxels of the network in front of `starts`.
    """

    read_starts: tf.Tensor
    read_size: tf.Tensor
    starts: tf.Tensor
    stops: tf.Tensor
    skips: tf.Tensor


def plan_axis(size: tf.Tensor, geometry: Geometry, tile: int) -> Spans:
    """Cuts an axis into exact tiles of one size.

    Args:
        size: int [], voxels of the volume along the axis.
        geometry: of the network.
        tile: most input voxels of a tile; the smallest possible tile may be larger.
    """
    stride, margin = geometry.stride, geometry.margin
    # Sizes that the network gives are all alike modulo the stride.
    rest = geometry.output_size(geometry.input_size(1)) % stride
    output = size + (rest - size) % stride
    if geometry.padding == "valid":
        least = geometry.input_size(stride)
        most = least + max(0, tile - least) // stride * stride
        read_size = tf.minimum(output + 2 * margin, most)
        kept = read_size - 2 * margin
        step = tf.where(kept < size, kept // stride * stride, size)
        starts = tf.range(0, size, step)
        read_starts = starts - margin
    else:
        halo = -(-geometry.reach // stride) * stride
        inner = max(stride, (tile - 2 * halo) // stride * stride)
        whole = output <= tile
        step = tf.where(whole, size, inner)
        read_size = tf.where(whole, output, tf.minimum(output, inner + 2 * halo))
        starts = tf.range(0, size, step)
        read_starts = tf.clip_by_value(starts - halo, 0, output - read_size)
    stops = tf.minimum(starts + step, size)
    return Spans(read_starts, read_size, starts, stops, starts - read_starts - margin)


def plan_patches(size: tf.Tensor, geometry: Geometry, patch: int, overlap: float) -> Spans:
    """`tiling.plan_patches`."""
    output = geometry.output_size(patch)
    step = max(1, int(output * (1 - overlap)))
    room = size - output
    number = 1 + tf.maximum(0, -(-room // step))
    # As numpy.linspace has it, whose rounding down would otherwise differ now and then.
    each = tf.cast(room, tf.float64) / tf.cast(tf.maximum(1, number - 1), tf.float64)
    spread = tf.cast(tf.cast(tf.range(number - 1), tf.float64) * each, tf.int32)
    last = tf.where(room > 0, room, room // 2)
    places = tf.concat([spread, last[tf.newaxis]], 0)
    starts, stops = tf.maximum(places, 0), tf.minimum(places + output, size)
    return Spans(places - geometry.margin, tf.constant(patch), starts, stops, starts - places)


class Tiles:
    """Reads an image at a model's spacing tile by tile and puts it through the network.

    Args:
        image: raw, [Z, Y, X, C].
        axes: the tiles along each axis.
        intensity: the normalisation.
        logits: as `forward.fast_logits` gives it.
    """

    def __init__(
        self, image: tf.Tensor, axes: Sequence[Spans], intensity: Intensity, logits: Logits
    ) -> None:
        self.axes = axes
        self.shape = tf.shape(image)[:3]
        self._image = image
        self._intensity = intensity
        self._logits = logits
        self._scale, self._shift = intensity.coefficients(image)
        # Beyond the volume lies its lowest value, as in training.
        self._floor = tf.reduce_min(image, [0, 1, 2])

    def logits(self, *indices: tf.Tensor) -> tf.Tensor:
        """All that the network gives for the tile (z, y, x), [z, y, x, K + 1]."""
        tile, outside = self._image, tf.zeros([1, 1, 1], tf.bool)
        for axis, (spans, i) in enumerate(zip(self.axes, indices, strict=True)):
            place = spans.read_starts[i] + tf.range(spans.read_size)
            inside = tf.clip_by_value(place, 0, self.shape[axis] - 1)
            tile = tf.gather(tile, inside, axis=axis)
            outside |= _along(axis, place != inside)
        tile = tf.where(outside[..., tf.newaxis], self._floor, tile)
        tile = self._intensity.apply(tile, self._scale, self._shift)
        return self._logits(tile[tf.newaxis])[0]


def exact_labels(tiles: Tiles) -> tf.Tensor:
    """uint8 labels [Z, Y, X] from tiles of `plan_axis`."""

    def labels(*indices: tf.Tensor) -> tf.Tensor:
        output = tiles.logits(*indices)
        for axis, (spans, i) in enumerate(zip(tiles.axes, indices, strict=True)):
            kept = spans.skips[i] + tf.range(spans.stops[i] - spans.starts[i])
            output = tf.gather(output, kept, axis=axis)
        return _labels(output)

    z, y, x = (tf.size(spans.starts) for spans in tiles.axes)
    return _join(0, z, lambda k: _join(1, y, lambda j: _join(2, x, lambda i: labels(k, j, i))))


def blended_labels(tiles: Tiles, classes: int) -> tf.Tensor:
    """uint8 labels [Z, Y, X] from patches of `plan_patches`, blended as `blending` does.

    Of the probabilities, one layer of patches is held.
    """
    z, y, x = (Weights(*both) for both in zip(tiles.axes, tf.unstack(tiles.shape), strict=True))
    depth = tf.reduce_max(z.spans.stops - z.spans.starts)

    def patch(k: tf.Tensor, j: tf.Tensor, i: tf.Tensor) -> tf.Tensor:
        probabilities = tf.nn.softmax(tiles.logits(k, j, i))
        kept = z.spans.skips[k] + tf.range(z.spans.stops[k] - z.spans.starts[k])
        weights = tf.gather(z.weights[k], z.spans.starts[k] + tf.range(tf.size(kept)))
        return tf.gather(probabilities, kept, axis=0) * _along(0, weights)[..., tf.newaxis]

    def layer(k: tf.Tensor) -> tf.Tensor:
        size = z.spans.stops[k] - z.spans.starts[k]
        shape = [size, tf.shape(y.weights)[1], tf.shape(x.weights)[1], classes]
        row = [size, tiles.axes[1].read_size - 2 * y.margin, shape[2], classes]
        sums = y.sum(1, shape, lambda j: x.sum(2, row, lambda i: patch(k, j, i)))
        return tf.pad(sums, [[0, depth - size], [0, 0], [0, 0], [0, 0]])

    ends = tf.concat([z.spans.starts[1:], tiles.shape[:1]], 0)

    def step(
        k: tf.Tensor, sums: tf.Tensor, pieces: tf.TensorArray
    ) -> tuple[tf.Tensor, tf.Tensor, tf.TensorArray]:
        sums += layer(k)
        finished = ends[k] - z.spans.starts[k]
        pieces = pieces.write(k, _labels(sums[:finished]))
        return k + 1, tf.pad(sums[finished:], [[0, finished], [0, 0], [0, 0], [0, 0]]), pieces

    number = tf.size(ends)
    _, _, pieces = tf.while_loop(
        lambda k, *_: k < number,
        step,
        (
            tf.constant(0),
            tf.zeros([depth, tiles.shape[1], tiles.shape[2], classes]),
            _pieces(number),
        ),
        shape_invariants=(
            tf.TensorShape([]),
            tf.TensorShape([None, None, None, classes]),
            tf.TensorShape(None),
        ),
        parallel_iterations=1,
    )
    return pieces.concat()


class Weights:
    """Of the patches along an axis, as `tiling.blending_weights`: float32 [n, size]."""

    def __init__(self, spans: Spans, size: tf.Tensor) -> None:
        self.spans = spans
        self._starts = spans.starts - spans.skips
        self.margin = (self._starts - spans.read_starts)[0]
        output = spans.read_size - 2 * self.margin
        middle = tf.cast(output - 1, tf.float64) / 2
        place = tf.range(size)[tf.newaxis] - self._starts[:, tf.newaxis]
        self._index = tf.clip_by_value(place, 0, output - 1)
        scaled = (tf.cast(place, tf.float64) - middle) / (SIGMA * tf.cast(output, tf.float64))
        weights = tf.where(place == self._index, tf.exp(-0.5 * scaled**2), 0)
        self.weights = tf.cast(weights / tf.reduce_sum(weights, 0), tf.float32)

    def sum(
        self, axis: int, shape: Sequence[tf.Tensor], piece: Callable[[tf.Tensor], tf.Tensor]
    ) -> tf.Tensor:
        """The weighted sum [*shape] of what `piece` gives for each patch, one at a time."""

        def add(i: tf.Tensor, sums: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            weights = _along(axis, self.weights[i])[..., tf.newaxis]
            return i + 1, sums + tf.gather(piece(i), self._index[i], axis=axis) * weights

        number = tf.size(self._starts)
        classes = shape[-1]
        _, sums = tf.while_loop(
            lambda i, _: i < number,
            add,
            (tf.constant(0), tf.zeros(shape)),
            shape_invariants=(tf.TensorShape([]), tf.TensorShape([None, None, None, classes])),
            parallel_iterations=1,
        )
        return sums


def _along(axis: int, values: tf.Tensor) -> tf.Tensor:
    """A vector as a volume [z, y, x] of one voxel along the other axes."""
    return tf.reshape(values, [-1 if other == axis else 1 for other in range(3)])


def _labels(scores: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.argmax(scores, -1, tf.int32), tf.uint8)


def _pieces(number: tf.Tensor) -> tf.TensorArray:
    return tf.TensorArray(tf.uint8, number, infer_shape=False, element_shape=[None] * 3)


def _join(axis: int, number: tf.Tensor, piece: Callable[[tf.Tensor], tf.Tensor]) -> tf.Tensor:
    """`tf.concat([piece(0), ..., piece(number - 1)], axis)` of uint8 [Z, Y, X], one at a time."""
    to_front = [axis, *(other for other in range(3) if other != axis)]
    back = [to_front.index(other) for other in range(3)]
    pieces = _pieces(number)
    _, pieces = tf.while_loop(
        lambda i, _: i < number,
        lambda i, pieces: (i + 1, pieces.write(i, tf.transpose(piece(i), to_front))),
        (tf.constant(0), pieces),
        parallel_iterations=1,
    )
    return tf.transpose(pieces.concat(), back)
