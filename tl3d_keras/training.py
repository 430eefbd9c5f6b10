"""Training with `fit`: stages, validation, exact resume."""

from collections.abc import Callable, Sequence
from functools import partial

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
    with strategy.scope():
        logits = deep_supervision.with_heads(network) if supervise_levels else network.logits
        average = MovingAverage(named_weights(logits), plan.ema) if plan.ema else None
        guard = Guard()
        # Of the weights that the caller gave, whatever a checkpoint will put in their place.
        adapters = Adapters(network.layers, plan.adapter_rank) if plan.adapter_rank else None
    rates = match_rates(network, plan.layer_rates)
    update = WeightUpdate(plan.clip_norm, rates, average, adapters)
    held = [set(frozen_layers(network, stage)) for stage in stages]
    always = sorted(set.intersection(*held))
    untrained = frozen_weights.hashes(network, always)
    more = guard.state | (adapters.state if adapters else {})
    state = TrainingState(logits, average, more)
    folder.restore(state)
    watching = watching or Watching()
    watching.progress.start(sum(s.steps for s in stages), state.step)
    waiting = InputWait()
    watchers = [waiting, *_watchers(guard, state, batches, folder, watching)]
    end = 0
    for stage in stages:
        start, end = end, end + stage.steps
        if state.step >= end:
            continue
        frozen = freeze(network, frozen_layers(network, stage))
        with strategy.scope():
            trainer = MaskedTrainer(network, loss, logits, update, guard, checkpointing)
            rule = make_optimizer(
                plan, stage.learning_rate, stage.steps, network.get_config()["dtype"]
            )
            trainer.compile(optimizer=rule, jit_compile=False)
            build(rule, update.trained(logits))
            state.attach(rule)
        if state.step > start:
            folder.restore(state)
        kept = FrozenWeights(network, frozen, folder, state, stage.name, start)
        keeper = Keeper(folder, state, stage.name, validate, structures, watching, waiting)
        while state.step < end:
            # The last epoch of a stage may be a short one.
            length = min(steps_per_epoch, end - state.step)
            epochs = (end - state.step) // length
            trainer.fit(
                waiting.watch(batches(state.step), strategy),
                epochs=epochs,
                steps_per_epoch=length,
                shuffle=False,
                callbacks=[*watchers, kept, keeper],
                verbose=0,
            )
        if kept.summary:
            watching.progress.say(kept.summary)
    if waiting.of_all is not None:
        folder.note(input_wait=round(waiting.of_all, 5))
        watching.progress.say(f"waiting for data took {waiting.of_all:.2%} of the steps' time")
    freeze(network, ())
    if state.best_step:
        state.recall_best()
    else:
        state.recall_average()
    # Of averaged weights too.
    frozen_weights.check_equal(untrained, frozen_weights.hashes(network, always))
    return state


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


def _tell_skipped(folder: RunFolder, watching: Watching, step: int, cases: Sequence[str]) -> None:
    folder.note_skipped(step, cases)
    watching.progress.say(
        f"step {step} skipped: loss or gradients were not finite, cases {', '.join(cases)}"
    )
