"""Trains and scores every cell of a study: tasks x sizes x modes x bases x seeds.

    python -m experiments.size_study --study=experiments/studies/hippocampus.json \\
        --data_dir=DATA --output_dir=STUDY

takes the study file that docs/study.md explains. A study that was killed goes on when it is called
again; a changed file recomputes only the cells that it changes.
"""

from pathlib import Path

from absl import flags

from data_tools.command import load_tensorflow, run, say
from tl3d_keras.errors import InputError

FLAGS = flags.FlagValues()
_STUDY = flags.DEFINE_string(
    "study", None, "JSON file of the study.", required=True, flag_values=FLAGS
)
_OUTPUT_DIR = flags.DEFINE_string(
    "output_dir", None, "Folder of the study.", required=True, flag_values=FLAGS
)
_DATA_DIR = flags.DEFINE_string(
    "data_dir",
    None,
    "What the data paths of the study file start from; default: its folder.",
    flag_values=FLAGS,
)
_BASES = flags.DEFINE_list(
    "bases",
    [],
    "NAME=MODEL,...: models to start from, instead of those that the study file names.",
    flag_values=FLAGS,
)
_WORKERS = flags.DEFINE_integer(
    "workers",
    None,
    "Processes that run cells; 0: this one; default: one for each GPU, else one.",
    lower_bound=0,
    flag_values=FLAGS,
)
_TUNING_CASES = flags.DEFINE_integer(
    "tuning_cases",
    0,
    "Score on the last so many training cases, which nothing trains on then, and read no test "
    "case: for choosing settings.",
    lower_bound=0,
    flag_values=FLAGS,
)
_KEEP_MODELS = flags.DEFINE_bool(
    "keep_models", False, "Keep the model of every cell.", flag_values=FLAGS
)
_RESULTS_ONLY = flags.DEFINE_bool(
    "results_only",
    False,
    "Run nothing; write the results of the cells that are done, while others are running too.",
    flag_values=FLAGS,
)


def main() -> None:
    """Reads the flags and runs the study."""
    load_tensorflow()
    import tensorflow as tf

    from data_tools.study import driver

    path, output_dir = Path(_STUDY.value), Path(_OUTPUT_DIR.value)
    if _RESULTS_ONLY.value:
        driver.say_results(output_dir, say)
        return
    gpus = [str(number) for number in range(len(tf.config.list_physical_devices("GPU")))]
    options = driver.StudyOptions(
        Path(_DATA_DIR.value) if _DATA_DIR.value else path.parent,
        max(1, len(gpus)) if _WORKERS.value is None else _WORKERS.value,
        gpus,
        _TUNING_CASES.value,
        _KEEP_MODELS.value,
        dict(_base(text) for text in _BASES.value),
    )
    driver.run(path, output_dir, options, say)


def _base(text: str) -> tuple[str, str]:
    name, _, model = text.partition("=")
    if not name or not model:
        raise InputError(f"--bases: expected NAME=MODEL, found {text!r}")
    return name, model


def cli() -> None:
    """The console script."""
    run(main, FLAGS)


if __name__ == "__main__":
    cli()
