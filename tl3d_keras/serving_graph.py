"""The two signatures of an artifact, in TensorFlow's ops: serving them needs nothing of ours.

`segment` does what `inference.segment` does for a scan whose axes run to superior, posterior, left:
the same samples, the same tiles of the same network, the same nearest labels.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import tensorflow as tf

from tl3d_keras.intensity import Intensity
from tl3d_keras.resampling import EXACT
from tl3d_keras.unet3d import Geometry, UNet3D, named_weights

# What a tile of the `segment` signature may take where the caller sets no size.
_TILE_BYTES = 8 * 2**30
_BYTES_PER_VOXEL_AND_FILTER = 60
_SPACING_RANGE = (0.01, 100.0)
_MOST_VOXELS = 2**30


class Spans(NamedTuple):
    """The tiles along one axis, as `inference.Span` but n at once: int32 [n], or [] for the size.

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
        channels = config["input_channels"]
        sizes = patch_size if config["normalization"] else [tile or default_tile(network)] * 3
        # Traced once, for both signatures.
        forward = tf.function(
            lambda image: network(image, training=False),
            input_signature=[tf.TensorSpec([None, None, None, None, channels])],
            autograph=False,
        )

        def probabilities(image: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"probabilities": forward(intensity.normalise(image))}

        def segment(image: tf.Tensor, spacing: tf.Tensor) -> dict[str, tf.Tensor]:
            image, grid = _checked(image, spacing, channels, model_spacing)
            image = grid.resample(image)
            plan = plan_patches if config["normalization"] else plan_axis
            axes = [
                plan(tf.shape(image)[axis], network.geometry, size)
                for axis, size in enumerate(sizes)
            ]
            return {"labels": grid.labels_back(_segment(image, axes, intensity, forward))}

        model_spacing = [float(s) for s in spacing]
        self.probabilities = tf.function(
            probabilities,
            input_signature=[tf.TensorSpec([None, None, None, None, channels], name="image")],
            autograph=False,
        )
        self.segment = tf.function(
            segment,
            input_signature=[
                tf.TensorSpec([None, None, None, channels], name="image"),
                tf.TensorSpec([3], name="spacing"),
            ],
            autograph=False,
        )

    @property
    def signatures(self) -> dict[str, Callable]:
        """The functions by the names that a SavedModel gives them."""
        return {"serving_default": self.probabilities, "segment": self.segment}


def default_tile(network: UNet3D) -> int:
    """Input voxels along an axis of the largest cube that should not take more than 8 GiB."""
    voxels = _TILE_BYTES / (_BYTES_PER_VOXEL_AND_FILTER * network.get_config()["filters"])
    return int(voxels ** (1 / 3))


def plan_axis(size: tf.Tensor, geometry: Geometry, tile: int) -> Spans:
    """`inference.plan_axis` in the graph, with tiles of one size."""
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
    """`inference.plan_patches` in the graph."""
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


class _Grid:
    """The grid of a scan and the model's with the same centre: `resampling` in the graph."""

    def __init__(self, shape: tf.Tensor, spacing: tf.Tensor, model_spacing: list[float]) -> None:
        expected = tf.constant(model_spacing, tf.float64)
        spacing = tf.cast(spacing, tf.float64)
        # As numpy.allclose has it.
        self._same = tf.reduce_all(tf.abs(spacing - expected) <= 1e-8 + 1e-5 * expected)
        self._step = tf.where(self._same, tf.ones(3, tf.float64), expected / spacing)
        self._old = tf.cast(shape, tf.float64)
        self._new = tf.maximum(tf.round(self._old / self._step), 1)
        self.voxels = tf.reduce_prod(self._new)

    def resample(self, image: tf.Tensor) -> tf.Tensor:
        """The image on the model's grid, linearly interpolated."""
        return tf.cond(self._same, lambda: image, lambda: self._interpolate(image))

    def labels_back(self, labels: tf.Tensor) -> tf.Tensor:
        """The nearest labels, those beyond the outermost included."""
        for axis in range(3):
            place = _centred(self._old[axis]) / self._step[axis]
            index = tf.floor(place + (self._new[axis] - 1) / 2 + 0.5 + EXACT)
            index = tf.clip_by_value(index, 0, self._new[axis] - 1)
            labels = tf.gather(labels, tf.cast(index, tf.int32), axis=axis)
        return labels

    def _interpolate(self, image: tf.Tensor) -> tf.Tensor:
        for axis in range(3):
            last = self._old[axis] - 1
            place = _centred(self._new[axis]) * self._step[axis] + last / 2
            place = tf.clip_by_value(place, 0, last)
            below = tf.floor(place)
            weight = tf.cast(place - below, tf.float32)
            weight = tf.reshape(weight, [-1] + [1] * (3 - axis))
            below = tf.cast(below, tf.int32)
            above = tf.minimum(below + 1, tf.cast(last, tf.int32))
            image = (
                tf.gather(image, below, axis=axis) * (1 - weight)
                + tf.gather(image, above, axis=axis) * weight
            )
        return image


