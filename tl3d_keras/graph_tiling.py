"""Segmentation tile by tile in a graph.

Exact tiles lie elsewhere than `tiling` puts them, for all are of one size; labels do not differ.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import tensorflow as tf

from tl3d_keras.geometry import Geometry
from tl3d_keras.intensity import Intensity

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


def plan_patches(size: tf.Tensor, geometry: Geometry, patch: int) -> Spans:
    """`tiling.plan_patches`."""
    output = geometry.output_size(patch)
    step = output if geometry.padding == "valid" else output // 2
    room = size - output
    number = 1 + tf.maximum(0, -(-room // step))
    # As numpy.linspace has it, whose rounding down would otherwise differ now and then.
    each = tf.cast(room, tf.float64) / tf.cast(tf.maximum(1, number - 1), tf.float64)
    spread = tf.cast(tf.cast(tf.range(number - 1), tf.float64) * each, tf.int32)
    last = tf.where(room > 0, room, room // 2)
    starts = tf.concat([spread, last[tf.newaxis]], 0)
    ends = tf.concat([(starts[1:] + starts[:-1] + output) // 2, [size]], 0)
    begins = tf.concat([[0], ends[:-1]], 0)
    return Spans(starts - geometry.margin, tf.constant(patch), begins, ends, begins - starts)


def labels(
    image: tf.Tensor,
    axes: Sequence[Spans],
    scale: tf.Tensor,
    shift: tf.Tensor,
    intensity: Intensity,
    logits: Logits,
) -> tf.Tensor:
    """Segments an image at a model's spacing, tile by tile.

    Args:
        image: raw, [Z, Y, X, C].
        axes: the tiles along each axis.
        scale: see `Intensity.coefficients`.
        shift: likewise.
        intensity: the normalisation.
        logits: gives those of a normalised image [1, Z, Y, X, C].

    Returns:
        uint8 [Z, Y, X].
    """
    # Beyond the volume lies its lowest value, as in training.
    floor = tf.reduce_min(image, [0, 1, 2])

    def of_tile(*indices: tf.Tensor) -> tf.Tensor:
        tile, outside = image, tf.zeros([1, 1, 1], tf.bool)
        for axis, (spans, i) in enumerate(zip(axes, indices, strict=True)):
            place = spans.read_starts[i] + tf.range(spans.read_size)
            inside = tf.clip_by_value(place, 0, tf.shape(image)[axis] - 1)
            tile = tf.gather(tile, inside, axis=axis)
            outside |= tf.reshape(place != inside, [-1] + [1] * (2 - axis))
        tile = tf.where(outside[..., tf.newaxis], floor, tile)
        output = logits(intensity.apply(tile, scale, shift)[tf.newaxis])[0]
        for axis, (spans, i) in enumerate(zip(axes, indices, strict=True)):
            kept = spans.skips[i] + tf.range(spans.stops[i] - spans.starts[i])
            output = tf.gather(output, kept, axis=axis)
        return tf.cast(tf.argmax(output, -1, tf.int32), tf.uint8)

    z, y, x = (tf.size(spans.starts) for spans in axes)
    return _join(0, z, lambda k: _join(1, y, lambda j: _join(2, x, lambda i: of_tile(k, j, i))))


def _join(axis: int, number: tf.Tensor, piece: Callable[[tf.Tensor], tf.Tensor]) -> tf.Tensor:
    """`tf.concat([piece(0), ..., piece(number - 1)], axis)` of uint8 [Z, Y, X], one at a time."""
    to_front = [axis, *(other for other in range(3) if other != axis)]
    back = [to_front.index(other) for other in range(3)]
    pieces = tf.TensorArray(tf.uint8, number, infer_shape=False, element_shape=[None] * 3)
    _, pieces = tf.while_loop(
        lambda i, _: i < number,
        lambda i, pieces: (i + 1, pieces.write(i, tf.transpose(piece(i), to_front))),
        (tf.constant(0), pieces),
        parallel_iterations=1,
    )
    return tf.transpose(pieces.concat(), back)
