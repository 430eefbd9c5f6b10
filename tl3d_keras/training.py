"""Training with `fit`: stages, validation, exact resume."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import tensorflow as tf

from tl3d_keras import deep_supervision, frozen_weights, losses
from tl3d_keras.adapters import Adapters
from tl3d_keras.callbacks import Keeper, Profiler, Watch, Watching
from tl3d_keras.frozen_weights import FrozenWeights
from tl3d_keras.guards import Guard, GuardReport
from tl3d_keras.input_wait import InputWait
from tl3d_keras.layers_by_name import freeze, match_rates
from tl3d_keras.optimizers import OptimizerPlan, build, make_optimizer
from tl3d_keras.run_folder import RunFolder
from tl3d_keras.stages import Stage, frozen_layers
from tl3d_keras.trainer import MaskedTrainer
from tl3d_keras.training_state import TrainingState
from tl3d_keras.unet3d import UNet3D, named_weights
from tl3d_keras.weight_update import MovingAverage, WeightUpdate


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
    watching: Watching | None = None,
    checkpointing: bool = False,
) -> TrainingState:
    """Trains a network through its stages, from where the run folder's checkpoint stands.

    The order of initialisation: a checkpoint of this run; else the weights that `network` has,
    which the caller drew or copied.

    Args:
        network: built in the strategy's scope; afterwards it holds the best weights by validation
            Dice, or the last ones without validation; the averaged ones where there is an average.
        batches: gives the batches from a number on, see `input_pipeline.training_batches`.
        stages: in order, of 1 step or more each.
        folder: of the run, for checkpoints and logs.
        strategy: to train under.
        loss: from logits.
        optimizer: how weights follow from gradients; None: the defaults.
        steps_per_epoch: batches between validations and checkpoints.
        validate: gives the Dice of each of `structures`, or None where undefined.
        structures: names for the logs.
        supervise_levels: whether the coarser levels get heads, see `deep_supervision`.
        watching: what the user sees of it.
        checkpointing: whether activations are computed twice, see `gradient_checkpointing`.

    Returns:
        The final state: step, best Dice and its step.

    Raises:
        Diverged: loss or gradients were not finite for several steps; `network` then holds the
            best weights, or the last ones without validation.
        RuntimeError: weights that were to stay frozen have changed.
    """
    plan = optimizer or OptimizerPlan()
    trained = _make(network, plan, supervise_levels, strategy)
    state = trained.state
    always = _always_frozen(network, stages)
    untrained = frozen_weights.hashes(network, always)
    folder.restore(state)
    watching = watching or Watching()
    watching.progress.start(sum(s.steps for s in stages), state.step)
    waiting = InputWait()
    watchers = [waiting, *_watchers(trained.guard, state, batches, folder, watching)]

    def watched(first: int) -> tf.data.Dataset:
        return waiting.watch(batches(first), strategy)

    end = 0
    for stage in stages:
        start, end = end, end + stage.steps
        if state.step >= end:
            continue
        frozen = freeze(network, frozen_layers(network, stage))
        with strategy.scope():
            trainer = _compiled(network, trained, loss, plan, stage, checkpointing)
        if state.step > start:
            folder.restore(state)
        kept = FrozenWeights(network, frozen, folder, state, stage.name, start)
        keeper = Keeper(folder, state, stage.name, validate, structures, watching, waiting)
        _fit(trainer, watched, state, end, steps_per_epoch, [*watchers, kept, keeper])
        if kept.summary:
            watching.progress.say(kept.summary)
    _note_wait(waiting, folder, watching)
    freeze(network, ())
    if state.best_step:
        state.recall_best()
    else:
        state.recall_average()
    # Of averaged weights too.
    frozen_weights.check_equal(untrained, frozen_weights.hashes(network, always))
    return state


class _Trained(NamedTuple):
    """What is trained, how a step changes it, and all that a resumed run needs of both."""

    logits: tf.keras.Model
    update: WeightUpdate
    guard: Guard
    state: TrainingState


def _make(
    network: UNet3D, plan: OptimizerPlan, supervise_levels: bool, strategy: tf.distribute.Strategy
) -> _Trained:
    with strategy.scope():
        logits = deep_supervision.with_heads(network) if supervise_levels else network.logits
        average = MovingAverage(named_weights(logits), plan.ema) if plan.ema else None
        guard = Guard()
        # Of the weights that the caller gave, whatever a checkpoint will put in their place.
        adapters = Adapters(network.layers, plan.adapter_rank) if plan.adapter_rank else None
    rates = match_rates(network, plan.layer_rates)
    update = WeightUpdate(plan.clip_norm, rates, average, adapters)
    more = guard.state | (adapters.state if adapters else {})
    return _Trained(logits, update, guard, TrainingState(logits, average, more))


def _compiled(
    network: UNet3D,
    trained: _Trained,
    loss: losses.MaskedLoss,
    plan: OptimizerPlan,
    stage: Stage,
    checkpointing: bool,
) -> MaskedTrainer:
    """The trainer of a stage, whose optimizer becomes part of the state; call it in the scope."""
    logits, update, guard, state = trained
    trainer = MaskedTrainer(network, loss, logits, update, guard, checkpointing)
    rule = make_optimizer(plan, stage.learning_rate, stage.steps, network.get_config()["dtype"])
    trainer.compile(optimizer=rule, jit_compile=False)
    build(rule, update.trained(logits))
    state.attach(rule)
    return trainer


def _always_frozen(network: UNet3D, stages: Sequence[Stage]) -> list[str]:
    """The layers that no stage trains."""
    return sorted(set.intersection(*(set(frozen_layers(network, stage)) for stage in stages)))


def _fit(
    trainer: MaskedTrainer,
    batches: Callable[[int], tf.data.Dataset],
    state: TrainingState,
    end: int,
    steps_per_epoch: int,
    callbacks: Sequence[tf.keras.callbacks.Callback],
) -> None:
    """Trains up to step `end` of the run; the callbacks, of which one counts, see every epoch."""
    while state.step < end:
        # The last epoch of a stage may be a short one.
        length = min(steps_per_epoch, end - state.step)
        trainer.fit(
            batches(state.step),
            epochs=(end - state.step) // length,
            steps_per_epoch=length,
            shuffle=False,
            callbacks=[*callbacks],
            verbose=0,
        )


def _watchers(
    guard: Guard,
    state: TrainingState,
    batches: Callable[[int], tf.data.Dataset],
    folder: RunFolder,
    watching: Watching,
) -> list[tf.keras.callbacks.Callback]:
    """What runs before the `Keeper`, which must not save a run that has gone wrong."""
    skipped = partial(_tell_skipped, folder, watching)
    report = GuardReport(guard, batches, watching.case_names, skipped)
    callbacks = [watching.progress, Watch(report, state)]
    if watching.profile:
        callbacks.append(Profiler(str(folder.logs), *watching.profile, state))
    return callbacks


def _note_wait(waiting: InputWait, folder: RunFolder, watching: Watching) -> None:
    if waiting.of_all is not None:
        share = round(waiting.of_all, 4)
        folder.note(input_wait=share)
        watching.progress.say(f"waiting for data took {share:.2%} of the steps' time")


def _tell_skipped(folder: RunFolder, watching: Watching, step: int, cases: Sequence[str]) -> None:
    folder.note_skipped(step, cases)
    watching.progress.say(
        f"step {step} skipped: loss or gradients were not finite, cases {', '.join(cases)}"
    )
