"""Starts a new task from a base model.

    python -m experiments.transfer --base=BASE/model --mode=finetune --records_dir=RECORDS \\
        --output_dir=RUN --steps=1000

`scratch` draws the weights of the base's architecture, `transfer` copies them and trains all from
the start, `finetune` first trains the head (and what `--freeze` leaves) for `--head_steps`, then
everything at `--fine_rate` of the rate; `adapter` trains all from the start, but of 3x3x3 kernels
only updates of `--adapter_rank`. `--stages` names other stages by what each trains, for how many
steps and at which rate:

    --stages=head:300@1e-3,decoder+head:600@5e-4,all@1e-4

`--filters`, `--levels`, `--padding` and `--normalization` are the base's where they are not given;
else the layers that fit are copied, and a table names the others.
"""

from typing import Any

from absl import flags

from data_tools.command import load_tensorflow, run, say
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
    "mode",
    "finetune",
    ["scratch", "transfer", "finetune", "adapter"],
    "How to start.",
    flag_values=FLAGS,
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
    "Layers such as encoder, decoder_2, *_conv_0 or encoder_0:encoder_2; finetune's default is the "
    "whole trunk.",
    flag_values=FLAGS,
)
_HEAD_STEPS = flags.DEFINE_integer(
    "head_steps",
    None,
    "Steps of finetune's first stage; default a quarter.",
    lower_bound=0,
    flag_values=FLAGS,
)
_FINE_RATE = flags.DEFINE_float(
    "fine_rate",
    0.1,
    "What the learning rate is multiplied with in finetune's second stage.",
    lower_bound=0,
    flag_values=FLAGS,
)
_ADAPTER_RANK = flags.DEFINE_integer(
    "adapter_rank", 4, "Rank of adapter's kernel updates.", lower_bound=1, flag_values=FLAGS
)
_STAGES = flags.DEFINE_list(
    "stages",
    [],
    "LAYERS:STEPS@RATE,... in place of the mode's stages: only LAYERS (as for --freeze, several "
    "joined by +, or all) are trained; the last may leave out its steps, each its rate.",
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
        "fine_rate": _FINE_RATE.value,
        "adapter_rank": _ADAPTER_RANK.value,
        "stages": tuple(_STAGES.value),
    }
    watching = training_flags.watching(FLAGS)
    load_tensorflow()
    from tl3d_keras import run_settings, training_run

    training_run.run(run_settings.RunSettings(**settings), FLAGS.output_dir, say=say, **watching)


def cli() -> None:
    """The console script."""
    run(main, FLAGS)


if __name__ == "__main__":
    cli()
