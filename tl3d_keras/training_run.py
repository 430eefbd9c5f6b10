"""A whole training run: records in; checkpoints, logs and the model's artifact out."""

import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tl3d_keras import (
    __version__,
    artifact,
    augmentation,
    class_weights,
    devices,
    input_pipeline,
    losses,
    memory,
    memory_model,
    mirrors,
    optimizers,
    paper,
    run_report,
    stored_case,
    training,
    transfer,
    validation_pictures,
)
from tl3d_keras import manifest as manifest_module
from tl3d_keras.artifact import Artifact, ModelInfo
from tl3d_keras.callbacks import Progress, Watching
from tl3d_keras.errors import InputError, WorkerLost
from tl3d_keras.guards import Diverged
from tl3d_keras.inference import Segmenter
from tl3d_keras.intensity import Intensity
from tl3d_keras.manifest import CaseEntry, Manifest
from tl3d_keras.metrics import DiceSums
from tl3d_keras.run_folder import RunFolder
from tl3d_keras.training import Stage
from tl3d_keras.unet3d import Geometry, UNet3D

_AUTO_VALIDATION_SHARE = 10
_MAX_AUTO_VALIDATION = 10
_HEAD_STEPS_SHARE = 4
_FINE_RATE = 0.1
_LOST_WORKER = (
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.FailedPreconditionError,
    tf.errors.InternalError,
    tf.errors.UnavailableError,
)
_TRUNK = ("encoder_*", "decoder_*")
CLASS_WEIGHTS = ("none", "balanced")


@dataclass(frozen=True)
class RunSettings:
    """What a run is made of; two runs with equal settings on equal data are the same run.

    Attributes:
        records_dir: folder of the shards.
        mode: "scratch", "transfer" (all weights from the start) or "finetune" (the frozen layers
            join after `head_steps`, at a tenth of the rate).
        base: artifact to start from; its architecture also serves scratch.
        head: see `transfer.transfer_model`.
        freeze: layer patterns; finetune freezes the whole trunk if there are none.
        head_steps: steps of finetune's first stage; None: a quarter of all.
        filters: of a network without base.
        levels: likewise.
        padding: likewise.
        normalization: likewise.
        patch_size: (Z, Y, X) of the image patches; None: the base's, or the paper's for valid
            padding and the manifest's proposal for same.
        batch_size: patches a step, over all devices.
        steps: of the whole run.
        learning_rate: the highest of the first stage.
        loss: a key of `losses.LOSSES`.
        loss_options: numbers that the loss takes by name.
        class_weights: one of `CLASS_WEIGHTS`, for the losses that take them.
        deep_supervision: whether coarser levels are trained on too, see `deep_supervision`.
        optimizer: its name; see `optimizers.OptimizerPlan` for this and the next six.
        schedule: of the learning rate.
        warmup_steps: at the start of every stage.
        weight_decay: None: the optimizer's default.
        clip_norm: of the gradient; 0: none.
        ema: decay of the moving average of the weights; 0: none.
        layer_rates: multipliers of the learning rate by layer pattern.
        precision: one of `devices.PRECISIONS`.
        strategy: one of `devices.STRATEGIES`.
        num_train: use the first cases of the records only; None: all.
        num_validation: of these, the last are kept for validation; None: a tenth, at most 10.
        validation_cases: names of the cases kept for validation; the others are then the records
            of which `num_train` uses the first. In place of `num_validation`, or that number alone.
        window: low and high in raw units; None: the manifest's proposal.
        augmentation: one of `augmentation.PRESETS`.
        flip_axes: axes 0, 1, 2 (z, y, x) that augmentation may flip.
        steps_per_epoch: steps between validations and checkpoints; None: a twentieth of all.
        seed: of weights, patches and augmentation.
    """

    records_dir: str
    mode: str = "scratch"
    base: str | None = None
    head: str = "by_name"
    freeze: tuple[str, ...] = ()
    head_steps: int | None = None
    filters: int = 32
    levels: int = 4
    padding: str = "valid"
    normalization: str | None = None
    patch_size: tuple[int, int, int] | None = None
    batch_size: int = 2
    steps: int = 2000
    learning_rate: float = 1e-3
    loss: str = "cross_entropy_dice"
    loss_options: Mapping[str, float] = field(default_factory=dict)
    class_weights: str = "none"
    deep_supervision: bool = False
    optimizer: str = "adam"
    schedule: str = "cosine"
    warmup_steps: int = 0
    weight_decay: float | None = None
    clip_norm: float = 0.0
    ema: float = 0.0
    layer_rates: tuple[tuple[str, float], ...] = ()
    precision: str = "auto"
    strategy: str = "auto"
    num_train: int | None = None
    num_validation: int | None = None
    validation_cases: tuple[str, ...] = ()
    window: tuple[float, float] | None = None
    augmentation: str = "light"
    flip_axes: tuple[int, ...] = ()
    steps_per_epoch: int | None = None
    seed: int = 0


