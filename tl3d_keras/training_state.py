"""All that a resumed training run needs, as one checkpoint."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import tensorflow as tf

from tl3d_keras.unet3d import UNet3D, named_weights
from tl3d_keras.weight_update import MovingAverage


class TrainingState:
    """All that a resumed run needs: weights, optimizer, step and the best weights so far.

    Args:
        network: whose weights are kept.
        average: of the weights, to be used in their stead after training; None: none.
        more: further variables by name.
    """

    def __init__(
        self,
        network: UNet3D,
        average: MovingAverage | None = None,
        more: Mapping[str, tf.Variable] | None = None,
    ) -> None:
        self._weights = named_weights(network)
        self._more = dict(more or {})
        self._best = {
            name: tf.Variable(v.numpy(), trainable=False) for name, v in self._weights.items()
        }
        self._step = tf.Variable(0, dtype=tf.int64, trainable=False)
        self._best_step = tf.Variable(0, dtype=tf.int64, trainable=False)
        self._best_dice = tf.Variable(-1.0, trainable=False)
        self._optimizer: Any = None
        self._average = average

    @property
    def weights(self) -> Mapping[str, tf.Variable]:
        """The network's, by name."""
        return self._weights

    @property
    def step(self) -> int:
        """Batches trained on."""
        return int(self._step.numpy())

    @property
    def best_step(self) -> int:
        """The step of the best validation, 0 before any."""
        return int(self._best_step.numpy())

    @property
    def best_dice(self) -> float:
        """The best mean validation Dice."""
        return float(self._best_dice.numpy())

    def advance(self, steps: int) -> None:
        """Counts batches."""
        self._step.assign_add(steps)

    def attach(self, optimizer: Any) -> None:
        """Adds a built optimizer's state, in place of a former stage's."""
        if hasattr(optimizer, "stateless_apply"):
            # Keras 3 holds the variables in wrappers that a tf.train.Checkpoint does not see.
            self._optimizer = {f"{i:04d}": v.value for i, v in enumerate(optimizer.variables)}
        else:
            self._optimizer = optimizer

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The network has the averaged weights meanwhile, if there are any."""
        trained = {name: v.numpy() for name, v in self._weights.items()} if self._average else {}
        self.recall_average()
        try:
            yield
        finally:
            for name, value in trained.items():
                self._weights[name].assign(value)

    def recall_average(self) -> None:
        """Puts the averaged weights into the network, if there are any."""
        if self._average:
            for name, variable in self._average.values.items():
                self._weights[name].assign(variable.numpy())

    def offer(self, dice: float) -> None:
        """Keeps the present weights as the best if `dice` is higher than before."""
        if dice > self.best_dice:
            self._best_dice.assign(dice)
            self._best_step.assign(self._step)
            for name, variable in self._best.items():
                variable.assign(self._weights[name].numpy())

    def recall_best(self) -> None:
        """Puts the best weights back into the network."""
        for name, variable in self._best.items():
            self._weights[name].assign(variable)

    def checkpoint(self) -> tf.train.Checkpoint:
        """What is saved."""
        parts = {
            "weights": self._weights,
            "best": self._best,
            "step": self._step,
            "best_step": self._best_step,
            "best_dice": self._best_dice,
            "more": self._more,
        }
        if self._average:
            parts |= {"average": self._average.values, "average_updates": self._average.updates}
        if self._optimizer is not None:
            parts["optimizer"] = self._optimizer
        return tf.train.Checkpoint(**parts)
