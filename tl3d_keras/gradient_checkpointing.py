"""Gradient checkpointing: less memory for a step, for the time of computing most of it twice.

After Chen et al. 2016 (arXiv 1604.06174). The two finest levels, which hold nearly all of the
activations, keep none of them; the gradient computes them again when it gets there. The last
segment, the finest of the decoder, is kept, for the gradient starts with it.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import tensorflow as tf

from tl3d_keras.unet3d import HEAD, UNet3D
from tl3d_keras.unet3d_trunk import block_layers, through

# How many slabs a level of the encoder is computed in, the finest first.
SLABS = (8, 4)
# Two convolutions reach two voxels to either side.
_REACH = 2
_Call = Callable[..., Sequence[tf.Tensor]]


def is_sliced(config: Mapping[str, Any]) -> bool:
    """Whether the encoder of a network of that configuration goes slab by slab.

    Normalisation sees whole patches, and same padding has borders where slabs meet.
    """
    return config["padding"] == "valid" and config["normalization"] is None


class Checkpointed:
    """A network's logits, whose gradients are those of the plain network.

    Where it can, the encoder goes slab by slab, for a valid network's finest level alone takes more
    memory than all others: what it gives is only pooled and, in the middle, passed on.

    Args:
        network: whose weights are used.
        logits: the network's own, or those of each level as `deep_supervision.with_heads`.
    """

    def __init__(self, network: UNet3D, logits: tf.keras.Model) -> None:
        config = network.get_config()
        self._levels = config["levels"]
        self._sliced = is_sliced(config)
        # Those of the network, and heads of its coarser levels.
        self._layers = {layer.name: layer for layer in logits.layers}

    def __call__(self, image: tf.Tensor) -> list[tf.Tensor]:
        """The logits [B, z, y, x, K + 1] of each level that has a head, the finest first.

        Args:
            image: [B, Z, Y, X, C], with static Z.
        """
        x, skips, found = image, [], []
        for level in range(self._levels - 1):
            x, skip = self._down(x, level)
            skips.append(skip)
        x = self._block("encoder", self._levels - 1, x)
        for level in reversed(range(self._levels - 1)):
            block = partial(self._decoded, level)
            again = 0 < level < len(SLABS)
            (x,) = (
                _computed_twice([block], [[x, skips[level]]]) if again else block(x, skips[level])
            )
            if f"{HEAD}_{level}" in self._layers:
                found.append(self._layers[f"{HEAD}_{level}"](x))
        return [self._layers[HEAD](x), *reversed(found)]

    def _down(self, x: tf.Tensor, level: int) -> Sequence[tf.Tensor]:
        """The input of the next level, and the skip connection."""
        if level >= len(SLABS):
            return self._encoded(level, x)
        if not self._sliced:
            return _computed_twice([partial(self._encoded, level)], [[x]])
        size = x.shape[1] - 2 * _REACH
        # Of four slices or more, so that none reaches beyond its neighbour.
        slabs = min(SLABS[level], size // (2 * _REACH))
        ends = [size // 2 * i // slabs * 2 for i in range(slabs + 1)]
        lengths = [b - a for a, b in pairwise(ends)]
        parts = tf.split(x, [*lengths[:-1], lengths[-1] + 2 * _REACH], 1)
        for i in range(slabs - 1):
            parts[i] = tf.concat([parts[i], parts[i + 1][:, : 2 * _REACH]], 1)
        calls = [partial(self._slab, level, start, size) for start in ends[:-1]]
        return _computed_twice(calls, [[part] for part in parts])

    def _encoded(self, level: int, x: tf.Tensor) -> Sequence[tf.Tensor]:
        x = self._block("encoder", level, x)
        crop = self._layers.get(f"decoder_{level}_crop")
        return self._layers[f"encoder_{level}_pool"](x), crop(x) if crop else x

    def _decoded(self, level: int, x: tf.Tensor, skip: tf.Tensor) -> Sequence[tf.Tensor]:
        return [self._block("decoder", level, [x, skip])]

    def _slab(self, level: int, start: int, size: int, x: tf.Tensor) -> Sequence[tf.Tensor]:
        """As `_encoded`, of the slices from `start` on of `size` convolved ones."""
        x = self._block("encoder", level, x)
        (before, after), *others = self._layers[f"decoder_{level}_crop"].cropping
        first, last = (
            min(max(n, before), size - after) - start for n in (start, start + x.shape[1])
        )
        middle = [slice(low, -high or None) for low, high in others]
        return self._layers[f"encoder_{level}_pool"](x), x[:, first:last, middle[0], middle[1]]

    def _block(self, part: str, level: int, x: Any) -> tf.Tensor:
        return through(block_layers(self._layers, part, level), x)


def _computed_twice(
    calls: Sequence[_Call], inputs: Sequence[Sequence[tf.Tensor]]
) -> Sequence[tf.Tensor]:
    """The outputs of each call on its inputs, joined along axis 1; nothing between is kept.

    Like `tf.recompute_grad`, but call by call, in both directions: a graph would otherwise start
    all of them at once.
    """

    @tf.custom_gradient
    def run(*flat: tf.Tensor) -> Any:
        own = tf.nest.pack_sequence_as(inputs, flat)
        parts: list[Sequence[tf.Tensor]] = []
        for call, given in zip(calls, own, strict=True):
            parts.append(call(*_after(parts[-1] if parts else [], given)))
        lengths = [[part.shape[1] for part in output] for output in zip(*parts, strict=True)]

        def gradient(*upstream: tf.Tensor, variables: Sequence[Any] = ()) -> Any:
            shares = zip(
                *(tf.split(u, n, 1) for u, n in zip(upstream, lengths, strict=True)), strict=True
            )
            of_inputs: list[tf.Tensor] = []
            of_variables: list[tf.Tensor] = []
            for call, given, share in zip(calls, own, shares, strict=True):
                with tf.GradientTape() as tape:
                    # Where no weights are trained, the gradients of inputs tell that a call ended.
                    again = _after(of_variables or of_inputs or upstream, given)
                    tape.watch(again)
                    outputs = call(*again)
                found = tape.gradient(outputs, [*again, *variables], share)
                of_inputs += found[: len(again)]
                found = found[len(again) :]
                of_variables = [
                    a + b for a, b in zip(of_variables or [0.0] * len(found), found, strict=True)
                ]
            return (of_inputs, of_variables) if variables else of_inputs

        return [tf.concat(output, 1) for output in zip(*parts, strict=True)], gradient

    return run(*tf.nest.flatten(inputs))


def _after(ended: Sequence[tf.Tensor], inputs: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """The inputs, once what has to end before is there."""
    with tf.control_dependencies([tf.convert_to_tensor(e) for e in ended]):
        return [tf.identity(x) for x in inputs]
