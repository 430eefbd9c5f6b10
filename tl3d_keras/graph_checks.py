"""What the signatures of an artifact refuse, in the graph: serving needs nothing of ours.

Each raises an InvalidArgumentError that says what was expected and what was found.
"""

from collections.abc import Sequence

import tensorflow as tf

from tl3d_keras.geometry import Geometry
from tl3d_keras.graph_grid import Grid
from tl3d_keras.graph_oblique import ObliqueGrid
from tl3d_keras.volumes import MAX_SPACING, MIN_SPACING

_MOST_VOXELS = 2**30
# Of a scan's axes: how far their length may be from 1, and what they span at least, as sheared ones
# (gantry tilt) do.
_UNIT, _LEAST_VOLUME = 0.01, 0.1


def fitting(image: tf.Tensor, geometry: Geometry) -> tf.Tensor:
    """The batch, unless its sizes do not fit the network: InvalidArgumentError in the graph."""
    sizes, least = tf.shape(image)[1:-1], geometry.input_size(1)
    more = sizes - least
    check = tf.raw_ops.Assert(
        condition=tf.reduce_all((more >= 0) & (more % geometry.stride == 0)),
        data=[f"image: expected sizes of {least} or {geometry.stride}k more, found", sizes],
    )
    with tf.control_dependencies([check]):
        return tf.identity(image)


def checked(
    image: tf.Tensor,
    spacing: tf.Tensor,
    channels: int,
    model_spacing: Sequence[float],
    direction: tf.Tensor | None = None,
) -> tuple[tf.Tensor, Grid | ObliqueGrid]:
    """The image and its grid; what cannot be segmented raises InvalidArgumentError in the graph.

    What an `Assert` refuses may still run before it is heard, so it is replaced by one voxel, for
    which no other op has an error of its own.
    """
    # A server's runtime takes any shape for that of the signature, so the graph must look itself.
    image = tf.compat.v1.placeholder_with_default(image, None)
    spacing = tf.compat.v1.placeholder_with_default(spacing, None)
    sound = _is_image(image, channels) & _is_spacing(spacing)
    if direction is not None:
        direction, is_direction = checked_direction(direction)
        sound &= is_direction
    image = tf.cond(sound, lambda: image, lambda: tf.zeros([1, 1, 1, channels]))
    image.set_shape([None, None, None, channels])
    spacing = tf.cond(sound, lambda: spacing, lambda: tf.constant(model_spacing))
    spacing.set_shape([3])

    def grid_of(spacing: tf.Tensor) -> Grid | ObliqueGrid:
        if direction is None:
            return Grid(tf.shape(image)[:3], spacing, model_spacing)
        return ObliqueGrid(tf.shape(image)[:3], spacing, direction, model_spacing)

    voxels = grid_of(spacing).voxels
    few = _require(
        voxels <= _MOST_VOXELS,
        f"expected at most {_MOST_VOXELS} voxels at the model's spacing, found",
        voxels,
    )
    spacing = tf.where(few, spacing, model_spacing)
    return image, grid_of(spacing)


def _is_image(image: tf.Tensor, channels: int) -> tf.Tensor:
    shape = tf.shape(image)
    sound = _require(
        # In front of the shape stands what a number's would lack.
        tf.equal(tf.size(shape), 4) & tf.equal(tf.concat([[0], shape], 0)[-1], channels),
        f"image: expected the shape [Z, Y, X, {channels}], found",
        shape,
    )
    sound &= _require(tf.reduce_all(shape > 0), "image: expected voxels, found the shape", shape)
    return sound & _require(
        tf.reduce_all(tf.math.is_finite(tf.reshape(image, [-1]))),
        "image: expected finite values, found NaN or infinity in the shape",
        shape,
    )


def _is_spacing(spacing: tf.Tensor) -> tf.Tensor:
    low, high = MIN_SPACING, MAX_SPACING
    flat = tf.reshape(spacing, [-1])
    sound = _require(
        tf.equal(tf.rank(spacing), 1) & tf.equal(tf.size(spacing), 3),
        "spacing: expected 3 numbers (z, y, x) in mm, found the shape",
        tf.shape(spacing),
    )
    return sound & _require(
        tf.reduce_all((flat >= low) & (flat <= high)),
        f"spacing: expected {low} to {high} mm, found",
        flat,
    )


def checked_direction(direction: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Three axes, and whether they are those of the request."""
    direction = tf.compat.v1.placeholder_with_default(direction, None)
    nine = _require(
        tf.equal(tf.rank(direction), 1) & tf.equal(tf.size(direction), 9),
        "direction: expected 9 numbers, found the shape",
        tf.shape(direction),
    )
    axes = tf.cond(nine, lambda: tf.reshape(direction, [3, 3]), lambda: tf.eye(3))
    sound = nine & _require(
        tf.reduce_all(tf.abs(tf.norm(axes, axis=0) - 1) < _UNIT)
        & (tf.abs(tf.linalg.det(axes)) > _LEAST_VOLUME),
        "direction: expected three axes of length 1 in different directions, found",
        tf.reshape(axes, [-1]),
    )
    return tf.where(sound, axes, tf.eye(3)), sound


def _require(condition: tf.Tensor, message: str, found: tf.Tensor) -> tf.Tensor:
    # `tf.debugging.Assert` would trace a tf.cond for each.
    tf.raw_ops.Assert(condition=condition, data=[message, found], summarize=8)
    return condition
