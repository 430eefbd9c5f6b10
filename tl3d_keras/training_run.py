"""A whole training run: records in; checkpoints, logs and the model's artifact out."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import NamedTuple

import tensorflow as tf

from tl3d_keras import (
    artifact,
    base_file,
    devices,
    input_pipeline,
    layer_report,
    losses,
    memory,
    memory_model,
    run_failures,
    run_model,
    run_parts,
    run_report,
    run_settings,
    training,
    validation,
)
from tl3d_keras import manifest as manifest_module
from tl3d_keras.base_file import Base
from tl3d_keras.callbacks import Progress, Watching
from tl3d_keras.errors import InputError
from tl3d_keras.guards import Diverged
from tl3d_keras.inference import Segmenter
from tl3d_keras.input_pipeline import PatchSettings
from tl3d_keras.layers_by_name import match_rates
from tl3d_keras.manifest import CaseEntry, Manifest
from tl3d_keras.run_folder import RunFolder
from tl3d_keras.run_settings import RunSettings
from tl3d_keras.training_state import TrainingState
from tl3d_keras.unet3d import UNet3D


def run(
    settings: RunSettings,
    output_dir: str | Path,
    say: Callable[[str], None] = lambda _: None,
    profile: tuple[int, int] | None = None,
    histograms: bool = False,
    report: bool = True,
) -> Path:
    """Trains, or goes on with, the run in `output_dir`.

    Args:
        settings: of the run.
        output_dir: gets `model/`, `checkpoints/`, `logs/`, `metrics.csv`, `run.json` and
            `report.html`.
        say: is given lines for the user.
        profile: see `callbacks.Watching`.
        histograms: likewise.
        report: whether `report.html` is written.

    Returns:
        The folder of the model's version.

    Raises:
        InputError: settings, records or base that do not fit together; or a run that cannot go on,
            whose best model is then in `model/`.
    """
    manifest = manifest_module.load(settings.records_dir)
    run_settings.check(settings, manifest)
    if profile and not 1 <= profile[0] <= profile[1] <= settings.steps:
        raise InputError(
            f"--profile: expected two steps of 1 to {settings.steps}, the first not after the "
            f"last, found {profile[0]},{profile[1]}"
        )
    # A cluster's workers must find each other before anything is computed.
    strategy = devices.choose_strategy(settings.strategy)
    follows = not devices.is_chief(strategy)
    devices.make_deterministic(settings.seed)
    base = base_file.load(settings.base) if settings.base else None
    data = _Data(manifest, *run_settings.split_cases(settings, manifest))
    loss = run_parts.make_loss(settings, manifest, data.train)
    identity = asdict(settings) | {"data": manifest.fingerprint}
    folder = RunFolder(output_dir, identity, follows)
    names = [case.case_id for case in input_pipeline.annotated_cases(data.train)]
    tell = _tell_nobody if follows else say
    watching = Watching(Progress(tell), names, profile, histograms)
    try:
        if folder.is_done:
            tell(f"{output_dir}: this run is complete")
        else:
            _train(settings, data, base, loss, strategy, folder, watching)
        if follows:
            return Path(output_dir) / "model"
        if report:
            run_report.write(folder.path)
        return artifact.latest(Path(output_dir) / "model")
    finally:
        watching.progress.close()
        folder.close()


def _tell_nobody(line: str) -> None:
    """Takes lines that are for nobody, as of a worker that repeats what another does."""


class _Data(NamedTuple):
    """The records, and which of their cases are for what."""

    manifest: Manifest
    train: Sequence[CaseEntry]
    validation: Sequence[CaseEntry]


def _train(
    settings: RunSettings,
    data: _Data,
    base: Base | None,
    loss: losses.MaskedLoss,
    strategy: tf.distribute.Strategy,
    folder: RunFolder,
    watching: Watching,
) -> None:
    say, manifest = watching.progress.say, data.manifest
    replicas = _checked_replicas(settings, strategy)
    stages = run_settings.make_stages(settings)
    plan = run_settings.optimizer_plan(settings)
    precision = devices.choose_precision(settings.precision)
    with strategy.scope():
        network, origins = run_parts.make_network(settings, manifest, base, precision)
    # Before anything is trained, so that no wrong name ends a run halfway.
    tell = say if base else _tell_nobody
    table = layer_report.say(network, origins, stages, plan.adapter_rank, tell)
    match_rates(network, settings.layer_rates)
    normalisation = run_parts.choose_intensity(settings, manifest, base)
    patches = run_parts.patch_settings(settings, manifest, network, base, normalisation)
    setup = memory_model.Setup(
        patches.image_size, settings.batch_size, precision, settings.gradient_checkpointing
    )
    _say_setup(network, data, setup, replicas, say)
    folder.note(
        command=sys.argv,
        precision=precision,
        replicas=replicas,
        loss=loss.get_config(),
        augmentation=asdict(patches.augmentation),
        layers=[row._asdict() for row in table],
        training_cases=[c.case_id for c in data.train],
        validation_cases=[c.case_id for c in data.validation],
    )
    batches = partial(
        input_pipeline.training_batches, settings.records_dir, manifest, data.train, patches
    )
    save = partial(
        run_model.save, network, settings, manifest, data.train, patches, folder.path / "model"
    )
    try:
        with run_failures.explained(settings, network, setup, replicas, folder):
            state = training.train(
                network,
                batches,
                stages,
                folder,
                strategy,
                loss,
                plan,
                settings.steps_per_epoch or max(1, settings.steps // 20),
                _validation(settings, data, network, patches, folder),
                manifest.structures,
                settings.deep_supervision,
                watching,
                settings.gradient_checkpointing,
            )
    except Diverged:
        say(f"model before it went wrong: {save({})}")
        run_report.write(folder.path)
        raise
    metrics = _metrics(state, say)
    model = save(metrics)
    folder.note(done=True, **metrics)
    say(f"model: {model}")


def _checked_replicas(settings: RunSettings, strategy: tf.distribute.Strategy) -> int:
    """How many devices share a batch; an `InputError` unless they can share it evenly."""
    replicas = strategy.num_replicas_in_sync
    if settings.batch_size % replicas:
        raise InputError(
            f"expected --batch_size to be a multiple of the {replicas} devices, "
            f"found {settings.batch_size}"
        )
    return replicas


def _metrics(state: TrainingState, say: Callable[[str], None]) -> dict[str, float]:
    """What the model's artifact and run.json say of it."""
    metrics: dict[str, float] = {"best_step": state.best_step or state.step}
    if state.best_step:
        metrics["validation_dice"] = round(state.best_dice, 4)
        say(f"best validation Dice {state.best_dice:.4f} at step {state.best_step}")
    return metrics


def _say_setup(
    network: UNet3D,
    data: _Data,
    setup: memory_model.Setup,
    replicas: int,
    say: Callable[[str], None],
) -> None:
    """Tells what is trained on what, and whether it may need more memory than is free."""
    say(
        f"{len(data.train)} training and {len(data.validation)} validation cases, "
        f"{network.count_params():,} parameters, {setup.precision}, "
        f"{replicas} device(s), patches of {setup.patch_size}"
    )
    doubts = memory_model.doubts(network.get_config(), setup, memory.free_memory(), replicas)
    if doubts and not tf.config.list_physical_devices("GPU"):
        say(f"warning: {doubts}")


def _validation(
    settings: RunSettings,
    data: _Data,
    network: UNet3D,
    patches: PatchSettings,
    folder: RunFolder,
) -> Callable[[], Sequence[float | None]] | None:
    """Gives the Dice of each structure; None without validation cases."""
    if not data.validation:
        return None
    segmenter = Segmenter(network, patches.intensity, patch_size=patches.image_size)
    return partial(
        validation.validate,
        segmenter,
        settings.records_dir,
        data.manifest,
        data.validation,
        folder,
    )
