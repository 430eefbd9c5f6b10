"""What a training run is made of: its settings, checked, and its cases and stages."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tl3d_keras import augmentation, mirrors, optimizers, stages, transfer
from tl3d_keras.errors import InputError
from tl3d_keras.manifest import CaseEntry, Manifest
from tl3d_keras.stages import Stage

_AUTO_VALIDATION_SHARE = 10
_MAX_AUTO_VALIDATION = 10
_HEAD_STEPS_SHARE = 4
_TRUNK = ("encoder", "decoder")
CLASS_WEIGHTS = ("none", "balanced")


@dataclass(frozen=True)
class RunSettings:
    """What a run is made of; two runs with equal settings on equal data are the same run.

    Attributes:
        records_dir: folder of the shards.
        mode: "scratch", "transfer" (all weights from the start) or "finetune" (the frozen layers
            join after `head_steps`, at `fine_rate` times the rate) or "adapter" (all weights, but
            of 3x3x3 kernels only low-rank updates, see `adapters`).
        base: what to start from, see `base_file.load`; its architecture also serves scratch.
        architecture: `filters`, `levels`, `padding`, `normalization` where they are not the base's
            or, without one, those below.
        head: see `transfer.transfer_model`.
        input_channels_by: one of `weight_surgery.CHANNELS_BY`.
        freeze: layers by name, see `layers_by_name.matching`; finetune freezes the whole trunk if
            there are none.
        head_steps: steps of finetune's first stage; None: a quarter of all.
        fine_rate: what the learning rate is multiplied with in finetune's second stage.
        stages: in place of those of the mode, see `stages.parse`.
        adapter_rank: of the mode "adapter".
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
        gradient_checkpointing: whether activations are computed twice, for less memory.
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
    architecture: Mapping[str, Any] = field(default_factory=dict)
    head: str = "by_name"
    input_channels_by: str = "mean"
    freeze: tuple[str, ...] = ()
    head_steps: int | None = None
    fine_rate: float = 0.1
    stages: tuple[str, ...] = ()
    adapter_rank: int = 4
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
    gradient_checkpointing: bool = False
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
    """The stages that are asked for, or those of the mode.

    Raises:
        InputError: see `stages.parse`.
    """
    if settings.stages:
        return stages.parse(settings.stages, settings.steps, settings.learning_rate)
    if settings.mode != "finetune":
        return [Stage(settings.mode, settings.steps, settings.learning_rate, settings.freeze)]
    head_steps = settings.head_steps
    if head_steps is None:
        head_steps = settings.steps // _HEAD_STEPS_SHARE
    both = [
        Stage("head", head_steps, settings.learning_rate, settings.freeze or _TRUNK),
        Stage("all", settings.steps - head_steps, settings.learning_rate * settings.fine_rate),
    ]
    return [stage for stage in both if stage.steps]


def check(settings: RunSettings, manifest: Manifest) -> None:
    """Raises an `InputError` for settings that do not fit each other or the records."""
    if settings.mode not in transfer.MODES:
        raise InputError(f"expected a mode of {', '.join(transfer.MODES)}, found {settings.mode!r}")
    if settings.mode != "scratch" and not settings.base:
        raise InputError(f"--mode={settings.mode}: expected --base, a model folder, found none")
    transfer.check_architecture(settings.architecture)
    _check_numbers(settings)
    _check_stages(settings)
    if settings.class_weights not in CLASS_WEIGHTS:
        raise InputError(
            f"expected class weights of {', '.join(CLASS_WEIGHTS)}, "
            f"found {settings.class_weights!r}"
        )
    optimizers.check(optimizer_plan(settings), [s.steps for s in make_stages(settings)])
    augmentation.preset(settings.augmentation, manifest.spacing)
    if 2 in settings.flip_axes:
        mirrors.mirrored_labels(manifest.structures)


def _check_numbers(settings: RunSettings) -> None:
    for name, value in (("steps", settings.steps), ("batch_size", settings.batch_size)):
        if value < 1:
            raise InputError(f"--{name}: expected 1 or more, found {value}")
    if not 0 <= settings.learning_rate < float("inf"):
        raise InputError(f"--learning_rate: expected 0 or more, found {settings.learning_rate}")
    # NumPy takes no larger ones.
    if not 0 <= settings.seed < 2**32:
        raise InputError(f"--seed: expected 0 to {2**32 - 1}, found {settings.seed}")


def _check_stages(settings: RunSettings) -> None:
    for flag, layers in (("freeze", settings.freeze), ("stages", settings.stages)):
        if settings.mode == "scratch" and layers:
            raise InputError(
                f"--{flag}: expected no layers with --mode=scratch, whose weights are random, "
                f"found {','.join(layers)}"
            )
    if settings.stages and (settings.freeze or settings.head_steps is not None):
        raise InputError(
            "expected --stages, which names what is trained, or --freeze and --head_steps, "
            "found both"
        )
    if settings.head_steps is not None and not 0 <= settings.head_steps <= settings.steps:
        raise InputError(
            f"--head_steps: expected 0 to {settings.steps}, found {settings.head_steps}"
        )
    if settings.adapter_rank < 1:
        raise InputError(f"--adapter_rank: expected 1 or more, found {settings.adapter_rank}")
    if not 0 < settings.fine_rate < float("inf"):
        raise InputError(f"--fine_rate: expected more than 0, found {settings.fine_rate}")


def optimizer_plan(settings: RunSettings) -> optimizers.OptimizerPlan:
    """How weights follow from gradients."""
    return optimizers.OptimizerPlan(
        settings.optimizer,
        settings.schedule,
        settings.warmup_steps,
        settings.weight_decay,
        settings.clip_norm,
        settings.ema,
        settings.layer_rates,
        settings.adapter_rank if settings.mode == "adapter" else 0,
    )
