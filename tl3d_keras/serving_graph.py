"""The signatures of an artifact, in TensorFlow's ops: serving them needs nothing of ours.

`segment` does what `inference.segment` does for a scan whose axes run to superior, posterior, left,
`segment_oblique` for one whose axes do not run along those of the patient: the same samples, the
same network, the same nearest labels.
"""

from collections.abc import Callable, Sequence

import tensorflow as tf

from tl3d_keras import tile_cost
from tl3d_keras.geometry import Geometry
from tl3d_keras.graph_grid import Grid
from tl3d_keras.graph_oblique import ObliqueGrid
from tl3d_keras.graph_tiling import Spans, labels, plan_axis, plan_patches
from tl3d_keras.intensity import Intensity
from tl3d_keras.ordered_logits import ordered_logits
from tl3d_keras.unet3d import UNet3D, named_weights
from tl3d_keras.volumes import MAX_SPACING, MIN_SPACING

# What a tile of the `segment` signature may take where the caller sets no size.
_TILE_BYTES = 8 * 2**30
_MOST_VOXELS = 2**30
# Of a scan's axes: how far their length may be from 1, and what they span at least, as sheared ones
# (gantry tilt) do.
_UNIT, _LEAST_VOLUME = 0.01, 0.1


class ServedModel(tf.Module):
    """Holds a network's variables by name and the functions that a SavedModel serves.

    Args:
        network: in float32.
        intensity: the normalisation that it was trained with.
        spacing: (z, y, x) in mm that it was trained at.
        patch_size: (Z, Y, X) of the training patches, the tiles of a network with normalisation.
        tile: most input voxels of a tile along an axis, for a network without normalisation.
    """

    def __init__(
        self,
        network: UNet3D,
        intensity: Intensity,
        spacing: Sequence[float],
        patch_size: Sequence[int],
        tile: int | None = None,
    ) -> None:
        super().__init__()
        self.variables_by_name = named_weights(network)
        config = network.get_config()
        channels, geometry = config["input_channels"], network.geometry
        model_spacing = [float(s) for s in spacing]
        plan: Callable[[tf.Tensor, Geometry, int], Spans] = plan_axis
        sizes: Sequence[int] = [tile or default_tile(network)] * 3
        if config["normalization"]:
            plan, sizes = plan_patches, patch_size

        def probabilities(image: tf.Tensor) -> dict[str, tf.Tensor]:
            image = intensity.normalise(_fitting(image, geometry))
            return {"probabilities": network(image, training=False)}

        def labels_of(image: tf.Tensor, scanned: tf.Tensor) -> tf.Tensor:
            scale, shift = (tf.reshape(v, [channels]) for v in intensity.coefficients(scanned))
            return on_grid(image, scale, shift)

        def on_grid(image: tf.Tensor, scale: tf.Tensor, shift: tf.Tensor) -> tf.Tensor:
            axes = [
                plan(size, geometry, most)
                for size, most in zip(tf.unstack(tf.shape(image)[:3]), sizes, strict=True)
            ]
            return labels(image, axes, scale, shift, intensity, ordered_logits(network))

        def segment(image: tf.Tensor, spacing: tf.Tensor) -> dict[str, tf.Tensor]:
            image, grid = _checked(image, spacing, channels, model_spacing)
            seen = grid.resample(image)
            return {"labels": grid.labels_back(labels_of(seen, seen))}

        def segment_oblique(
            image: tf.Tensor, spacing: tf.Tensor, direction: tf.Tensor
        ) -> dict[str, tf.Tensor]:
            image, grid = _checked(image, spacing, channels, model_spacing, direction)
            # The corners around it are no part of the scan.
            return {"labels": grid.labels_back(labels_of(grid.resample(image), image))}

        self.probabilities = tf.function(
            probabilities,
            input_signature=[tf.TensorSpec([None, None, None, None, channels], name="image")],
            autograph=False,
        )
        image_spec = tf.TensorSpec([None, None, None, channels], name="image")
        # One copy of the network for both.
        on_grid = self._on_grid = tf.function(
            on_grid,
            input_signature=[image_spec, tf.TensorSpec([channels]), tf.TensorSpec([channels])],
            autograph=False,
        )
        inputs = [image_spec, tf.TensorSpec([3], name="spacing")]
        self.segment = tf.function(segment, input_signature=inputs, autograph=False)
        inputs = [*inputs, tf.TensorSpec([9], name="direction")]
        self.segment_oblique = tf.function(segment_oblique, input_signature=inputs, autograph=False)

    @property
    def signatures(self) -> dict[str, Callable]:
        """The functions by the names that a SavedModel gives them."""
        return {
            "serving_default": self.probabilities,
            "segment": self.segment,
            "segment_oblique": self.segment_oblique,
        }


def default_tile(network: UNet3D) -> int:
    """Input voxels along an axis of the largest cube that should not take more than 8 GiB."""
    geometry, costs = network.geometry, tile_cost.Network.of(network.get_config(), "float32")
    size = geometry.input_size(geometry.stride)
    while True:
        larger = size + geometry.stride
        cost = tile_cost.of_tile(costs, (larger, larger, larger))
        if cost.bytes > _TILE_BYTES or cost.numbers > tile_cost.MOST_NUMBERS:
            return size
        size = larger


def _fitting(image: tf.Tensor, geometry: Geometry) -> tf.Tensor:
    """The batch, unless its sizes do not fit the network: InvalidArgumentError in the graph."""
    sizes, least = tf.shape(image)[1:-1], geometry.input_size(1)
    more = sizes - least
    check = tf.raw_ops.Assert(
        condition=tf.reduce_all((more >= 0) & (more % geometry.stride == 0)),
        data=[f"image: expected sizes of {least} or {geometry.stride}k more, found", sizes],
    )
    with tf.control_dependencies([check]):
        return tf.identity(image)


def _checked(
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
    shape = tf.shape(image)
    low, high = MIN_SPACING, MAX_SPACING
    flat = tf.reshape(spacing, [-1])
    sound = _require(
        # In front of the shape stands what a number's would lack.
        tf.equal(tf.size(shape), 4) & tf.equal(tf.concat([[0], shape], 0)[-1], channels),
        f"image: expected the shape [Z, Y, X, {channels}], found",
        shape,
    )
    sound &= _require(tf.reduce_all(shape > 0), "image: expected voxels, found the shape", shape)
    sound &= _require(
        tf.reduce_all(tf.math.is_finite(tf.reshape(image, [-1]))),
        "image: expected finite values, found NaN or infinity in the shape",
        shape,
    )
    sound &= _require(
        tf.equal(tf.rank(spacing), 1) & tf.equal(tf.size(spacing), 3),
        "spacing: expected 3 numbers (z, y, x) in mm, found the shape",
        tf.shape(spacing),
    )
    sound &= _require(
        tf.reduce_all((flat >= low) & (flat <= high)),
        f"spacing: expected {low} to {high} mm, found",
        flat,
    )
    if direction is not None:
        direction, is_direction = _checked_direction(direction)
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


def _checked_direction(direction: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
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
