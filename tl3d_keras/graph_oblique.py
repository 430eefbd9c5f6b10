"""As `graph_grid`, for scans whose axes do not run along those of the patient."""

from collections.abc import Callable, Sequence

import tensorflow as tf

from tl3d_keras.resampling import TIE


class ObliqueGrid:
    """The grid of a scan, and around it that of a model, along the patient's axes.

    Args:
        shape: int [3], (Z, Y, X) of the scan.
        spacing: float [3], (z, y, x) in mm of the scan.
        direction: float [9], the scan's, row by row in ITK's order.
        model_spacing: of the model.

    Attributes:
        voxels: of the model's grid, float64.
    """

    def __init__(
        self,
        shape: tf.Tensor,
        spacing: tf.Tensor,
        direction: tf.Tensor,
        model_spacing: Sequence[float],
    ) -> None:
        self._step = tf.constant(model_spacing, tf.float64)
        # From voxels (z, y, x) to mm (z, y, x), both seen from the common centre.
        turned = tf.reverse(tf.reshape(tf.cast(direction, tf.float64), [3, 3]), [0, 1])
        self._to_mm = turned * tf.cast(spacing, tf.float64)
        self._from_mm = tf.linalg.inv(self._to_mm)
        self._old = tf.cast(shape, tf.float64)
        extent = tf.linalg.matvec(tf.abs(self._to_mm), self._old)
        # As `resampling` has it: what is beyond a whole number by rounding alone adds no voxel.
        self._new = tf.maximum(tf.math.ceil(extent / self._step - 1e-3), 1)
        self.voxels = tf.reduce_prod(self._new)

    def resample(self, image: tf.Tensor) -> tf.Tensor:
        """The image on the model's grid, linearly interpolated; its minimum where there is none."""
        floor, last = tf.reduce_min(image, [0, 1, 2]), tf.shape(image)[:3] - 1
        matrix, centre = self._from_mm * self._step, (self._old - 1) / 2

        def of_slice(z: tf.Tensor) -> tf.Tensor:
            place = tf.linalg.matvec(matrix, _slice(z, self._new)) + centre
            inside = tf.reduce_all((place >= -0.5) & (place <= self._old - 0.5), -1, True)
            place = tf.clip_by_value(place, 0, self._old - 1)
            low = tf.cast(place, tf.int32)
            share = tf.cast(place - tf.floor(place), tf.float32)
            total = tf.zeros_like(tf.gather_nd(image, low))
            for corner in ((z, y, x) for z in (0, 1) for y in (0, 1) for x in (0, 1)):
                weight = tf.reduce_prod(tf.where(tf.cast(corner, tf.bool), share, 1 - share), -1)
                found = tf.gather_nd(image, tf.minimum(low + corner, last))
                total += found * weight[..., tf.newaxis]
            return tf.where(inside, total, floor)

        return _by_slices(of_slice, self._new, tf.TensorSpec([None, None, image.shape[-1]]))

    def labels_back(self, labels: tf.Tensor) -> tf.Tensor:
        """The nearest labels, those beyond the outermost included."""
        matrix, centre = self._to_mm / self._step[:, tf.newaxis], (self._new - 1) / 2

        def of_slice(z: tf.Tensor) -> tf.Tensor:
            place = tf.linalg.matvec(matrix, _slice(z, self._old)) + centre + 0.5 + TIE
            nearest = tf.clip_by_value(tf.floor(place), 0, self._new - 1)
            return tf.gather_nd(labels, tf.cast(nearest, tf.int32))

        return _by_slices(of_slice, self._old, tf.TensorSpec([None, None], tf.uint8))


def _slice(z: tf.Tensor, shape: tf.Tensor) -> tf.Tensor:
    """The places of a slice's voxels, seen from the centre of the volume, float64 [Y, X, 3]."""
    axes = [tf.range(size, dtype=tf.float64) for size in tf.unstack(shape)[1:]]
    grid = tf.meshgrid(tf.cast(z, tf.float64), *axes, indexing="ij")
    return tf.stack(grid, -1)[0] - (shape - 1) / 2


def _by_slices(
    of_slice: Callable[[tf.Tensor], tf.Tensor], shape: tf.Tensor, of_one: tf.TensorSpec
) -> tf.Tensor:
    # One after the other: their places alone take 24 bytes a voxel.
    slices = tf.range(tf.cast(shape[0], tf.int32))
    return tf.map_fn(of_slice, slices, fn_output_signature=of_one, parallel_iterations=1)
