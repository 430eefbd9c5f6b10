"""Rotation, scaling and elastic deformation in one resampling of the volume, in TensorFlow ops.

A patch is a grid around a centre. Where each of its voxels comes from is computed in mm, and the
image is interpolated there straight from the volume, so that nothing is invented at the corners
of a patch that lies inside its volume; labels come from the nearest voxel of the runs.
"""

import math
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from scipy.interpolate import BSpline

from tl3d_keras import patches
from tl3d_keras.augmentation import Augmentation
from tl3d_keras.patches import OpenCase

# Generators of rotations about z, y and x of vectors (z, y, x): about each axis the next one turns
# towards the one after that.
_GENERATORS = np.zeros((3, 3, 3), np.float32)
for _axis in range(3):
    _from, _to = (_axis + 1) % 3, (_axis + 2) % 3
    _GENERATORS[_axis, _to, _from], _GENERATORS[_axis, _from, _to] = 1, -1


def cut(
    case: OpenCase,
    start: tf.Tensor,
    image_size: Sequence[int],
    label_size: Sequence[int],
    floor: tf.Tensor,
    seed: tf.Tensor,
    settings: Augmentation,
    spacing: Sequence[float],
) -> tuple[tf.Tensor, tf.Tensor]:
    """Cuts a patch out of a case, deformed as `settings` draws; an exact crop if nothing is drawn.

    Args:
        case: open.
        start: int64 [3], the patch's first voxel, may be negative.
        image_size: (Z, Y, X) of the image.
        label_size: (Z, Y, X) of the labels, in the middle of the image.
        floor: float32 [C], what lies beyond the volume.
        seed: int [2].
        settings: what to draw.
        spacing: (z, y, x) in mm.

    Returns:
        float32 [*image_size, C] in raw units, and uint8 `label_size`, IGNORE where the nearest
        voxel is unannotated or beyond the volume.
    """
    before = [(n - m) // 2 for n, m in zip(image_size, label_size, strict=True)]

    def crop() -> tuple[tf.Tensor, tf.Tensor]:
        image = patches.crop_image(case.words, start, tf.constant(image_size, tf.int64), floor)
        inner = start + tf.constant(before, tf.int64)
        return image, patches.crop_labels(case, inner, tf.constant(label_size, tf.int64))

    def resample() -> tuple[tf.Tensor, tf.Tensor]:
        coordinates = source(image_size, drawn, seeds[3], settings, spacing)
        inner = [slice(None)] + [slice(b, b + n) for b, n in zip(before, label_size, strict=True)]
        return (
            interpolate(case, start, coordinates, floor),
            nearest_labels(case, start, coordinates[tuple(inner)]),
        )

    if not settings.is_spatial:
        return crop()
    seeds = tf.unstack(tf.random.experimental.stateless_split(seed, 4))
    drawn = tf.stack(
        [
            draw.happens(each)
            for draw, each in zip(
                (settings.rotation, settings.scaling, settings.elastic), seeds, strict=False
            )
        ]
    )
    return tf.cond(tf.reduce_any(drawn), resample, crop)


def source(
    size: Sequence[int],
    drawn: tf.Tensor,
    seed: tf.Tensor,
    settings: Augmentation,
    spacing: Sequence[float],
) -> tf.Tensor:
    """Where each voxel of a patch comes from.

    Args:
        size: (Z, Y, X) of the patch.
        drawn: boolean [3], whether it is rotated, scaled, deformed.
        seed: int [2].
        settings: the amounts.
        spacing: (z, y, x) in mm.

    Returns:
        float32 [3, Z, Y, X], coordinates (z, y, x) in voxels, 0 at the patch's first one.
    """
    angle_seed, scale_seed, elastic_seed, field_seed = tf.unstack(
        tf.random.experimental.stateless_split(seed, 4)
    )
    matrix = tf.eye(3)
    if settings.rotation.probability:
        degrees = settings.rotation.amount(angle_seed, [3])
        turned = np.isin(np.arange(3), settings.rotation_axes) * math.pi / 180
        angles = tf.where(drawn[0], degrees * turned.astype(np.float32), 0.0)
        matrix = _rotation(-angles)  # The source turns the other way.
    if settings.scaling.probability:
        matrix /= tf.where(drawn[1], settings.scaling.factor(scale_seed), 1.0)
    step = tf.constant(spacing, tf.float32)
    middle = (tf.constant(size, tf.float32) - 1) / 2
    # From voxels to mm, through the matrix, and back to voxels.
    matrix = matrix * step / step[:, tf.newaxis]
    coordinates = tf.reshape(middle, [3, 1, 1, 1])
    for axis, n in enumerate(size):
        shape = [1 if other != axis else n for other in range(3)]
        along = tf.reshape(tf.range(n, dtype=tf.float32) - middle[axis], [1, *shape])
        coordinates += tf.reshape(matrix[:, axis], [3, 1, 1, 1]) * along
    if settings.elastic.probability:
        largest = tf.where(drawn[2], settings.elastic.amount(elastic_seed), 0.0)
        field = displacements(size, spacing, settings.elastic_grid, field_seed)
        coordinates += field * tf.reshape(largest / step, [3, 1, 1, 1])
    return coordinates


def _rotation(angles: tf.Tensor) -> tf.Tensor:
    """The matrix of a rotation vector (z, y, x) in radians, by Rodrigues' formula.

    `tf.linalg.expm` gives the same and takes a second to trace.
    """
    angle = tf.norm(angles)
    generator = tf.tensordot(tf.math.divide_no_nan(angles, angle), _GENERATORS, 1)
    turn = tf.matmul(generator, generator) * (1 - tf.cos(angle))
    return tf.eye(3) + generator * tf.sin(angle) + turn


def displacements(
    size: Sequence[int], spacing: Sequence[float], grid: float, seed: tf.Tensor
) -> tf.Tensor:
    """A smooth random field: a cubic B-spline of control points drawn from [-1, 1].

    Args:
        size: (Z, Y, X).
        spacing: (z, y, x) in mm.
        grid: mm between the control points.
        seed: int [2].

    Returns:
        float32 [3, Z, Y, X] in [-1, 1], for the weights of a B-spline are positive and sum to 1.
    """
    bases = [_spline_basis(n, step / grid) for n, step in zip(size, spacing, strict=True)]
    field = tf.random.stateless_uniform([3, *(b.shape[1] for b in bases)], seed, -1.0, 1.0)
    for axis, basis in enumerate(bases):
        shape = [3, *size[:axis], *field.shape[axis + 1 :]]
        before, after = math.prod(shape[: axis + 1]), math.prod(shape[axis + 2 :])
        flat = tf.reshape(field, [before, basis.shape[1], after])
        field = tf.reshape(
            tf.matmul(basis, flat), [*shape[: axis + 1], size[axis], *shape[axis + 2 :]]
        )
    return field


def _spline_basis(size: int, step: float) -> np.ndarray:
    """Weights [size, points] of control points at whole numbers for positions 0, step, 2 step..."""
    positions = np.arange(size) * step
    knots = np.arange(-3, math.floor(positions[-1]) + 5)
    return BSpline.design_matrix(positions, knots, 3).toarray().astype(np.float32)


def interpolate(
    case: OpenCase, start: tf.Tensor, coordinates: tf.Tensor, floor: tf.Tensor
) -> tf.Tensor:
    """The image at coordinates, linearly, with `floor` beyond the volume.

    Args:
        case: open.
        start: int64 [3], the voxel at coordinates 0.
        coordinates: float32 [3, Z, Y, X] in voxels.
        floor: float32 [C].

    Returns:
        float32 [Z, Y, X, C] in raw units.
    """
    low, size = _box(case, start, coordinates)
    box = patches.crop_image(case.words, start + low, size, floor)
    size, low = tf.cast(size, tf.int32), tf.cast(low, tf.float32)
    first, part = [], []
    for axis in range(3):
        last = tf.cast(size[axis] - 1, tf.float32)
        at = tf.clip_by_value(coordinates[axis] - low[axis], 0.0, last)
        voxel = tf.minimum(tf.floor(at), last - 1)
        first.append(tf.cast(voxel, tf.int32))
        part.append((at - voxel)[..., tf.newaxis])
    index = (first[0] * size[1] + first[1]) * size[2] + first[2]
    # Two neighbours along x at once: half as many jumps through the memory.
    flat = tf.reshape(box, [-1, box.shape[3]])
    pairs = tf.concat([flat, tf.concat([flat[1:], flat[-1:]], 0)], 1)

    def along_x(offset: tf.Tensor) -> tf.Tensor:
        left, right = tf.split(tf.gather(pairs, index + offset), 2, axis=-1)
        return left + part[2] * (right - left)

    def along_y(offset: tf.Tensor) -> tf.Tensor:
        near, far = along_x(offset), along_x(offset + size[2])
        return near + part[1] * (far - near)

    near, far = along_y(tf.constant(0)), along_y(size[1] * size[2])
    return near + part[0] * (far - near)


def nearest_labels(case: OpenCase, start: tf.Tensor, coordinates: tf.Tensor) -> tf.Tensor:
    """The labels of the voxels nearest to coordinates, uint8 [z, y, x]; see `interpolate`."""
    low, size = _box(case, start, coordinates)
    labels = tf.reshape(patches.crop_labels(case, start + low, size), [-1])
    low, size = tf.cast(low, tf.float32), tf.cast(size, tf.int32)
    z, y, x = (
        tf.clip_by_value(
            tf.cast(tf.floor(coordinates[axis] - low[axis] + 0.5), tf.int32), 0, size[axis] - 1
        )
        for axis in range(3)
    )
    return tf.gather(labels, (z * size[1] + y) * size[2] + x)


def _box(case: OpenCase, start: tf.Tensor, coordinates: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """First voxel, from `start` on, and size of what the coordinates touch.

    One voxel of what lies beyond the volume is included, for coordinates beyond are moved there.
    """
    shape = tf.shape(case.words, tf.int64)[:3]
    low = tf.cast(tf.floor(tf.reduce_min(coordinates, [1, 2, 3])), tf.int64) + start
    high = tf.cast(tf.floor(tf.reduce_max(coordinates, [1, 2, 3])), tf.int64) + 1 + start
    low = tf.clip_by_value(low, -1, shape - 1)
    high = tf.clip_by_value(high, low + 1, shape)
    return low - start, high - low + 1
