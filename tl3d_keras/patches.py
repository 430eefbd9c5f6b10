"""Drawing patches from an open case: where, and what is there. TensorFlow ops alone."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from tl3d_keras.annotation import IGNORE
from tl3d_keras.records import intensities

STRUCTURE_SHARE = 1 / 3
# TensorFlow draws float32 as multiples of this.
_COARSE = 2.0**-23


class OpenCase(NamedTuple):
    """What patches are cut out of.

    Attributes:
        words: int16 [Z, Y, X, W], the image as it is stored, see `records.parse_words`.
        start: int64 [R], first voxel of each run of equal label over the flattened [Z, Y, X].
        length: int64 [R].
        value: int64 [R], labels 0..K.
        labels: uint8 [Z, Y, X], the runs decoded; None: to be decoded where they are wanted.
    """

    words: Any
    start: Any
    length: Any
    value: Any
    labels: Any = None


def draw_centre(case: OpenCase, seed: tf.Tensor) -> tf.Tensor:
    """Draws an annotated voxel.

    With probability 1/3 it lies in a structure chosen uniformly among those present, else anywhere
    annotated. A case without annotation gives any voxel.

    Args:
        case: an open case.
        seed: int [2], of a stateless draw.

    Returns:
        int64 [3], the voxel (z, y, x).
    """
    shape = tf.shape(case.words, tf.int64)[:3]
    which, structure, *position = tf.unstack(tf.random.stateless_uniform([4], seed))

    def of_structure() -> tuple[tf.Tensor, tf.Tensor]:
        present = tf.unique(tf.boolean_mask(case.value, case.value > 0)).y
        index = tf.cast(structure * tf.cast(tf.size(present), tf.float32), tf.int32)
        chosen = tf.equal(case.value, tf.concat([tf.sort(present), [0]], 0)[index])
        return tf.boolean_mask(case.start, chosen), tf.boolean_mask(case.length, chosen)

    start, length = tf.cond(
        which < STRUCTURE_SHARE, of_structure, lambda: (case.start, case.length)
    )
    flat = tf.cond(
        tf.size(case.value) > 0,
        lambda: _voxel_of_runs(start, length, position),
        lambda: _scaled(position, tf.reduce_prod(shape)),
    )
    return tf.stack([flat // (shape[1] * shape[2]), flat // shape[2] % shape[1], flat % shape[2]])


def _voxel_of_runs(start: tf.Tensor, length: tf.Tensor, position: Sequence[tf.Tensor]) -> tf.Tensor:
    """The flat index at the fraction `position`, as in `_scaled`, of all voxels of the runs."""
    ends = tf.cumsum(length)
    rank = _scaled(position, ends[-1])
    run = tf.searchsorted(ends, rank[tf.newaxis], side="right", out_type=tf.int64)[0]
    return start[run] + rank - (ends[run] - length[run])


def _scaled(position: Sequence[tf.Tensor], count: tf.Tensor) -> tf.Tensor:
    """The rank below `count` at a fraction in [0, 1), drawn coarsely and finely."""
    coarse, fine = (tf.cast(part, tf.float64) for part in position)
    # One draw reaches no more voxels than this; fewer are chosen by it alone.
    fine = tf.where(tf.cast(count, tf.float64) > 1 / _COARSE, fine * _COARSE, 0.0)
    rank = tf.cast((coarse + fine) * tf.cast(count, tf.float64), tf.int64)
    return tf.minimum(rank, count - 1)


def crop_image(image: tf.Tensor, start: tf.Tensor, size: tf.Tensor, floor: tf.Tensor) -> tf.Tensor:
    """Cuts a box out of a volume, with `floor` where it reaches beyond.

    Args:
        image: [Z, Y, X, C], or words of an open case, which are cast in the box alone.
        start: int64 [3], may be negative.
        size: int64 [3].
        floor: float32 [C], what lies beyond the volume.

    Returns:
        float32 [*size, C].
    """
    begin, inside, padding = _overlap(tf.shape(image, tf.int64)[:3], start, size)
    words = tf.slice(image, tf.concat([begin, [0]], 0), tf.concat([inside, [-1]], 0))
    box = intensities(words, floor.shape[0])
    box = floor + tf.pad(box - floor, tf.concat([padding, [[0, 0]]], 0))
    return tf.ensure_shape(box, [None, None, None, floor.shape[0]])


def crop_labels(case: OpenCase, start: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """Cuts a box out of a case's labels, or decodes it from the runs without the whole volume.

    Args:
        case: an open case.
        start: int64 [3], may be negative.
        size: int64 [3].

    Returns:
        uint8 `size`, IGNORE where unannotated and beyond the volume.
    """
    shape = tf.shape(case.words, tf.int64)[:3]
    begin, inside, padding = _overlap(shape, start, size)
    if case.labels is None:
        labels = _labels_of_runs(case, shape, begin, inside)
    else:
        labels = tf.slice(case.labels, begin, inside)
    return tf.pad(labels, padding, constant_values=IGNORE)


def _labels_of_runs(
    case: OpenCase, shape: tf.Tensor, begin: tf.Tensor, inside: tf.Tensor
) -> tf.Tensor:
    """The labels uint8 `inside` of a box that lies in the volume."""
    # Only the runs of these slices matter.
    slice_voxels = shape[1] * shape[2]
    end = case.start + case.length
    first = tf.searchsorted(end, [begin[0] * slice_voxels], side="right")[0]
    last = tf.searchsorted(case.start, [(begin[0] + inside[0]) * slice_voxels])[0]
    runs = _Boundaries(case.start[first:last], end[first:last], case.value[first:last])
    # Searching for the first voxel of each row and adding up what changes along it takes a
    # twentieth of the time of searching for every voxel.
    z, y = (begin[axis] + tf.range(inside[axis]) for axis in range(2))
    row = (z[:, tf.newaxis] * shape[1] + y) * shape[2] + begin[2]
    labels = tf.concat(
        [_labels_at(runs, row)[..., tf.newaxis], _changes(runs, shape, begin, inside)], 2
    )
    return tf.cumsum(labels, axis=2)[:, :, : inside[2]]


class _Boundaries(NamedTuple):
    """Runs by first voxel and the one after the last, int64 [R]."""

    start: tf.Tensor
    end: tf.Tensor
    value: tf.Tensor


def _labels_at(runs: _Boundaries, flat: tf.Tensor) -> tf.Tensor:
    """The uint8 labels of voxels by their flat index."""
    # A run in front of all makes every search succeed.
    start = tf.concat([[tf.int64.min], runs.start], 0)
    end = tf.concat([[tf.int64.min], runs.end], 0)
    value = tf.concat([[IGNORE], runs.value], 0)
    run = tf.searchsorted(start, tf.reshape(flat, [-1]), side="right") - 1
    run = tf.reshape(run, tf.shape(flat))
    labels = tf.where(flat < tf.gather(end, run), tf.gather(value, run), IGNORE)
    return tf.cast(labels, tf.uint8)


def _changes(runs: _Boundaries, shape: tf.Tensor, begin: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """By how much the label differs from that of the voxel before, modulo 256.

    Args:
        runs: of the slices of a box that lies in the volume.
        shape: int64 [3], of the volume.
        begin: int64 [3], first voxel of the box.
        size: int64 [3], of the box.

    Returns:
        uint8 [size of z, size of y, size of x - 1]: all but the first voxel of each row.
    """
    flat = tf.concat([runs.start, runs.end], 0)
    change = tf.concat([runs.value - IGNORE, IGNORE - runs.value], 0) % (IGNORE + 1)
    z = flat // (shape[1] * shape[2]) - begin[0]
    y = flat // shape[2] % shape[1] - begin[1]
    x = flat % shape[2] - begin[2] - 1
    size = tf.stack([size[0], size[1], tf.maximum(size[2] - 1, 0)])
    within = (z >= 0) & (z < size[0]) & (y >= 0) & (y < size[1]) & (x >= 0) & (x < size[2])
    changes = tf.math.unsorted_segment_sum(
        tf.boolean_mask(tf.cast(change, tf.uint8), within),
        tf.boolean_mask((z * size[1] + y) * size[2] + x, within),
        tf.reduce_prod(size),
    )
    return tf.reshape(changes, size)


def _overlap(
    shape: tf.Tensor, start: tf.Tensor, size: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """First voxel and size of a box inside a volume; what it has beyond on both sides, [3, 2]."""
    begin = tf.clip_by_value(start, 0, shape)
    end = tf.clip_by_value(start + size, begin, shape)
    before = tf.clip_by_value(begin - start, 0, size)
    return begin, end - begin, tf.stack([before, size - before - (end - begin)], 1)
