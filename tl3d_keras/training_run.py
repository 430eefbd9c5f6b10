"""A whole training run: records in; checkpoints, logs and the model's artifact out."""

import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tl3d_keras import (
    __version__,
    artifact,
    base_file,
    devices,
    input_pipeline,
    losses,
    memory,
    memory_model,
    run_parts,
    run_report,
    run_settings,
    scan_check,
    stored_case,
    training,
    transfer,
    validation_pictures,
    volume_ranges,
    weight_surgery,
)
from tl3d_keras import manifest as manifest_module
from tl3d_keras.adapters import trained_parameters
from tl3d_keras.artifact import ModelInfo
from tl3d_keras.base_file import Base
from tl3d_keras.callbacks import Progress, Watching
from tl3d_keras.errors import InputError, WorkerLost
from tl3d_keras.guards import Diverged
from tl3d_keras.inference import Segmenter
from tl3d_keras.layers_by_name import match_rates
from tl3d_keras.lazy_image import ArrayImage
from tl3d_keras.manifest import CaseEntry, Manifest
from tl3d_keras.metrics import DiceSums
from tl3d_keras.run_folder import RunFolder
from tl3d_keras.run_settings import RunSettings
from tl3d_keras.stages import Stage, frozen_layers
from tl3d_keras.unet3d import UNet3D

_LOST_WORKER = (
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.FailedPreconditionError,
    tf.errors.InternalError,
    tf.errors.UnavailableError,
)


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
    train_cases, validation_cases = run_settings.split_cases(settings, manifest)
    loss = run_parts.make_loss(settings, manifest, train_cases)
    identity = asdict(settings) | {"data": manifest.fingerprint}
    folder = RunFolder(output_dir, identity, follows)
    names = [case.case_id for case in input_pipeline.annotated_cases(train_cases)]
    tell = _tell_nobody if follows else say
    watching = Watching(Progress(tell), names, profile, histograms)
    try:
        if folder.is_done:
            tell(f"{output_dir}: this run is complete")
        else:
            _train(
                settings,
                manifest,
                base,
                train_cases,
                validation_cases,
                loss,
                strategy,
                folder,
                watching,
            )
        if follows:
            return Path(output_dir) / "model"
        if report:
            run_report.write(folder.path)
        return artifact.latest(Path(output_dir) / "model")
    finally:
        watching.progress.close()
        folder.close()


def _tell_nobody(line: str) -> None:
    """Takes the lines of a worker that repeats what another does."""


