"""The flags that `train_base` and `transfer` share, and the settings they make."""

from functools import partial
from typing import Any

from absl import flags

from tl3d_keras.errors import InputError


def define(command_flags: flags.FlagValues) -> None:
    """Defines the shared flags."""
    string, integer, enum, numbers, real = (
        partial(define, flag_values=command_flags)
        for define in (
            flags.DEFINE_string,
            flags.DEFINE_integer,
            flags.DEFINE_enum,
            flags.DEFINE_list,
            flags.DEFINE_float,
        )
    )
    string("records_dir", None, "Folder that data_tools.shard has written.", required=True)
    string("output_dir", None, "Folder of the run; an interrupted run goes on.", required=True)
    integer("filters", 32, "Filters of the first convolution.", lower_bound=1)
    integer("levels", 4, "Resolutions of the network.", lower_bound=1)
    enum("padding", "valid", ["valid", "same"], "Padding of convolutions.")
    enum("normalization", "none", ["none", "group", "instance"], "Normalization layers.")
    numbers(
        "patch_size",
        None,
        "z,y,x voxels, or one number; default: the base's, 132 (valid) or the records' proposal.",
    )
    integer("batch_size", 2, "Patches a step.", lower_bound=1)
    integer("steps", 2000, "Training steps.", lower_bound=1)
    real("learning_rate", 1e-3, "The highest, after the warm-up.", lower_bound=0)
    enum(
        "loss",
        "cross_entropy_dice",
        [
            "cross_entropy",
            "dice",
            "case_dice",
            "cross_entropy_dice",
            "focal",
            "focal_dice",
            "tversky",
        ],
        "Masked loss; dice is that of the batch, case_dice the mean over its cases.",
    )
    numbers(
        "loss_options",
        [],
        "What the loss takes: gamma=2,alpha=0.25 (focal) or alpha=0.3,beta=0.7 (tversky: the "
        "weights of voxels predicted wrongly, and missed).",
    )
    enum(
        "class_weights",
        "none",
        ["none", "balanced"],
        "balanced: cross-entropy and focal loss weigh voxels by how rare their label is among the "
        "annotated.",
    )
    flags.DEFINE_bool(
        "deep_supervision",
        False,
        "Train heads on the coarser levels too; they are no part of the model.",
        flag_values=command_flags,
    )
    string(
        "optimizer",
        "adam",
        "adam, adamw, sgd_nesterov or any name registered with Keras; Addons>LAMB and the like on "
        "the addons stack.",
    )
    enum("schedule", "cosine", ["cosine", "polynomial", "constant"], "Of the learning rate.")
    integer("warmup_steps", 0, "Linear rise at the start of every stage.", lower_bound=0)
    real("weight_decay", None, "Default: the optimizer's own.", lower_bound=0)
    real("clip_norm", 0.0, "Largest norm of the batch's gradient; 0: any.", lower_bound=0)
    real(
        "ema",
        0.0,
        "Decay, such as 0.999, of a moving average of the weights, which is then validated and "
        "saved; 0: none.",
        lower_bound=0,
        upper_bound=1,
    )
    numbers(
        "layer_rates",
        [],
        "What the learning rate is multiplied with by layer name pattern, such as "
        "encoder_*=0.1,head=2; of several that match, the last counts.",
    )
    flags.DEFINE_bool(
        "gradient_checkpointing",
        False,
        "Compute activations twice rather than keep them: the same weights in half the memory for "
        "a third more time (valid padding, no normalization); others save at most a fifth.",
        flag_values=command_flags,
    )
    enum(
        "precision",
        "auto",
        ["auto", "float32", "mixed_bfloat16", "mixed_float16"],
        "auto: the fastest that the GPU or processor computes in.",
    )
    enum(
        "strategy",
        "auto",
        ["auto", "mirrored", "one", "workers"],
        "auto: all GPUs, else one device; workers: see docs/cluster.md.",
    )
    integer("num_train", None, "Use the first cases of the records only.", lower_bound=1)
    integer(
        "num_validation",
        None,
        "Of these, keep the last for validation; default a tenth, at most 10.",
        lower_bound=0,
    )
    numbers(
        "validation_cases",
        [],
        "Names of the cases to validate on, or how many as --num_validation; none of the named "
        "counts for --num_train.",
    )
    numbers(
        "window",
        None,
        "low,high raw intensities; default: the proposal of the records.",
    )
    enum(
        "augmentation",
        "light",
        ["none", "light", "full", "any_contrast"],
        "light: contrast, brightness, noise; full: also rotation, scaling, elastic deformation, "
        "gamma, blur, low resolution, each now and then; any_contrast: full, larger scaling and "
        "random contrasts, for bases that are to serve other modalities.",
    )
    numbers(
        "flip_axes",
        [],
        "Axes of z,y,x to flip at random; with x, left and right structures change names.",
    )
    integer(
        "steps_per_epoch",
        None,
        "Steps between validations and checkpoints; default a twentieth.",
        lower_bound=1,
    )
    integer("seed", 0, "Of weights, patches and augmentation.", lower_bound=0)
    numbers("profile", None, "First,last step to record for TensorBoard's profile plugin.")
    flags.DEFINE_bool(
        "histograms",
        False,
        "Log the weights' histograms for TensorBoard.",
        flag_values=command_flags,
    )


