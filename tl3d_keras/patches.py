"""Drawing patches from a parsed case: where, and what is there. TensorFlow ops alone."""

import tensorflow as tf

from tl3d_keras.annotation import IGNORE
from tl3d_keras.records import Case

STRUCTURE_SHARE = 1 / 3


def draw_centre(case: Case, seed: tf.Tensor) -> tf.Tensor:
    """Draws an annotated voxel.

    With probability 1/3 it lies in a structure chosen uniformly among those present, else anywhere
    annotated. A case without annotation gives any voxel.

    Args:
        case: a parsed case.
        seed: int [2], of a stateless draw.

    Returns:
        int64 [3], the voxel (z, y, x).
    """
    shape = tf.shape(case.image, tf.int64)[:3]
    which, structure, position = tf.unstack(tf.random.stateless_uniform([3], seed))
    present = tf.unique(tf.boolean_mask(case.value, case.value > 0)).y
    index = tf.cast(structure * tf.cast(tf.size(present), tf.float32), tf.int32)
    by_structure = (which < STRUCTURE_SHARE) & (tf.size(present) > 0)
    chosen = tf.cond(
        by_structure,
        lambda: tf.equal(case.value, tf.sort(present)[index]),
        lambda: tf.ones_like(case.value, tf.bool),
    )
    flat = tf.cond(
        tf.size(case.value) > 0,
        lambda: _voxel_of_runs(
            tf.boolean_mask(case.start, chosen), tf.boolean_mask(case.length, chosen), position
        ),
        lambda: _scaled(position, tf.reduce_prod(shape)),
    )
    return tf.stack([flat // (shape[1] * shape[2]), flat // shape[2] % shape[1], flat % shape[2]])


def _voxel_of_runs(start: tf.Tensor, length: tf.Tensor, position: tf.Tensor) -> tf.Tensor:
    """The flat index at the fraction `position` in [0, 1) of all voxels of the runs."""
    ends = tf.cumsum(length)
    rank = _scaled(position, ends[-1])
    run = tf.searchsorted(ends, rank[tf.newaxis], side="right", out_type=tf.int64)[0]
    return start[run] + rank - (ends[run] - length[run])


def _scaled(position: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
    # In float64, for float32 has too few digits for the voxels of a scan.
    rank = tf.cast(tf.cast(position, tf.float64) * tf.cast(count, tf.float64), tf.int64)
    return tf.minimum(rank, count - 1)


def crop_image(image: tf.Tensor, start: tf.Tensor, size: tf.Tensor, floor: tf.Tensor) -> tf.Tensor:
    """Cuts a box out of a volume, with `floor` where it reaches beyond.

    Args:
        image: [Z, Y, X, C].
        start: int64 [3], may be negative.
        size: int64 [3].
        floor: [C], what lies beyond the volume.

    Returns:
        [*size, C].
    """
    shape = tf.shape(image, tf.int64)[:3]
    begin = tf.clip_by_value(start, 0, shape)
    end = tf.clip_by_value(start + size, begin, shape)
    box = tf.slice(
        image,
        tf.concat([begin, [0]], 0),
        tf.concat([end - begin, [tf.shape(image, tf.int64)[3]]], 0),
    )
    before = tf.clip_by_value(begin - start, 0, size)
    after = size - before - (end - begin)
    return floor + tf.pad(box - floor, tf.concat([tf.stack([before, after], 1), [[0, 0]]], 0))


def crop_labels(case: Case, start: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """Decodes the labels of a box from a case's runs, without decoding the whole volume.

    Args:
        case: a parsed case.
        start: int64 [3], may be negative.
        size: int64 [3].

    Returns:
        uint8 `size`, IGNORE where unannotated and beyond the volume.
    """
    shape = tf.shape(case.image, tf.int64)[:3]
    z, y, x = (start[axis] + tf.range(size[axis]) for axis in range(3))
    z, y, x = z[:, tf.newaxis, tf.newaxis], y[:, tf.newaxis], x
    inside = (z >= 0) & (z < shape[0]) & (y >= 0) & (y < shape[1]) & (x >= 0) & (x < shape[2])
    flat = tf.reshape((z * shape[1] + y) * shape[2] + x, [-1])
    # A run in front of all makes every search succeed.
    first = tf.concat([[tf.int64.min], case.start], 0)
    length = tf.concat([[0], case.length], 0)
    value = tf.concat([[IGNORE], case.value], 0)
    run = tf.searchsorted(first, flat, side="right", out_type=tf.int64) - 1
    annotated = (flat - tf.gather(first, run) < tf.gather(length, run)) & tf.reshape(inside, [-1])
    labels = tf.where(annotated, tf.gather(value, run), IGNORE)
    return tf.reshape(tf.cast(labels, tf.uint8), size)
