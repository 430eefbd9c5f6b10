"""The masked train step, as a Keras model for `fit`."""

from typing import Any

import tensorflow as tf

from tl3d_keras.guards import Guard
from tl3d_keras.metrics import MaskedDiceMetric
from tl3d_keras.unet3d import UNet3D


class MaskedTrainer(tf.keras.Model):
    """Wraps a network for `fit` on the batches of `input_pipeline`.

    Args:
        network: built in the scope of the strategy that it is trained under.
        loss: one of `losses.LOSSES`, made with `from_logits=True`.
        guard: of the run, made in the same scope; None: a new one.
    """

    def __init__(self, network: UNet3D, loss: Any, guard: Guard | None = None) -> None:
        super().__init__(name="masked_trainer")
        self.network = network
        self._logits = network.logits
        self._masked_loss = loss
        self._guard = guard or Guard()
        self._mean_loss = tf.keras.metrics.Mean(name="loss")
        self._dice = MaskedDiceMetric(network.get_config()["num_classes"], name="dice")
        # Keras 3 would otherwise build it on symbolic data.
        self.built = True

    @property
    def metrics(self) -> list[tf.keras.metrics.Metric]:
        """Reset by Keras at the start of every epoch."""
        return [self._mean_loss, self._dice]

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Logits."""
        return self._logits(inputs, training=training)

    def train_step(self, data: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """One step on one replica's part of a batch."""
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        with tf.GradientTape() as tape:
            logits = self(data["image"], training=True)
            loss = self._masked_loss.value(data["labels"], logits, data["annotated"])
            # Gradients are summed over replicas, and each has the loss of the global batch.
            scaled = _scale(self.optimizer, loss / replicas)
        weights = self.network.trainable_weights
        gradients = _unscale(self.optimizer, tape.gradient(scaled, weights))
        taken = self._guard.apply(self.optimizer, loss, gradients, weights)
        # A skipped batch counts in no metric.
        self._mean_loss.update_state(tf.where(taken, loss, 0.0), tf.cast(taken, tf.float32))
        annotated = tf.where(taken, data["annotated"], tf.zeros_like(data["annotated"]))
        self._dice.update_state(data["labels"], logits, annotated=annotated)
        return {metric.name: metric.result() for metric in self.metrics}


def _scale(optimizer: Any, loss: tf.Tensor) -> tf.Tensor:
    """Loss scaling for float16; Keras 2 and 3 name it differently, and both do without it alike."""
    if hasattr(optimizer, "get_scaled_loss"):
        return optimizer.get_scaled_loss(loss)
    return optimizer.scale_loss(loss) if hasattr(optimizer, "scale_loss") else loss


def _unscale(optimizer: Any, gradients: list[tf.Tensor]) -> list[tf.Tensor]:
    if hasattr(optimizer, "get_unscaled_gradients"):
        return optimizer.get_unscaled_gradients(gradients)
    return gradients
