"""Trains a network from random weights: the base of later transfers, or a model as it is.

    python -m experiments.train_base --records_dir=RECORDS --output_dir=RUN --filters=8 \\
        --padding=same --patch_size=40,56,40 --steps=3000

writes RUN/model/1. The same command again goes on with an interrupted run.
"""

from absl import flags

from data_tools.command import load_tensorflow, run, say
from experiments import training_flags

FLAGS = flags.FlagValues()
training_flags.define(FLAGS)


def main() -> None:
    """Reads the flags and trains."""
    settings = training_flags.settings(FLAGS)
    watching = training_flags.watching(FLAGS)
    load_tensorflow()
    from tl3d_keras import run_settings, training_run

    training_run.run(run_settings.RunSettings(**settings), FLAGS.output_dir, say=say, **watching)


def cli() -> None:
    """The console script."""
    run(main, FLAGS)


if __name__ == "__main__":
    cli()
