"""The flags that `train_base` and `transfer` share, and the settings they make."""

from typing import Any

from absl import flags

from tl3d_keras.errors import InputError

_RECORDS_DIR = flags.DEFINE_string(
    "records_dir", None, "Folder that data_tools.shard has written.", required=True
)
OUTPUT_DIR = flags.DEFINE_string(
    "output_dir", None, "Folder of the run; an interrupted run goes on.", required=True
)
_FILTERS = flags.DEFINE_integer("filters", 32, "Filters of the first convolution.", lower_bound=1)
_LEVELS = flags.DEFINE_integer("levels", 4, "Resolutions of the network.", lower_bound=1)
_PADDING = flags.DEFINE_enum("padding", "valid", ["valid", "same"], "Padding of convolutions.")
_NORMALIZATION = flags.DEFINE_enum(
    "normalization", "none", ["none", "group", "instance"], "Normalization layers."
)
_PATCH_SIZE = flags.DEFINE_list(
    "patch_size", None, "z,y,x voxels, or one number; default 132 (valid), 64 (same) or the base's."
)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 2, "Patches a step.", lower_bound=1)
_STEPS = flags.DEFINE_integer("steps", 2000, "Training steps.", lower_bound=1)
_LEARNING_RATE = flags.DEFINE_float("learning_rate", 1e-3, "At the start; falls along a cosine.",
                                    lower_bound=0)
_LOSS = flags.DEFINE_enum("loss", "cross_entropy_dice",
                          ["cross_entropy", "dice", "cross_entropy_dice"], "Masked loss.")
_OPTIMIZER = flags.DEFINE_string("optimizer", "adam", "Any optimizer registered with Keras.")
_PRECISION = flags.DEFINE_enum(
    "precision", "auto", ["auto", "float32", "mixed_bfloat16", "mixed_float16"],
    "auto: the fastest that the GPU or processor computes in."
)
_STRATEGY = flags.DEFINE_enum(
    "strategy", "auto", ["auto", "mirrored", "one"], "auto: all GPUs, else one device."
)
_NUM_TRAIN = flags.DEFINE_integer(
    "num_train", None, "Use the first cases of the records only.", lower_bound=1
)
_NUM_VALIDATION = flags.DEFINE_integer(
    "num_validation", None, "Of these, keep the last for validation; default a tenth.",
    lower_bound=0,
)
_WINDOW = flags.DEFINE_list(
    "window", None, "low,high raw intensities; default by modality: see the artifact's JSON."
)
_FLIP_AXES = flags.DEFINE_list(
    "flip_axes", [], "Axes of z,y,x to flip at random; not x where structures are left or right."
)
_STEPS_PER_EPOCH = flags.DEFINE_integer(
    "steps_per_epoch", None, "Steps between validations and checkpoints; default a twentieth.",
    lower_bound=1,
)
_SEED = flags.DEFINE_integer("seed", 0, "Of weights, patches and augmentation.", lower_bound=0)


def settings(**others: Any) -> dict[str, Any]:
    """The keyword arguments of `training_run.RunSettings` from these flags and `others`."""
    return {
        "records_dir": _RECORDS_DIR.value,
        "filters": _FILTERS.value,
        "levels": _LEVELS.value,
        "padding": _PADDING.value,
        "normalization": None if _NORMALIZATION.value == "none" else _NORMALIZATION.value,
        "patch_size": _patch_size(_PATCH_SIZE.value),
        "batch_size": _BATCH_SIZE.value,
        "steps": _STEPS.value,
        "learning_rate": _LEARNING_RATE.value,
        "loss": _LOSS.value,
        "optimizer": _OPTIMIZER.value,
        "precision": _PRECISION.value,
        "strategy": _STRATEGY.value,
        "num_train": _NUM_TRAIN.value,
        "num_validation": _NUM_VALIDATION.value,
        "window": _numbers("window", _WINDOW.value, float, 2),
        "flip_axes": _axes(_FLIP_AXES.value),
        "steps_per_epoch": _STEPS_PER_EPOCH.value,
        "seed": _SEED.value,
        **others,
    }


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


def _axes(names: list[str]) -> tuple[int, ...]:
    unknown = [name for name in names if name not in ("z", "y", "x")]
    if unknown:
        raise InputError(f"--flip_axes: expected axes of z,y,x, found {unknown[0]!r}")
    return tuple(sorted({"zyx".index(name) for name in names}))
