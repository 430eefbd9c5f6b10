"""From a scan's grid to a model's and back in TensorFlow's ops, by the rules of `resampling`."""

from collections.abc import Sequence

import tensorflow as tf

from tl3d_keras.resampling import TIE


class Grid:
    """The grid of a scan, and with the same centre that of a model.

    Args:
        shape: int [3], (Z, Y, X) of the scan.
        spacing: float [3], (z, y, x) in mm of the scan.
        model_spacing: of the model.

    Attributes:
        voxels: of the model's grid, float64.
    """

    def __init__(
        self, shape: tf.Tensor, spacing: tf.Tensor, model_spacing: Sequence[float]
    ) -> None:
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
            index = tf.floor(place + (self._new[axis] - 1) / 2 + 0.5 + TIE)
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