def run(
    settings: RunSettings,
    output_dir: str | Path,
    say: Callable[[str], None] = lambda _: None,
    profile: tuple[int, int] | None = None,
    histograms: bool = False,
) -> Path:
    """Trains, or goes on with, the run in `output_dir`.

    Args:
        settings: of the run.
        output_dir: gets `model/`, `checkpoints/`, `logs/`, `metrics.csv`, `run.json` and
            `report.html`.
        say: is given lines for the user.
        profile: see `callbacks.Watching`.
        histograms: likewise.

    Returns:
        The folder of the model's version.

    Raises:
        InputError: settings, records or base that do not fit together; or a run that cannot go on,
            whose best model is then in `model/`.
    """
    manifest = manifest_module.load(settings.records_dir)
    _check(settings, manifest)
    if profile and not 1 <= profile[0] <= profile[1] <= settings.steps:
        raise InputError(
            f"--profile: expected two steps of 1 to {settings.steps}, the first not after the "
            f"last, found {profile[0]},{profile[1]}"
        )
    # A cluster's workers must find each other before anything is computed.
    strategy = devices.choose_strategy(settings.strategy)
    follows = not devices.is_chief(strategy)
    devices.make_deterministic(settings.seed)
    base = artifact.load(settings.base) if settings.base else None
    train_cases, validation_cases = split_cases(settings, manifest)
    loss = _make_loss(settings, manifest, train_cases)
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
        run_report.write(folder.path)
        return artifact.latest(Path(output_dir) / "model")
    finally:
        watching.progress.close()
        folder.close()


def _tell_nobody(line: str) -> None:
    """Takes the lines of a worker that repeats what another does."""


