"""Deep supervision: heads on the coarser decoder levels, there in training alone.

After Lee et al. 2015 (arXiv 1409.5185). The heads are no part of the network: its parameters, its
artifact and what is served are the same with and without.
"""

from collections.abc import Sequence

import tensorflow as tf

from tl3d_keras.convolutions import BiasedConv3D
from tl3d_keras.errors import InputError
from tl3d_keras.losses import MaskedLoss
from tl3d_keras.unet3d import HEAD, UNet3D

_FEWEST_LEVELS = 3


def with_heads(network: UNet3D) -> tf.keras.Model:
    """A model of the network's weights and of new heads `head_<level>`.

    Args:
        network: of 3 levels or more.

    Returns:
        A model that gives the logits of each decoder level in a list, the finest, which are those
        of `network`, first.

    Raises:
        InputError: the network has no coarser decoder level.
    """
    config = network.get_config()
    if config["levels"] < _FEWEST_LEVELS:
        raise InputError(
            f"--deep_supervision: expected a network of {_FEWEST_LEVELS} levels or more, "
            f"found {config['levels']}"
        )
    outputs = [network.logits.output]
    # The trunk's last output has the network's own head, its first is no decoder level.
    for level, features in enumerate(reversed(network.trunk.outputs[1:-1]), start=1):
        head = BiasedConv3D(config["num_classes"], 1, dtype=config["dtype"], name=f"{HEAD}_{level}")
        outputs.append(head(features))
    return tf.keras.Model(network.input, outputs, name="with_heads")


def value(
    loss: MaskedLoss,
    labels: tf.Tensor,
    logits: Sequence[tf.Tensor],
    annotated: tf.Tensor,
    padding: str,
) -> tf.Tensor:
    """The mean of a loss over levels, weighted 1, 1/2, 1/4 and so on from the finest.

    Args:
        loss: from logits.
        labels: uint8 [B, z, y, x].
        logits: of each level, the finest first.
        annotated: [B, K + 1], as in `MaskedLoss.value`.
        padding: of the network.

    Returns:
        A float32 scalar, equal on every replica; with the finest level alone, the loss itself.
    """
    weights = [0.5**level for level in range(len(logits))]
    values = [
        weight / sum(weights) * loss.value(*at_level(labels, found, level, padding), annotated)
        for level, (weight, found) in enumerate(zip(weights, logits, strict=True))
    ]
    return tf.add_n(values)


def at_level(
    labels: tf.Tensor, output: tf.Tensor, level: int, padding: str
) -> tuple[tf.Tensor, tf.Tensor]:
    """Labels for a decoder level, and the part of its output that they cover.

    A voxel of the level gets the label of one voxel at its centre, unannotated or not; of the eight
    that touch the centre, it is the last along each axis. So nothing is annotated that was not.

    Args:
        labels: [B, z, y, x] of the finest level; z, y, x static.
        output: [B, z', y', x', C] of the level.
        level: 0 is the finest.
        padding: of the network; valid output reaches beyond the labels at coarser levels.
    """
    factor = 2**level
    # Each level up, two convolutions of valid padding take two voxels from its start.
    before = 2 * (factor - 1) if padding == "valid" else 0
    first, start = divmod(factor // 2 - before, factor)
    every = slice(start, None, factor)
    labels = labels[:, every, every, every]
    z, y, x = (slice(-first, size - first) for size in labels.shape[1:])
    return labels, output[:, z, y, x]
