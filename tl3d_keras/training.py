"""Training with `fit`: devices, precision, the masked train step, stages, exact resume."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import tensorflow as tf

from tl3d_keras import losses
from tl3d_keras.errors import InputError
from tl3d_keras.metrics import MaskedDiceMetric
from tl3d_keras.run_folder import RunFolder, TrainingState
from tl3d_keras.transfer import freeze
from tl3d_keras.unet3d import UNet3D

PRECISIONS = ("auto", "float32", "mixed_bfloat16", "mixed_float16")
STRATEGIES = ("auto", "mirrored", "one")
LEARNING_RATE_FLOOR = 0.01


@dataclass(frozen=True)
class Stage:
    """A part of a training run.

    Attributes:
        name: for logs.
        steps: batches.
        learning_rate: at its first step; it falls along a cosine to a hundredth of that.
        frozen: name patterns of layers that stay as they are.
    """

    name: str
    steps: int
    learning_rate: float
    frozen: tuple[str, ...] = ()


@cache
def choose_strategy(name: str) -> tf.distribute.Strategy:
    """`auto`: all GPUs where there are several, else one device; `mirrored`: all GPUs or, without
    any, all logical CPU devices; `one`: one device.

    A process gets one strategy a name: TensorFlow mixes up the collectives of two on the same
    devices.
    """
    gpus = tf.config.list_logical_devices("GPU")
    if name == "one" or (name == "auto" and len(gpus) < 2):
        return tf.distribute.get_strategy()
    devices = gpus or tf.config.list_logical_devices("CPU")
    return tf.distribute.MirroredStrategy([device.name for device in devices])


def choose_precision(name: str) -> str:
    """Resolves `auto`: bfloat16 where GPU or processor compute in it, float16 on older GPUs with
    tensor cores, else float32.

    Returns:
        A Keras policy: "float32", "mixed_bfloat16" or "mixed_float16".
    """
    if name != "auto":
        return name
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
        capability = min(d.get("compute_capability", (0, 0)) for d in details)
        if capability >= (8, 0):
            return "mixed_bfloat16"
        return "mixed_float16" if capability >= (7, 0) else "float32"
    return "mixed_bfloat16" if {"avx512_bf16", "amx_bf16"} & _processor_flags() else "float32"


def _processor_flags() -> set[str]:
    try:
        with open("/proc/cpuinfo") as file:
            return set(next((line for line in file if line.startswith("flags")), "").split())
    except OSError:
        return set()


class MaskedTrainer(tf.keras.Model):
    """Wraps a network for `fit` on the batches of `input_pipeline`.

    Args:
        network: built in the scope of the strategy that it is trained under.
        loss: one of `losses.LOSSES`, made with `from_logits=True`.
    """

    def __init__(self, network: UNet3D, loss: Any) -> None:
        super().__init__(name="masked_trainer")
        self.network = network
        self._logits = network.logits
        self._masked_loss = loss
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
        self.optimizer.apply_gradients(zip(gradients, weights, strict=True))
        self._mean_loss.update_state(loss)
        self._dice.update_state(data["labels"], logits, annotated=data["annotated"])
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


def train(
    network: UNet3D,
    batches: Callable[[int], tf.data.Dataset],
    stages: Sequence[Stage],
    folder: RunFolder,
    strategy: tf.distribute.Strategy,
    loss: str = "cross_entropy_dice",
    optimizer: str = "adam",
    steps_per_epoch: int = 250,
    validate: Callable[[], Sequence[float | None]] | None = None,
    structures: Sequence[str] = (),
) -> TrainingState:
    """Trains a network through its stages, from where the run folder's checkpoint stands.

    The order of initialisation: a checkpoint of this run; else the weights that `network` has,
    which the caller drew or copied.

    Args:
        network: built in the strategy's scope; afterwards it holds the best weights by validation
            Dice, or the last ones without validation.
        batches: gives the batches from a number on, see `input_pipeline.training_batches`.
        stages: in order; layers that no stage freezes are trained.
        folder: of the run, for checkpoints and logs.
        strategy: to train under.
        loss: a key of `losses.LOSSES`.
        optimizer: any name registered with Keras.
        steps_per_epoch: batches between validations and checkpoints.
        validate: gives the Dice of each of `structures`, or None where undefined.
        structures: names for the logs.

    Returns:
        The final state: step, best Dice and its step.
    """
    state = TrainingState(network)
    folder.restore(state)
    end = 0
    for stage in stages:
        start, end = end, end + stage.steps
        if state.step >= end or not stage.steps:
            continue
        freeze(network, stage.frozen)
        with strategy.scope():
            trainer = MaskedTrainer(network, losses.LOSSES[loss](from_logits=True))
            rule = _optimizer(optimizer, stage, network)
            trainer.compile(optimizer=rule, jit_compile=False)
            rule.build(network.trainable_weights)
            state.attach(rule)
        if state.step > start:
            folder.restore(state)
        keeper = _Keeper(folder, state, stage, validate, structures)
        while state.step < end:
            # The last epoch of a stage may be a short one.
            length = min(steps_per_epoch, end - state.step)
            epochs = (end - state.step) // length
            trainer.fit(
                batches(state.step),
                epochs=epochs,
                steps_per_epoch=length,
                shuffle=False,
                callbacks=[keeper],
                verbose=1 if sys.stdout.isatty() else 2,
            )
    freeze(network, ())
    if state.best_step:
        state.recall_best()
    return state


class _Keeper(tf.keras.callbacks.Callback):
    """After every epoch: validates, logs and, last of all, saves the checkpoint."""

    def __init__(
        self,
        folder: RunFolder,
        state: TrainingState,
        stage: Stage,
        validate: Callable[[], Sequence[float | None]] | None,
        structures: Sequence[str],
    ) -> None:
        super().__init__()
        self._folder = folder
        self._state = state
        self._stage = stage
        self._validate = validate
        self._structures = structures

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Ends an epoch."""
        self._state.advance(self.params["steps"])
        row: dict[str, Any] = {"step": self._state.step, "stage": self._stage.name}
        row |= {name: float(value) for name, value in (logs or {}).items()}
        if self._validate:
            dice = self._validate()
            known = [d for d in dice if d is not None]
            mean = sum(known) / len(known) if known else 0.0
            row["validation_dice"] = mean
            row |= {
                f"validation_dice/{name}": d for name, d in zip(self._structures, dice, strict=True)
            }
            self._state.offer(mean)
        self._folder.log(row)
        self._folder.save(self._state)


def _optimizer(name: str, stage: Stage, network: UNet3D) -> Any:
    rate = tf.keras.optimizers.schedules.CosineDecay(
        stage.learning_rate, stage.steps, alpha=LEARNING_RATE_FLOOR
    )
    try:
        default = tf.keras.optimizers.get(name)
    except (ValueError, TypeError) as error:
        raise InputError(
            f"expected an optimizer that Keras knows, such as adam, found {name!r}"
        ) from error
    rule = type(default).from_config({**default.get_config(), "learning_rate": rate})
    if network.get_config()["dtype"] == "mixed_float16":
        rule = tf.keras.mixed_precision.LossScaleOptimizer(rule)
    return rule


def make_deterministic(seed: int) -> None:
    """Seeds Python, NumPy and TensorFlow, and on processors makes every operation repeatable.

    On GPUs some operations of 3D networks have no deterministic kernel, so there the order of
    floating-point sums stays free.
    """
    tf.keras.utils.set_random_seed(seed)
    if not tf.config.list_physical_devices("GPU"):
        tf.config.experimental.enable_op_determinism()