def settings(command_flags: flags.FlagValues) -> dict[str, Any]:
    """The keyword arguments of `run_settings.RunSettings`."""
    values = command_flags.flag_values_dict()
    shared = (
        "records_dir",
        "filters",
        "levels",
        "padding",
        "batch_size",
        "steps",
        "learning_rate",
        "loss",
        "class_weights",
        "deep_supervision",
        "gradient_checkpointing",
        "optimizer",
        "schedule",
        "warmup_steps",
        "weight_decay",
        "clip_norm",
        "ema",
        "precision",
        "strategy",
        "num_train",
        "num_validation",
        "augmentation",
        "steps_per_epoch",
        "seed",
    )
    return {name: values[name] for name in shared} | {
        "normalization": None if values["normalization"] == "none" else values["normalization"],
        "patch_size": _patch_size(values["patch_size"]),
        "loss_options": _options(values["loss_options"]),
        "validation_cases": tuple(values["validation_cases"]),
        "window": _numbers("window", values["window"], float, 2),
        "flip_axes": _axes(values["flip_axes"]),
        "layer_rates": tuple(_layer_rate(text) for text in values["layer_rates"]),
    }


def watching(command_flags: flags.FlagValues) -> dict[str, Any]:
    """The keyword arguments of `training_run.run` that change nothing in what is trained."""
    return {
        "profile": _numbers("profile", command_flags["profile"].value, int, 2),
        "histograms": command_flags["histograms"].value,
    }


def _layer_rate(text: str) -> tuple[str, float]:
    pattern, _, number = text.rpartition("=")
    try:
        rate = float(number)
    except ValueError:
        pattern = ""
    if not pattern:
        raise InputError(
            f"--layer_rates: expected a layer pattern and a number such as head=2, found {text!r}"
        )
    return pattern, rate


def _patch_size(values: list[str] | None) -> tuple[int, ...] | None:
    if values and len(values) == 1:
        values = values * 3
    size = _numbers("patch_size", values, int, 3)
    if size and min(size) < 1:
        raise InputError(f"--patch_size: expected positive voxels, found {','.join(values or ())}")
    return size


def _numbers(flag: str, values: list[str] | None, kind: Any, count: int) -> tuple | None:
    if values is None:
        return None
    try:
        numbers = tuple(kind(v) for v in values)
    except ValueError:
        numbers = ()
    if len(numbers) != count:
        raise InputError(f"--{flag}: expected {count} numbers, found {','.join(values)}")
    return numbers


def _options(pairs: list[str]) -> dict[str, float]:
    options = {}
    for pair in pairs:
        name, _, number = pair.partition("=")
        try:
            options[name] = float(number)
        except ValueError as error:
            raise InputError(f"--loss_options: expected NAME=NUMBER, found {pair!r}") from error
    return options


def _axes(names: list[str]) -> tuple[int, ...]:
    unknown = [name for name in names if name not in ("z", "y", "x")]
    if unknown:
        raise InputError(f"--flip_axes: expected axes of z,y,x, found {unknown[0]!r}")
    return tuple(sorted({"zyx".index(name) for name in names}))
