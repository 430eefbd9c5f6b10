"""The flags that `train_base` and `transfer` share, and the settings they make."""

from functools import partial
from typing import Any

from absl import flags

from data_tools import flag_values
from tl3d_keras.errors import InputError


class _Kinds:
    """absl's definitions of flags, for the flags of one command."""

    def __init__(self, command_flags: flags.FlagValues) -> None:
        self.string = partial(flags.DEFINE_string, flag_values=command_flags)
        self.integer = partial(flags.DEFINE_integer, flag_values=command_flags)
        self.real = partial(flags.DEFINE_float, flag_values=command_flags)
        self.switch = partial(flags.DEFINE_bool, flag_values=command_flags)
        self.choice = partial(flags.DEFINE_enum, flag_values=command_flags)
        self.several = partial(flags.DEFINE_list, flag_values=command_flags)


def define(command_flags: flags.FlagValues) -> None:
    """Defines the shared flags."""
    of = _Kinds(command_flags)
    of.string("records_dir", None, "Folder that data_tools.shard has written.", required=True)
    of.string("output_dir", None, "Folder of the run; an interrupted run goes on.", required=True)
    _define_network(of)
    _define_loss(of)
    _define_steps(of)
    _define_devices(of)
    _define_data(of)
    _define_watching(of)


def _define_network(of: _Kinds) -> None:
    """The network and its patches."""
    of.integer("filters", 32, "Filters of the first convolution.", lower_bound=1)
    of.integer("levels", 4, "Resolutions of the network.", lower_bound=1)
    of.choice("padding", "valid", ["valid", "same"], "Padding of convolutions.")
    of.choice("normalization", "none", ["none", "group", "instance"], "Normalization layers.")
    of.several(
        "patch_size",
        None,
        "z,y,x voxels, or one number; default: the base's, 132 (valid) or the records' proposal.",
    )
    of.switch(
        "deep_supervision",
        False,
        "Train heads on the coarser levels too; they are no part of the model.",
    )


def _define_loss(of: _Kinds) -> None:
    """What is minimised."""
    of.choice(
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
    of.several(
        "loss_options",
        [],
        "What the loss takes: gamma=2,alpha=0.25 (focal) or alpha=0.3,beta=0.7 (tversky: the "
        "weights of voxels predicted wrongly, and missed).",
    )
    of.choice(
        "class_weights",
        "none",
        ["none", "balanced"],
        "balanced: cross-entropy and focal loss weigh voxels by how rare their label is among the "
        "annotated.",
    )


def _define_steps(of: _Kinds) -> None:
    """How weights follow from gradients."""
    of.integer("batch_size", 2, "Patches a step.", lower_bound=1)
    of.integer("steps", 2000, "Training steps.", lower_bound=1)
    of.real("learning_rate", 1e-3, "The highest, after the warm-up.", lower_bound=0)
    of.string(
        "optimizer",
        "adam",
        "adam, adamw, sgd_nesterov or any name registered with Keras; Addons>LAMB and the like on "
        "the addons stack.",
    )
    of.choice("schedule", "cosine", ["cosine", "polynomial", "constant"], "Of the learning rate.")
    of.integer("warmup_steps", 0, "Linear rise at the start of every stage.", lower_bound=0)
    of.real("weight_decay", None, "Default: the optimizer's own.", lower_bound=0)
    of.real("clip_norm", 0.0, "Largest norm of the batch's gradient; 0: any.", lower_bound=0)
    of.real(
        "ema",
        0.0,
        "Decay, such as 0.999, of a moving average of the weights, which is then validated and "
        "saved; 0: none.",
        lower_bound=0,
        upper_bound=1,
    )
    of.several(
        "layer_rates",
        [],
        "What the learning rate is multiplied with by layer name pattern, such as "
        "encoder_*=0.1,head=2; of several that match, the last counts.",
    )


def _define_devices(of: _Kinds) -> None:
    """What computes, and in which numbers."""
    of.switch(
        "gradient_checkpointing",
        False,
        "Compute activations twice rather than keep them: the same weights in half the memory for "
        "a third more time (valid padding, no normalization); others save at most a fifth.",
    )
    of.choice(
        "precision",
        "auto",
        ["auto", "float32", "mixed_bfloat16", "mixed_float16"],
        "auto: the fastest that the GPU or processor computes in.",
    )
    of.choice(
        "strategy",
        "auto",
        ["auto", "mirrored", "one", "workers"],
        "auto: all GPUs, else one device; workers: see docs/cluster.md.",
    )


def _define_data(of: _Kinds) -> None:
    """Cases, intensities, augmentation."""
    of.integer("num_train", None, "Use the first cases of the records only.", lower_bound=1)
    of.integer(
        "num_validation",
        None,
        "Of these, keep the last for validation; default a tenth, at most 10.",
        lower_bound=0,
    )
    of.several(
        "validation_cases",
        [],
        "Names of the cases to validate on, or how many as --num_validation; none of the named "
        "counts for --num_train.",
    )
    of.several(
        "window",
        None,
        "low,high raw intensities; default: the proposal of the records.",
    )
    of.choice(
        "augmentation",
        "light",
        ["none", "light", "full", "any_contrast"],
        "light: contrast, brightness, noise; full: also rotation, scaling, elastic deformation, "
        "gamma, blur, low resolution, each now and then; any_contrast: full, larger scaling and "
        "random contrasts, for bases that are to serve other modalities.",
    )
    of.several(
        "flip_axes",
        [],
        "Axes of z,y,x to flip at random; with x, left and right structures change names.",
    )
    of.integer("seed", 0, "Of weights, patches and augmentation.", lower_bound=0)


def _define_watching(of: _Kinds) -> None:
    """What is validated, kept and logged."""
    of.integer(
        "steps_per_epoch",
        None,
        "Steps between validations and checkpoints; default a twentieth.",
        lower_bound=1,
    )
    of.several("profile", None, "First,last step to record for TensorBoard's profile plugin.")
    of.switch(
        "histograms",
        False,
        "Log the weights' histograms for TensorBoard.",
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
        "loss_options": flag_values.options("loss_options", values["loss_options"]),
        "validation_cases": tuple(values["validation_cases"]),
        "window": flag_values.numbers("window", values["window"], float, 2),
        "flip_axes": flag_values.axes("flip_axes", values["flip_axes"]),
        "layer_rates": flag_values.rates("layer_rates", values["layer_rates"]),
    }


def watching(command_flags: flags.FlagValues) -> dict[str, Any]:
    """The keyword arguments of `training_run.run` that change nothing in what is trained."""
    return {
        "profile": flag_values.numbers("profile", command_flags["profile"].value, int, 2),
        "histograms": command_flags["histograms"].value,
    }


def _patch_size(values: list[str] | None) -> tuple[int, ...] | None:
    if values and len(values) == 1:
        values = values * 3
    size = flag_values.numbers("patch_size", values, int, 3)
    if size and min(size) < 1:
        raise InputError(f"--patch_size: expected positive voxels, found {','.join(values or ())}")
    return size
