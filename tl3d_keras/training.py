"""Training with `fit`: stages, validation, exact resume."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from tl3d_keras import deep_supervision, losses
from tl3d_keras.optimizers import OptimizerPlan, build, make_optimizer
from tl3d_keras.run_folder import RunFolder, TrainingState
from tl3d_keras.trainer import MaskedTrainer
from tl3d_keras.transfer import freeze, match_rates
from tl3d_keras.unet3d import UNet3D, named_weights
from tl3d_keras.weight_update import MovingAverage, WeightUpdate


@dataclass(frozen=True)
class Stage:
    """A part of a training run.

    Attributes:
        name: for logs.
        steps: batches.
        learning_rate: its highest, after the warm-up.
        frozen: name patterns of layers that stay as they are.
    """

    name: str
    steps: int
    learning_rate: float
    frozen: tuple[str, ...] = ()


def train(
    network: UNet3D,
    batches: Callable[[int], tf.data.Dataset],
    stages: Sequence[Stage],
    folder: RunFolder,
    strategy: tf.distribute.Strategy,
    loss: losses.MaskedLoss,
    optimizer: OptimizerPlan | None = None,
    steps_per_epoch: int = 250,
    validate: Callable[[], Sequence[float | None]] | None = None,
    structures: Sequence[str] = (),
    supervise_levels: bool = False,
) -> TrainingState:
    """Trains a network through its stages, from where the run folder's checkpoint stands.

    The order of initialisation: a checkpoint of this run; else the weights that `network` has,
    which the caller drew or copied.

    Args:
        network: built in the strategy's scope; afterwards it holds the best weights by validation
            Dice, or the last ones without validation; the averaged ones where there is an average.
        batches: gives the batches from a number on, see `input_pipeline.training_batches`.
        stages: in order; layers that no stage freezes are trained.
        folder: of the run, for checkpoints and logs.
        strategy: to train under.
        loss: from logits.
        optimizer: how weights follow from gradients; None: the defaults.
        steps_per_epoch: batches between validations and checkpoints.
        validate: gives the Dice of each of `structures`, or None where undefined.
        structures: names for the logs.
        supervise_levels: whether the coarser levels get heads, see `deep_supervision`.

    Returns:
        The final state: step, best Dice and its step.
    """
    plan = optimizer or OptimizerPlan()
    with strategy.scope():
        logits = deep_supervision.with_heads(network) if supervise_levels else network.logits
        average = MovingAverage(named_weights(logits), plan.ema) if plan.ema else None
    update = WeightUpdate(plan.clip_norm, match_rates(network, plan.layer_rates), average)
    state = TrainingState(logits, average)
    folder.restore(state)
    end = 0
    for stage in stages:
        start, end = end, end + stage.steps
        if state.step >= end or not stage.steps:
            continue
        freeze(network, stage.frozen)
        with strategy.scope():
            trainer = MaskedTrainer(network, loss, logits, update)
            rule = make_optimizer(
                plan, stage.learning_rate, stage.steps, network.get_config()["dtype"]
            )
            trainer.compile(optimizer=rule, jit_compile=False)
            build(rule, logits.trainable_weights)
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
    else:
        state.recall_average()
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
            with self._state.averaged():
                dice = self._validate()
                known = [d for d in dice if d is not None]
                mean = sum(known) / len(known) if known else 0.0
                self._state.offer(mean)
            row["validation_dice"] = mean
            row |= {
                f"validation_dice/{name}": d for name, d in zip(self._structures, dice, strict=True)
            }
        self._folder.log(row)
        self._folder.save(self._state)