def split_cases(
    settings: RunSettings, manifest: Manifest
) -> tuple[list[CaseEntry], list[CaseEntry]]:
    """The training and the validation cases: the named ones or the last of the first `num_train`.

    Raises:
        InputError: a name that is no case's, or cases that do not suffice.
    """
    cases, names = manifest.cases, list(dict.fromkeys(settings.validation_cases))
    held_out = settings.num_validation
    if names and held_out is not None:
        raise InputError("expected --validation_cases or --num_validation, found both")
    if len(names) == 1 and names[0].isdecimal() and names[0] not in {c.case_id for c in cases}:
        names, held_out = [], int(names[0])
    validation = manifest.select(names)
    cases = [case for case in cases if case.case_id not in names]
    if settings.num_train is not None and not 1 <= settings.num_train <= len(cases):
        raise InputError(
            f"--num_train: expected 1 to {len(cases)} cases, found {settings.num_train}"
        )
    cases = cases[: settings.num_train]
    if names:
        held_out = 0
    elif held_out is None:
        held_out = min(_MAX_AUTO_VALIDATION, len(cases) // _AUTO_VALIDATION_SHARE)
    if held_out >= len(cases):
        raise InputError(
            f"expected fewer validation cases than the {len(cases)} cases, found {held_out}"
        )
    return cases[: len(cases) - held_out], [*validation, *cases[len(cases) - held_out :]]


def make_stages(settings: RunSettings) -> list[Stage]:
    """The stages of a mode."""
    if settings.mode != "finetune":
        return [Stage(settings.mode, settings.steps, settings.learning_rate, settings.freeze)]
    head_steps = settings.head_steps
    if head_steps is None:
        head_steps = settings.steps // _HEAD_STEPS_SHARE
    return [
        Stage("head", head_steps, settings.learning_rate, settings.freeze or _TRUNK),
        Stage("all", settings.steps - head_steps, settings.learning_rate * _FINE_RATE),
    ]


def _train(
    settings: RunSettings,
    manifest: Manifest,
    base: Artifact | None,
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
    stages = make_stages(settings)
    precision = devices.choose_precision(settings.precision)
    with strategy.scope():
        network, origins = _make_network(settings, manifest, base, precision)
        frozen = transfer.freeze(network, stages[0].frozen)
    transfer.match_rates(network, settings.layer_rates)
    table = transfer.layer_table(network, origins, frozen)
    if base:
        _say_table(table, say)
    normalisation = _choose_intensity(settings, manifest, base)
    patches = _patch_settings(settings, manifest, network, base, normalisation)
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
            _triple(manifest.spacing),
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
            _optimizer_plan(settings),
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


def _make_loss(
    settings: RunSettings, manifest: Manifest, train_cases: Sequence[CaseEntry]
) -> losses.MaskedLoss:
    weights = None
    if settings.class_weights == "balanced":
        weights = class_weights.balanced(manifest.structures, train_cases)
    return losses.make(settings.loss, True, settings.loss_options, weights)


def _make_network(
    settings: RunSettings, manifest: Manifest, base: Artifact | None, precision: str
) -> tuple[UNet3D, dict[str, str]]:
    classes, channels = len(manifest.structures) + 1, len(manifest.channels)
    if base and settings.mode != "scratch":
        return transfer.transfer_model(
            base.network, manifest.structures, channels, settings.head, precision
        )
    network = UNet3D(
        **(
            {**base.network.get_config()}
            if base
            else {
                "filters": settings.filters,
                "levels": settings.levels,
                "padding": settings.padding,
                "normalization": settings.normalization,
            }
        )
        | {
            "num_classes": classes,
            "input_channels": channels,
            "structures": manifest.structures,
            "dtype": precision,
        }
    )
    return network, {}


def _choose_intensity(
    settings: RunSettings, manifest: Manifest, base: Artifact | None
) -> Intensity:
    channels = len(manifest.channels)
    if settings.window:
        low, high = settings.window
        return Intensity("window", (low,) * channels, (high,) * channels)
    window = manifest.proposal.window
    proposed = Intensity("zscore")
    if window:
        proposed = Intensity("window", *(tuple(end) for end in zip(*window, strict=True)))
    # Weights that saw one scale of a modality with units go on in that scale.
    keeps_scale = (
        base and proposed.mode == base.info.intensity.mode and len(base.info.channels) == channels
    )
    return base.info.intensity if base and keeps_scale else proposed


def _patch_settings(
    settings: RunSettings,
    manifest: Manifest,
    network: UNet3D,
    base: Artifact | None,
    normalisation: Intensity,
) -> input_pipeline.PatchSettings:
    size = settings.patch_size or (
        base.info.patch_size if base else _default_patch_size(network.geometry, manifest)
    )
    z, y, x = (network.geometry.output_size(n) for n in size)
    return input_pipeline.PatchSettings(
        _triple(size),
        (z, y, x),
        settings.batch_size,
        normalisation,
        augmentation.preset(settings.augmentation, manifest.spacing, settings.flip_axes),
        settings.seed,
    )


def _default_patch_size(geometry: Geometry, manifest: Manifest) -> tuple[int, int, int]:
    if geometry.padding == "valid":
        return paper.PATCH_SIZE
    stride = geometry.stride
    return _triple([-(-n // stride) * stride for n in manifest.proposal.patch_size])


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
        predicted = segmenter.labels(case.image.array.astype(np.float32))
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
        "settings": asdict(settings),
        "tl3d_keras": __version__,
        "tensorflow": tf.__version__,
        "command": " ".join(sys.argv),
    }


def _say_table(table: Sequence[transfer.LayerRow], say: Callable[[str], None]) -> None:
    width = max(len(row.layer) for row in table)
    say(f"{'layer':{width}}  {'parameters':>10}  weights")
    for row in table:
        say(
            f"{row.layer:{width}}  {row.parameters:10,}  {row.origin}"
            f"{', frozen' if row.frozen else ''}"
        )


def _check(settings: RunSettings, manifest: Manifest) -> None:
    if settings.mode not in transfer.MODES:
        raise InputError(f"expected a mode of {', '.join(transfer.MODES)}, found {settings.mode!r}")
    if settings.mode != "scratch" and not settings.base:
        raise InputError(f"--mode={settings.mode}: expected --base, a model folder, found none")
    if settings.mode == "scratch" and settings.freeze:
        raise InputError(
            "--freeze: expected no pattern with --mode=scratch, whose weights are "
            f"random, found {','.join(settings.freeze)}"
        )
    if settings.class_weights not in CLASS_WEIGHTS:
        raise InputError(
            f"expected class weights of {', '.join(CLASS_WEIGHTS)}, "
            f"found {settings.class_weights!r}"
        )
    optimizers.check(_optimizer_plan(settings), [s.steps for s in make_stages(settings)])
    augmentation.preset(settings.augmentation, manifest.spacing)
    if 2 in settings.flip_axes:
        mirrors.mirrored_labels(manifest.structures)
    if settings.head_steps is not None and not 0 <= settings.head_steps <= settings.steps:
        raise InputError(
            f"--head_steps: expected 0 to {settings.steps}, found {settings.head_steps}"
        )


def _optimizer_plan(settings: RunSettings) -> optimizers.OptimizerPlan:
    return optimizers.OptimizerPlan(
        settings.optimizer,
        settings.schedule,
        settings.warmup_steps,
        settings.weight_decay,
        settings.clip_norm,
        settings.ema,
        settings.layer_rates,
    )


def _triple(values: Sequence[Any]) -> tuple[Any, Any, Any]:
    a, b, c = values
    return a, b, c
