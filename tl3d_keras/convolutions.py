"""Convolutions with the weights and results of Keras's, faster and exact in half precision."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf


@tf.keras.utils.register_keras_serializable("tl3d_keras")
class BiasedConv3D(tf.keras.layers.Conv3D):
    """A convolution of stride 1 whose bias has an exact gradient."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Convolves [B, Z, Y, X, C]."""
        kernel = tf.cast(self.kernel, inputs.dtype)
        convolved = _convolved(inputs, kernel, self.padding)
        return self.activation(_biased(convolved, self.bias))


@tf.keras.utils.register_keras_serializable("tl3d_keras")
class JoinedConv3D(tf.keras.layers.Layer):
    """A 3x3x3 convolution of coarse features, doubled to their nearest voxels, and a skip's.

    Its weights and results are those of `Conv3D` on
    `Concatenate()([UpSampling3D(2)(coarse), skip])`, but neither of the two is ever made, and it
    takes half the time. Of the 27 doubled voxels that a window covers many are equal, so that only
    eight products a voxel are left: those of a transposed convolution of stride 2, whose 4x4x4
    kernel sums the weights that meet the same voxel.

    Inputs: a list of coarse [B, Z, Y, X, C] and skip [B, 2Z, 2Y, 2X, D]. Output: [B, z, y, x,
    filters], where z, y, x are those of the skip, less 2 for valid padding.

    Args:
        filters: output channels.
        padding: "valid" or "same".
        activation: a Keras activation.
    """

    def __init__(
        self, filters: int, padding: str = "valid", activation: Any = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.filters = filters
        self.padding = padding
        self.activation = tf.keras.activations.get(activation)

    def build(self, input_shape: Sequence[Any]) -> None:
        """Creates the kernel [3, 3, 3, C + D, filters], the coarse channels first, and the bias."""
        channels = sum(int(shape[-1]) for shape in input_shape)
        shape = (3, 3, 3, channels, self.filters)
        self.kernel = self.add_weight(name="kernel", shape=shape, initializer="glorot_uniform")
        self.bias = self.add_weight(name="bias", shape=(self.filters,), initializer="zeros")
        self.built = True

    def call(self, inputs: Sequence[tf.Tensor]) -> tf.Tensor:
        """Convolves both and adds."""
        coarse, skip = inputs
        return self.with_coarse(coarse, self.of_skip(skip))

    def of_skip(self, skip: tf.Tensor) -> tf.Tensor:
        """What the skip connection and the bias add to the output before its activation."""
        kernel = tf.cast(self.kernel, skip.dtype)[..., -skip.shape[-1] :, :]
        return _biased(_convolved(skip, kernel, self.padding), self.bias)

    def with_coarse(self, coarse: tf.Tensor, of_skip: tf.Tensor) -> tf.Tensor:
        """The output, of the coarse features and of what `of_skip` gave."""
        kernel = tf.cast(self.kernel, coarse.dtype)[..., : coarse.shape[-1], :]
        batch, *size = tf.unstack(tf.shape(coarse)[:4])
        output_shape = tf.stack([batch, *(2 * n for n in size), self.filters])
        doubled = tf.nn.conv3d_transpose(coarse, _transposed(kernel), output_shape, 2, "SAME")
        if self.padding == "valid":
            doubled = doubled[:, 1:-1, 1:-1, 1:-1]
        return self.activation(of_skip + doubled)

    def compute_output_shape(self, input_shape: Sequence[Any]) -> tuple[int | None, ...]:
        """The shape of the output."""
        batch, *size, _ = input_shape[1]
        lost = 2 if self.padding == "valid" else 0
        return (batch, *(None if n is None else n - lost for n in size), self.filters)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            **super().get_config(),
            "filters": self.filters,
            "padding": self.padding,
            "activation": tf.keras.activations.serialize(self.activation),
        }


def _convolved(x: tf.Tensor, kernel: tf.Tensor, padding: str) -> tf.Tensor:
    # On processors, the gradient of a bfloat16 kernel is memory as it was found where two slices
    # are padded on both sides; not so if they are padded before (seen in TensorFlow 2.15 and 2.21).
    reach = kernel.shape[0] // 2
    if reach and padding == "same" and x.dtype == tf.bfloat16 and x.shape[1] in (2, None):
        x, padding = tf.pad(x, [[0, 0], *[[reach, reach]] * 3, [0, 0]]), "valid"
    return tf.nn.conv3d(x, kernel, [1] * 5, padding.upper())


def _biased(x: tf.Tensor, bias: Any) -> tf.Tensor:
    # The gradient of `tf.nn.bias_add` adds up bfloat16 in bfloat16, where nothing is left of it;
    # that of a sum is exact, and faster.
    return x + tf.cast(bias, x.dtype)


def _transposed(kernel: tf.Tensor) -> tf.Tensor:
    """The kernel [4, 4, 4, filters, C] of the transposed convolution for one of [3, 3, 3, C, ...].

    Each of two neighbours along an axis that are doubles of one voxel takes part in its sum.
    """
    # Sums of weights need more digits than half precision has.
    dtype, kernel = kernel.dtype, tf.cast(kernel, tf.float32)
    for axis in range(3):
        before, after = [[0, 0] for _ in range(5)], [[0, 0] for _ in range(5)]
        before[axis][0] = after[axis][1] = 1
        kernel = tf.pad(kernel, before) + tf.pad(kernel, after)
    kernel = tf.transpose(tf.reverse(kernel, [0, 1, 2]), [0, 1, 2, 4, 3])
    return tf.cast(kernel, dtype)
