"""What a tile is put through: normalisation, network, mirrors; labels or probabilities out."""

from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np
import tensorflow as tf

from tl3d_keras.intensity import Intensity
from tl3d_keras.ordered_logits import ordered_logits
from tl3d_keras.unet3d import UNet3D


def tile_function(
    network: UNet3D, intensity: Intensity, labels: bool, mirror_axes: Sequence[int] = ()
) -> Callable[[np.ndarray, np.ndarray, np.ndarray], tf.Tensor]:
    """Compiles a network once for tiles of all shapes.

    Args:
        network: with weights, whose changes it follows.
        intensity: the normalisation.
        labels: whether labels come out, or probabilities.
        mirror_axes: of 0 to 2 (z, y, x); probabilities are averaged over all mirrors along them.

    Returns:
        A function of a raw tile [Z, Y, X, C] and the intensity's scale and shift [C]; it gives
        uint8 labels [z, y, x] or float32 probabilities [z, y, x, K + 1].
    """
    logits = ordered_logits(network)
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
