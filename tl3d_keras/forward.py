"""The network's logits from its own weights, in fewer operations than its layers take.

Nearest upsampling repeats each voxel, so a 3x3x3 convolution of what it gives sees two different
voxels an axis, whatever the place: eight convolutions of 2x2x2 of the coarse features, one for each
place in a block of 2x2x2, give the same with 8/27 of the arithmetic. A convolution of concatenated
features is the sum of those of the parts. So neither the upsampled features nor the concatenation
is ever made, and of each skip connection only its share of that sum waits for the way up.
"""

from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np
import tensorflow as tf

from tl3d_keras.intensity import Intensity
from tl3d_keras.unet3d import HEAD, UNet3D, named_weights

# [place in a block of two, coarse voxel, tap of the fine kernel]: the taps that see that voxel.
_FOLDED = np.array([[[1, 1, 0], [0, 0, 1]], [[1, 0, 0], [0, 1, 1]]], np.float32)
_BORDER = [[0, 0], [1, 1], [1, 1], [1, 1], [0, 0]]


def fast_logits(network: UNet3D) -> Callable[[tf.Tensor], tf.Tensor]:
    """A function that gives what `network.logits` gives, up to rounding.

    It reads the network's variables at each call, so it follows a training.

    Args:
        network: of any configuration and precision.

    Returns:
        A function of a normalised image [1, Z, Y, X, C], of a size that fits the network, for use
        inside a `tf.function`; it gives logits [1, z, y, x, K + 1] in the precision of the layers.
    """
    return _Forward(network).logits


def tile_function(
    network: UNet3D, intensity: Intensity, labels: bool, mirror_axes: Sequence[int] = ()
) -> Callable[[np.ndarray, np.ndarray, np.ndarray], tf.Tensor]:
    """What a tile is put through, compiled once for all shapes.

    Args:
        network: with weights, whose changes it follows.
        intensity: the normalisation.
        labels: whether labels come out, or probabilities.
        mirror_axes: of 0 to 2 (z, y, x); probabilities are averaged over all mirrors along them.

    Returns:
        A function of a raw tile [Z, Y, X, C] and the intensity's scale and shift [C]; it gives
        uint8 labels [z, y, x] or float32 probabilities [z, y, x, K + 1].
    """
    logits = fast_logits(network)
    channels = network.get_config()["input_channels"]
    mirrors = [
        list(axes) for n in range(len(mirror_axes) + 1) for axes in combinations(mirror_axes, n)
    ]

    def compute(raw: tf.Tensor, scale: tf.Tensor, shift: tf.Tensor) -> tf.Tensor:
        tile = intensity.apply(raw, scale, shift)
        # The largest logit has the largest probability.
        found = logits(tile[tf.newaxis])[0] if len(mirrors) == 1 else averaged(tile)
        if labels:
            return tf.cast(tf.argmax(found, -1, tf.int32), tf.uint8)
        return found if len(mirrors) > 1 else tf.nn.softmax(tf.cast(found, tf.float32))

    def averaged(tile: tf.Tensor) -> tf.Tensor:
        total = tf.constant(0.0)
        for axes in mirrors:
            # One after the other, for each takes a tile's memory.
            with tf.control_dependencies([total]):
                turned = tf.reverse(tile, axes)
            found = tf.nn.softmax(tf.cast(logits(turned[tf.newaxis])[0], tf.float32))
            total += tf.reverse(found, axes)
        return total / len(mirrors)

    return tf.function(
        compute,
        input_signature=[
            tf.TensorSpec([None, None, None, channels]),
            tf.TensorSpec([channels]),
            tf.TensorSpec([channels]),
        ],
        autograph=False,
    )


