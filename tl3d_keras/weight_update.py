"""From one step's gradients to new weights, exact on any number of replicas and on either Keras."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import tensorflow as tf

from tl3d_keras.adapters import Adapters


class MovingAverage:
    """An exponential moving average of weights, from their present values on.

    The decay is min(decay, (1 + n) / (10 + n)) after n updates, so that a short run isn't held back
    by its start (as in `tf.train.ExponentialMovingAverage` with `num_updates`).

    Args:
        weights: by name; in the scope of the strategy that they are trained under.
        decay: from 0 to below 1.
    """

    def __init__(self, weights: Mapping[str, tf.Variable], decay: float) -> None:
        self._weights = dict(weights)
        self._decay = decay
        self.values = {
            name: tf.Variable(v.numpy(), trainable=False) for name, v in self._weights.items()
        }
        self.updates = tf.Variable(0, dtype=tf.int64, trainable=False)

    def update(self, strategy: tf.distribute.Strategy) -> None:
        """Counts in the present weights; in the cross-replica context."""
        for name, average in self.values.items():
            strategy.extended.update(
                average, self._toward, args=(self._weights[name], self.updates), group=False
            )
        strategy.extended.update(self.updates, lambda n: n.assign_add(1), group=False)

    def _toward(self, average: tf.Variable, weight: tf.Variable, updates: tf.Variable) -> Any:
        count = tf.cast(updates, tf.float32)
        decay = tf.minimum(self._decay, (1 + count) / (10 + count))
        return average.assign_add((1 - decay) * (weight - average))


class WeightUpdate:
    """What happens around an optimizer's own step.

    Args:
        clip_norm: the largest norm of the gradient, over all weights and replicas; 0: any.
        layer_rates: what the updates of a layer's weights are multiplied with, by layer name; 1 for
            others. For an optimizer whose update is proportional to its learning rate (Adam, AdamW,
            SGD, LAMB), this is exactly a learning rate of the layer's own.
        average: is updated after each step.
        adapters: what is trained in place of kernels.
    """

    def __init__(
        self,
        clip_norm: float = 0.0,
        layer_rates: Mapping[str, float] | None = None,
        average: MovingAverage | None = None,
        adapters: Adapters | None = None,
    ) -> None:
        self._clip_norm = clip_norm
        self._layer_rates = {n: r for n, r in (layer_rates or {}).items() if r != 1}
        self._average = average
        self._adapters = adapters

    def trained(self, network: Any) -> list[Any]:
        """The weights that the optimizer updates: the trainable ones, or their adapters."""
        weights = network.trainable_weights
        return self._adapters.trained(weights) if self._adapters else weights

    def gradients(self, gradients: Sequence[tf.Tensor], network: Any) -> list[tf.Tensor]:
        """The gradients of `trained(network)` from those of the trainable weights.

        Call it outside the branch that calls `apply`: inside, TensorFlow 2.21's dependency
        optimizer lets a read of an adapter wait until after its update.
        """
        weights = network.trainable_weights
        return self._adapters.gradients(weights, gradients) if self._adapters else list(gradients)

    def apply(self, optimizer: Any, gradients: Sequence[tf.Tensor], network: Any) -> None:
        """Updates a network's trainable weights; in a replica's context.

        Args:
            optimizer: built for `trained(network)`; one with loss scaling gets the gradients of the
                scaled loss.
            gradients: of this replica's share of the loss, one for each of `trained(network)`.
            network: whose weights change.
        """
        gradients = self._whole(optimizer, list(gradients))
        scaled = self._scaled_weights(network)
        before = [tf.identity(weight) for weight, _ in scaled]
        optimizer.apply_gradients(zip(gradients, self.trained(network), strict=True))
        if scaled or self._average or self._adapters:
            after = partial(self._after, network.trainable_weights)
            tf.distribute.get_replica_context().merge_call(after, args=(scaled, before))

    def _whole(self, optimizer: Any, gradients: list[tf.Tensor]) -> list[tf.Tensor]:
        """Each replica's equal share of the summed and clipped gradient; optimizers sum shares.

        Summed here, because Keras clips, and Keras 3 looks for float16's overflow, before it sums.
        """
        context = tf.distribute.get_replica_context()
        replicas = context.num_replicas_in_sync
        if replicas > 1:
            gradients = context.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
        if hasattr(optimizer, "get_unscaled_gradients"):
            gradients = optimizer.get_unscaled_gradients(gradients)
        if self._clip_norm:
            limit = self._clip_norm
            if hasattr(optimizer, "scale_loss"):
                # Keras 3 unscales them later.
                limit = optimizer.scale_loss(limit)
            gradients, _ = tf.clip_by_global_norm(gradients, limit)
        return [g / replicas for g in gradients] if replicas > 1 else gradients

    def _scaled_weights(self, network: Any) -> list[tuple[tf.Variable, float]]:
        return [
            # Keras 3 wraps the tf.Variable.
            (weight if isinstance(weight, tf.Variable) else weight.value, self._layer_rates[name])
            for name in self._layer_rates
            for weight in self.trained(network.get_layer(name))
        ]

    def _after(
        self,
        weights: Sequence[Any],
        strategy: tf.distribute.Strategy,
        scaled: list[tuple[tf.Variable, float]],
        before: list[tf.Tensor],
    ) -> None:
        for (weight, rate), old in zip(scaled, before, strict=True):
            strategy.extended.update(weight, _shortened, args=(old, rate), group=False)
        if self._adapters:
            self._adapters.merge(strategy, weights)
        if self._average:
            self._average.update(strategy)


def _shortened(weight: tf.Variable, before: tf.Tensor, rate: float) -> Any:
    return weight.assign(before + rate * (weight - before))
