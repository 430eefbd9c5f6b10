"""Starts a new task from a base model.

    python -m experiments.transfer --base=BASE/model --mode=finetune --records_dir=RECORDS \\
        --output_dir=RUN --steps=1000

`scratch` draws the weights of the base's architecture, `transfer` copies them and trains all from
the start, `finetune` first trains the head (and what `--freeze` leaves) for `--head_steps`, then
everything at a tenth of the rate. `--filters`, `--levels`, `--padding` and `--normalization` are
the base's where they are not given; else the layers that fit are copied, and a table names the
others.
"""

from typing import Any

from absl import flags

from data_tools.command import load_tensorflow, run
from experiments import training_flags

FLAGS = flags.FlagValues()
training_flags.define(FLAGS)
_BASE = flags.DEFINE_string(
    "base",
    None,
    "What to start from: a model folder, the name of a base model that ships, the authors' .h5, or "
    "a .keras, .h5 or SavedModel of this architecture that Keras 2 has saved.",
    required=True,
    flag_values=FLAGS,
)
_MODE = flags.DEFINE_enum(
    "mode", "finetune", ["scratch", "transfer", "finetune"], "How to start.", flag_values=FLAGS
)
_HEAD = flags.DEFINE_enum(
    "head",
    "by_name",
    ["by_name", "fresh"],
    "by_name: structures that the base has by name keep their weights; fresh: none does.",
    flag_values=FLAGS,
)
_INPUT_CHANNELS_BY = flags.DEFINE_enum(
    "input_channels_by",
    "mean",
    ["mean", "copy", "zero"],
    "How another number of input channels than the base's starts: with the mean of its kernels, "
    "with copies of them, or with zeros in all further channels.",
    flag_values=FLAGS,
)
_FREEZE = flags.DEFINE_list(
    "freeze",
    [],
    "Layer name patterns such as encoder_*,decoder_2_*; finetune's default is both.",
    flag_values=FLAGS,
)
_HEAD_STEPS = flags.DEFINE_integer(
    "head_steps",
    None,
    "Steps of finetune's first stage; default a quarter.",
    lower_bound=0,
    flag_values=FLAGS,
)


def architecture(command_flags: flags.FlagValues) -> dict[str, Any]:
    """What the flags say of the network; what they leave out is the base's."""
    given = training_flags.settings(command_flags)
    names = ("filters", "levels", "padding", "normalization")
    return {name: given[name] for name in names if command_flags[name].present}


def main() -> None:
    """Reads the flags and trains."""
    settings = training_flags.settings(FLAGS) | {
        "base": _BASE.value,
        "mode": _MODE.value,
        "architecture": architecture(FLAGS),
        "head": _HEAD.value,
        "input_channels_by": _INPUT_CHANNELS_BY.value,
        "freeze": tuple(_FREEZE.value),
        "head_steps": _HEAD_STEPS.value,
    }
    watching = training_flags.watching(FLAGS)
    load_tensorflow()
    from tl3d_keras import run_settings, training_run

    training_run.run(run_settings.RunSettings(**settings), FLAGS.output_dir, say=print, **watching)


def cli() -> None:
    """The console script."""
    run(main, FLAGS)


if __name__ == "__main__":
    cli()