def _train(
    settings: RunSettings,
    manifest: Manifest,
    base: Base | None,
    train_cases: Sequence[CaseEntry],
    validation_cases: Sequence[CaseEntry],
    loss: losses.MaskedLoss,
    strategy: tf.distribute.Strategy,
    folder: RunFolder,
    watching: Watching,
) -> None:
    say = watching.progress.say
    if settings.batch_size % strategy.num_replicas_in_sync:
        raise InputError(
            f"expected --batch_size to be a multiple of the "
            f"{strategy.num_replicas_in_sync} devices, found {settings.batch_size}"
        )
    stages = run_settings.make_stages(settings)
    plan = run_settings.optimizer_plan(settings)
    precision = devices.choose_precision(settings.precision)
    with strategy.scope():
        network, origins = run_parts.make_network(settings, manifest, base, precision)
    # Before anything is trained, so that no wrong name ends a run halfway.
    frozen = [frozen_layers(network, stage) for stage in stages]
    match_rates(network, settings.layer_rates)
    table = transfer.layer_table(network, origins, frozen[0])
    if base:
        trained = [_trained(network, names, plan.adapter_rank) for names in frozen]
        _say_table(table, list(zip(stages, trained, strict=True)), say)
        unused = weight_surgery.unused_layers(origins)
        if unused:
            say(f"not taken from the base: {', '.join(unused)}")
    normalisation = run_parts.choose_intensity(settings, manifest, base)
    patches = run_parts.patch_settings(settings, manifest, network, base, normalisation)
    say(
        f"{len(train_cases)} training and {len(validation_cases)} validation cases, "
        f"{network.count_params():,} parameters, {precision}, "
        f"{strategy.num_replicas_in_sync} device(s), patches of {patches.image_size}"
    )
    setup = memory_model.Setup(patches.image_size, settings.batch_size, precision)
    doubts = memory_model.doubts(
        network.get_config(), setup, memory.free_memory(), strategy.num_replicas_in_sync
    )
    if doubts and not tf.config.list_physical_devices("GPU"):
        say(f"warning: {doubts}")
    folder.note(
        command=sys.argv,
        precision=precision,
        replicas=strategy.num_replicas_in_sync,
        loss=loss.get_config(),
        augmentation=asdict(patches.augmentation),
        layers=[row._asdict() for row in table],
        training_cases=[c.case_id for c in train_cases],
        validation_cases=[c.case_id for c in validation_cases],
    )
    validate = None
    if validation_cases:
        validate = partial(
            _validate,
            Segmenter(network, normalisation, patch_size=patches.image_size),
            settings.records_dir,
            manifest,
            validation_cases,
            folder,
        )

    def save(metrics: dict[str, float]) -> Path:
        info = ModelInfo(
            tuple(manifest.structures),
            tuple(manifest.channels),
            run_parts.triple(manifest.spacing),
            normalisation,
            patches.image_size,
            _provenance(settings, manifest, train_cases),
            metrics,
        )
        # A run that was killed between saving and saying so has its model already.
        shutil.rmtree(folder.path / "model", ignore_errors=True)
        return artifact.save(network, info, folder.path / "model")

    try:
        state = training.train(
            network,
            partial(
                input_pipeline.training_batches,
                settings.records_dir,
                manifest,
                train_cases,
                patches,
            ),
            stages,
            folder,
            strategy,
            loss,
            plan,
            settings.steps_per_epoch or max(1, settings.steps // 20),
            validate,
            manifest.structures,
            settings.deep_supervision,
            watching,
        )
    except Diverged:
        say(f"model before it went wrong: {save({})}")
        run_report.write(folder.path)
        raise
    except _LOST_WORKER as error:
        if settings.strategy != "workers":
            raise
        raise WorkerLost(
            f"{folder.path}: another worker was lost; start all of them again, and the run goes on "
            "from its last checkpoint"
        ) from error
    except (MemoryError, tf.errors.ResourceExhaustedError) as error:
        raise InputError(
            memory_model.out_of_memory(
                network.get_config(), setup, memory.free_memory(), strategy.num_replicas_in_sync
            )
        ) from error
    metrics: dict[str, float] = {"best_step": state.best_step or state.step}
    if state.best_step:
        metrics["validation_dice"] = round(state.best_dice, 4)
        say(f"best validation Dice {state.best_dice:.4f} at step {state.best_step}")
    model = save(metrics)
    folder.note(done=True, **metrics)
    say(f"model: {model}")


def _validate(
    segmenter: Segmenter,
    records_dir: str,
    manifest: Manifest,
    cases: Sequence[CaseEntry],
    folder: RunFolder,
) -> list[float | None]:
    sums = DiceSums(len(manifest.structures))
    for number, entry in enumerate(cases):
        case = stored_case.read(records_dir, manifest, entry)
        image = case.image.array.astype(np.float32)
        predicted = segmenter.labels(ArrayImage(image, entry.intensity))
        sums.add(case.labels, predicted, case.annotated)
        if number < validation_pictures.MOST_PICTURES:
            picture = validation_pictures.draw(case, predicted, manifest)
            folder.add_picture(case.case_id, picture)
    return sums.dice()


def _provenance(
    settings: RunSettings, manifest: Manifest, train_cases: Sequence[CaseEntry]
) -> dict[str, Any]:
    voxels = sum(case.shape[0] * case.shape[1] * case.shape[2] for case in train_cases)
    annotated = sum(case.coverage["annotated"]["voxels"] for case in train_cases)
    return {
        "data": manifest.fingerprint,
        "training_cases": len(train_cases),
        "annotated_fraction": round(annotated / voxels, 4),
        volume_ranges.PROVENANCE_KEY: volume_ranges.measure(
            manifest.structures, train_cases, manifest.spacing
        ),
        scan_check.LOWEST_KEY: scan_check.lowest_intensities(train_cases),
        "settings": asdict(settings),
        "tl3d_keras": __version__,
        "tensorflow": tf.__version__,
        "command": run_report.command_line(sys.argv),
    }


def _say_table(
    table: Sequence[transfer.LayerRow],
    stages: Sequence[tuple[Stage, Mapping[str, int]]],
    say: Callable[[str], None],
) -> None:
    """The layers, of which the first stage trains some, and what each stage trains."""
    width = max(len(row.layer) for row in table)
    _, trained = stages[0]
    say(f"{'layer':{width}}  {'parameters':>10}  {'trained':>10}  weights")
    for row in table:
        say(
            f"{row.layer:{width}}  {row.parameters:10,}  {trained[row.layer]:10,}  {row.origin}"
            f"{', frozen' if row.frozen else ''}"
        )
    parameters = sum(row.parameters for row in table)
    for stage, trained in stages:
        say(
            f"stage {stage.name}: {stage.steps} steps at {stage.learning_rate:.3g}, trains "
            f"{sum(trained.values()):,} parameters, the network has {parameters:,}"
        )


def _trained(network: UNet3D, frozen: Sequence[str], rank: int) -> dict[str, int]:
    """How many numbers a stage trains, by layer."""
    return {
        layer.name: 0 if layer.name in frozen else trained_parameters(layer, rank)
        for layer in network.layers
    }