class _Forward:
    def __init__(self, network: UNet3D) -> None:
        config = network.get_config()
        self._network = network
        self._levels = config["levels"]
        self._padding = config["padding"].upper()
        self._normalised = config["normalization"] is not None
        self._dtype = tf.as_dtype(network.get_layer(HEAD).compute_dtype)
        self._weights = named_weights(network)

    def logits(self, image: tf.Tensor) -> tf.Tensor:
        x = tf.cast(image, self._dtype)
        waiting = []
        for level in range(self._levels):
            for i in range(2):
                x = self._layer(x, "encoder", level, i)
            if level < self._levels - 1:
                # In this order, the finest features are gone before coarser ones come.
                pooled = self._pool(x)
                with tf.control_dependencies([pooled]):
                    skip = self._cropped(x, level)
                waiting.append(self._share_of_skip(skip, level))
                with tf.control_dependencies([waiting[-1]]):
                    x = tf.identity(pooled)
        for level in reversed(range(self._levels - 1)):
            x = self._activated(
                waiting.pop() + self._share_of_coarse(x, level), "decoder", level, 0
            )
            x = self._layer(x, "decoder", level, 1)
        return self._convolved(x, HEAD)

    def _layer(self, x: tf.Tensor, part: str, level: int, i: int) -> tf.Tensor:
        return self._activated(self._convolved(x, f"{part}_{level}_conv_{i}"), part, level, i)

    def _activated(self, x: tf.Tensor, part: str, level: int, i: int) -> tf.Tensor:
        if self._normalised:
            x = self._network.get_layer(f"{part}_{level}_norm_{i}")(x)
        return tf.nn.relu(x)

    def _convolved(self, x: tf.Tensor, name: str, kernel: tf.Tensor | None = None) -> tf.Tensor:
        kernel = self._weights[f"{name}/kernel"] if kernel is None else kernel
        x = tf.nn.conv3d(x, tf.cast(kernel, self._dtype), [1] * 5, self._padding)
        return tf.nn.bias_add(x, tf.cast(self._weights[f"{name}/bias"], self._dtype))

    def _pool(self, x: tf.Tensor) -> tf.Tensor:
        if self._dtype == tf.float16:
            # Processors have no float16 kernel, and a maximum is exact in any precision.
            return tf.cast(tf.nn.max_pool3d(tf.cast(x, tf.float32), 2, 2, "VALID"), x.dtype)
        return tf.nn.max_pool3d(x, 2, 2, "VALID")

    def _cropped(self, x: tf.Tensor, level: int) -> tf.Tensor:
        if self._padding == "SAME":
            return x
        # See `UNet3D`: two convolutions down and two up at each coarser level, in its voxels.
        crop = slice(c := 6 * 2 ** (self._levels - 1 - level) - 8, -c)
        return x[:, crop, crop, crop]

    def _share_of_skip(self, skip: tf.Tensor, level: int) -> tf.Tensor:
        name = f"decoder_{level}_conv_0"
        kernel = self._weights[f"{name}/kernel"]
        return self._convolved(skip, name, kernel[..., -skip.shape[-1] :, :])

    def _share_of_coarse(self, x: tf.Tensor, level: int) -> tf.Tensor:
        kernel = self._weights[f"decoder_{level}_conv_0/kernel"][..., : x.shape[-1], :]
        channels, width = kernel.shape[-2:]
        # Taps are summed in float32, whatever the precision of the features.
        folded = tf.einsum(
            "pak,qbl,rcm,klmio->abcipqro", *[_FOLDED] * 3, tf.cast(kernel, tf.float32)
        )
        folded = tf.cast(tf.reshape(folded, [2, 2, 2, channels, 8 * width]), self._dtype)
        if self._padding == "SAME":
            x = tf.pad(x, _BORDER)
        x = tf.nn.conv3d(x, folded, [1] * 5, "VALID")
        z, y, x_size = tf.unstack(tf.shape(x)[1:4])
        x = tf.reshape(x, [1, z, y, x_size, 2, 2, 2, width])
        x = tf.transpose(x, [0, 1, 4, 2, 5, 3, 6, 7])
        x = tf.reshape(x, [1, 2 * z, 2 * y, 2 * x_size, width])
        return x[:, 1:-1, 1:-1, 1:-1] if self._padding == "SAME" else x
