"""The masked train step, as a Keras model for `fit`."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tl3d_keras import deep_supervision
from tl3d_keras.gradient_checkpointing import Checkpointed
from tl3d_keras.guards import Guard
from tl3d_keras.metrics import MaskedDiceMetric
from tl3d_keras.unet3d import UNet3D
from tl3d_keras.weight_update import WeightUpdate


class MaskedTrainer(tf.keras.Model):
    """Wraps a network for `fit` on the batches of `input_pipeline`.

    Args:
        network: built in the scope of the strategy that it is trained under.
        loss: one of `losses.LOSSES`, made with `from_logits=True`.
        logits: a model of the network's weights that gives logits, or those of each level as
            `deep_supervision.with_heads`; None: `network.logits`.
        update: clipping, layer rates and moving average; None: the optimizer's step alone.
        guard: of the run, made in the same scope; None: a new one.
        checkpointing: whether activations are computed twice, see `gradient_checkpointing`.
    """

    def __init__(
        self,
        network: UNet3D,
        loss: Any,
        logits: tf.keras.Model | None = None,
        update: WeightUpdate | None = None,
        guard: Guard | None = None,
        checkpointing: bool = False,
    ) -> None:
        super().__init__(name="masked_trainer")
        self.network = network
        self._logits = network.logits if logits is None else logits
        self._compute = self._logits
        if checkpointing:
            self._compute = Checkpointed(network, self._logits)
        self._padding = network.get_config()["padding"]
        self._masked_loss = loss
        self._update = update or WeightUpdate()
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
        """Logits, or those of each level."""
        return self._compute(inputs)

    def train_step(self, data: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """One step on one replica's part of a batch."""
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        with tf.GradientTape() as tape:
            logits, *coarser = tf.nest.flatten(self(data["image"], training=True))
            loss = deep_supervision.value(
                self._masked_loss,
                data["labels"],
                [logits, *coarser],
                data["annotated"],
                self._padding,
            )
            # Gradients are summed over replicas, and each has the loss of the global batch.
            scaled = _scale(self.optimizer, loss / replicas)
        gradients = tape.gradient(scaled, self._logits.trainable_weights)
        gradients = self._update.gradients(gradients, self._logits)
        taken = self._guard.apply(self.optimizer, loss, gradients, self._take)
        # A skipped batch counts in no metric.
        self._mean_loss.update_state(tf.where(taken, loss, 0.0), tf.cast(taken, tf.float32))
        annotated = tf.where(taken, data["annotated"], tf.zeros_like(data["annotated"]))
        self._dice.update_state(data["labels"], logits, annotated=annotated)
        return {metric.name: metric.result() for metric in self.metrics}

    def _take(self, gradients: Sequence[tf.Tensor]) -> None:
        self._update.apply(self.optimizer, gradients, self._logits)


def _scale(optimizer: Any, loss: tf.Tensor) -> tf.Tensor:
    """Loss scaling for float16; Keras 2 and 3 name it differently, and both do without it alike."""
    if hasattr(optimizer, "get_scaled_loss"):
        return optimizer.get_scaled_loss(loss)
    return optimizer.scale_loss(loss) if hasattr(optimizer, "scale_loss") else loss
