"""Low-rank adapters of 3x3x3 kernels, after LoRA (Hu et al. 2021, arXiv 2106.09685).

A kernel of a convolution, seen as a matrix of 27 C_in rows and C_out columns, may only become
base + down @ up, where `down` has few columns and `up` as few rows, zeros at first. The network
keeps its layers, and its kernels always hold that sum, so whatever reads the network (validation,
averages, the artifact) sees the adapted one, and nothing is left to merge at the end.
"""

from collections.abc import Iterable, Sequence
from math import prod
from typing import Any

import tensorflow as tf

_SIDE = (3, 3, 3)


class Adapters:
    """The adapters of a network's 3x3x3 kernels; they start at the kernels' present values.

    Make them in the scope of the strategy.

    Args:
        layers: those that may be adapted.
        rank: of the updates, 1 or more, or as many as a kernel's matrix has columns.
    """

    def __init__(self, layers: Iterable[tf.keras.layers.Layer], rank: int) -> None:
        # Lists of weights are told apart by id on both Kerases; a tf.Variable has no hash.
        self._by_kernel = {
            id(weight): _Adapter(weight, layer.name, rank)
            for layer in layers
            for weight in _kernels(layer)
        }

    @property
    def state(self) -> dict[str, tf.Variable]:
        """What a checkpoint has to hold for an exact resume, beside the network's weights."""
        return {
            f"{adapter.name}/{name}": variable
            for adapter in self._by_kernel.values()
            for name, variable in (("down", adapter.down), ("up", adapter.up))
        }

    def trained(self, weights: Sequence[Any]) -> list[Any]:
        """What is trained in place of weights: two matrices for a kernel, else the weight."""
        return [
            trained
            for weight in weights
            for trained in (self._by_kernel[id(weight)].trained if self._has(weight) else [weight])
        ]

    def gradients(self, weights: Sequence[Any], gradients: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """The gradients of `trained(weights)` from those of `weights`."""
        found: list[tf.Tensor] = []
        for weight, gradient in zip(weights, gradients, strict=True):
            if self._has(weight):
                found += self._by_kernel[id(weight)].gradients(gradient)
            else:
                found.append(gradient)
        return found

    def merge(self, strategy: tf.distribute.Strategy, weights: Sequence[Any]) -> None:
        """Puts base + down @ up into the kernels of `weights`; in the cross-replica context."""
        for weight in filter(self._has, weights):
            adapter = self._by_kernel[id(weight)]
            strategy.extended.update(
                adapter.kernel,
                _sum,
                args=(adapter.base, adapter.down, adapter.up),
                group=False,
            )

    def _has(self, weight: Any) -> bool:
        return id(weight) in self._by_kernel


class _Adapter:
    """The matrices of one kernel."""

    def __init__(self, kernel: Any, name: str, rank: int) -> None:
        rows, columns, width = _matrix(kernel.shape, rank)
        # Weights of a layer, for they are what the optimizers of both Kerases take.
        layer = tf.keras.layers.Layer(name=f"{name}_adapter", dtype="float32")
        draw = tf.keras.initializers.LecunNormal()
        self.trained = [
            layer.add_weight(name="down", shape=(rows, width), initializer=draw),
            layer.add_weight(name="up", shape=(width, columns), initializer="zeros"),
        ]
        self.name = layer.name
        self.down, self.up = map(_variable, self.trained)
        self.kernel = _variable(kernel)
        self.base = tf.Variable(self.kernel.numpy(), trainable=False)

    def gradients(self, of_kernel: tf.Tensor) -> list[tf.Tensor]:
        matrix = tf.reshape(of_kernel, (-1, of_kernel.shape[-1]))
        return [
            tf.matmul(matrix, self.up, transpose_b=True),
            tf.matmul(self.down, matrix, transpose_a=True),
        ]


def trained_parameters(layer: tf.keras.layers.Layer, rank: int) -> int:
    """How many numbers are trained in a layer that is not frozen; rank 0: without adapters."""
    kernels = _kernels(layer) if rank else []
    adapters = [_matrix(kernel.shape, rank) for kernel in kernels]
    return (
        sum(prod(weight.shape) for weight in layer.weights)
        - sum(prod(kernel.shape) for kernel in kernels)
        + sum(width * (rows + columns) for rows, columns, width in adapters)
    )


def _kernels(layer: tf.keras.layers.Layer) -> list[Any]:
    return [w for w in layer.weights if len(w.shape) == 5 and tuple(w.shape[:3]) == _SIDE]


def _matrix(shape: Sequence[int], rank: int) -> tuple[int, int, int]:
    rows, columns = prod(shape[:-1]), shape[-1]
    return rows, columns, min(rank, rows, columns)


def _variable(weight: Any) -> tf.Variable:
    # Keras 3 wraps the tf.Variable that Keras 2 has as it is.
    return weight if isinstance(weight, tf.Variable) else weight.value


def _sum(kernel: tf.Variable, base: tf.Variable, down: tf.Variable, up: tf.Variable) -> Any:
    return kernel.assign(base + tf.reshape(tf.matmul(down, up), base.shape))
