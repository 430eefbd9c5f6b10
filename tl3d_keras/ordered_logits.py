"""A network's logits in a fixed order, so that a tile takes the same memory in every run."""

from collections.abc import Callable

import tensorflow as tf

from tl3d_keras.unet3d import HEAD, UNet3D
from tl3d_keras.unet3d_trunk import block_layers, through


def ordered_logits(network: UNet3D) -> Callable[[tf.Tensor], tf.Tensor]:
    """As `network.logits`, but each skip connection is convolved before it is pooled.

    Left to itself, TensorFlow at times convolves it after all coarser levels, so that the skip
    connection is held for so long and its convolution is there beside it: one tensor of the finest
    level more in one run than in the next.

    Args:
        network: whose weights are used.

    Returns:
        A function of normalised images [N, Z, Y, X, C], to be called in a graph; it gives the
        logits [N, z, y, x, K + 1].
    """
    layers = {layer.name: layer for layer in network.logits.layers}
    coarsest = network.get_config()["levels"] - 1

    def logits(image: tf.Tensor) -> tf.Tensor:
        x, shares = image, []
        for level in range(coarsest):
            x = through(block_layers(layers, "encoder", level), x)
            crop = layers.get(f"decoder_{level}_crop")
            joined = layers[f"decoder_{level}_conv_0"]
            shares.append(joined.of_skip(crop(x) if crop else x))
            with tf.control_dependencies(shares[-1:]):
                x = layers[f"encoder_{level}_pool"](x)
        x = through(block_layers(layers, "encoder", coarsest), x)
        for level in reversed(range(coarsest)):
            joined, *others = block_layers(layers, "decoder", level)
            x = through(others, joined.with_coarse(x, shares[level]))
        return layers[HEAD](x)

    return logits