def _centred(size: tf.Tensor) -> tf.Tensor:
    """The places of an axis's voxels, seen from its centre."""
    return tf.range(size, dtype=tf.float64) - (size - 1) / 2


def _segment(
    image: tf.Tensor, axes: Sequence[Spans], intensity: Intensity, forward: Callable
) -> tf.Tensor:
    """uint8 labels [Z, Y, X] of a raw image at the model's spacing, tile by tile."""
    scale, shift = intensity.coefficients(image)
    # Beyond the volume lies its lowest value, as in training.
    floor = tf.reduce_min(image, [0, 1, 2])

    def labels(*indices: tf.Tensor) -> tf.Tensor:
        tile, outside = image, tf.zeros([1, 1, 1], tf.bool)
        for axis, (spans, i) in enumerate(zip(axes, indices, strict=True)):
            place = spans.read_starts[i] + tf.range(spans.read_size)
            inside = tf.clip_by_value(place, 0, tf.shape(image)[axis] - 1)
            tile = tf.gather(tile, inside, axis=axis)
            outside |= tf.reshape(place != inside, [-1] + [1] * (2 - axis))
        tile = tf.where(outside[..., tf.newaxis], floor, tile)
        output = forward(intensity.apply(tile, scale, shift)[tf.newaxis])[0]
        for axis, (spans, i) in enumerate(zip(axes, indices, strict=True)):
            kept = spans.skips[i] + tf.range(spans.stops[i] - spans.starts[i])
            output = tf.gather(output, kept, axis=axis)
        return tf.cast(tf.argmax(output, -1), tf.uint8)

    z, y, x = (tf.size(spans.starts) for spans in axes)
    return _join(0, z, lambda k: _join(1, y, lambda j: _join(2, x, lambda i: labels(k, j, i))))


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


def _checked(
    image: tf.Tensor, spacing: tf.Tensor, channels: int, model_spacing: list[float]
) -> tuple[tf.Tensor, "_Grid"]:
    """The image and its grid; what cannot be segmented raises InvalidArgumentError in the graph.

    What an `Assert` refuses may still run before it is heard, so it is replaced by one voxel, for
    which no other op has an error of its own.
    """
    # A server's runtime takes any shape for that of the signature, so the graph must look itself.
    image = tf.compat.v1.placeholder_with_default(image, None)
    spacing = tf.compat.v1.placeholder_with_default(spacing, None)
    shape = tf.shape(image)
    low, high = _SPACING_RANGE
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
    image = tf.cond(sound, lambda: image, lambda: tf.zeros([1, 1, 1, channels]))
    image.set_shape([None, None, None, channels])
    spacing = tf.cond(sound, lambda: spacing, lambda: tf.constant(model_spacing))
    spacing.set_shape([3])
    voxels = _Grid(tf.shape(image)[:3], spacing, model_spacing).voxels
    few = _require(
        voxels <= _MOST_VOXELS,
        f"expected at most {_MOST_VOXELS} voxels at the model's spacing, found",
        voxels,
    )
    spacing = tf.where(few, spacing, model_spacing)
    return image, _Grid(tf.shape(image)[:3], spacing, model_spacing)


def _require(condition: tf.Tensor, message: str, found: tf.Tensor) -> tf.Tensor:
    tf.debugging.Assert(condition, [message, found], summarize=8)
    return condition
