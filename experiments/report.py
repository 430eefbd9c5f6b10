"""Puts scores, pictures and training curves on one web page that needs no network.

    python -m experiments.report --output=demo/report.html \\
        --scores="scratch=SCORES_1,fine-tuned=SCORES_2" --runs="base=RUN_1,fine-tuned=RUN_2" \\
        --dataset_dir=TESTSET --predictions=SEGMENTED

reads what evaluate, train_base, transfer and segment have written. Every flag takes a list;
`--dataset_dir` and `--predictions` pair up in order. Ends with the table of Dice and takes about
three seconds for three small cases.
"""

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from data_tools.case_comparison import compare_cases
from data_tools.command import run
from tl3d_keras import html_page, run_report, score_files
from tl3d_keras.errors import InputError
from tl3d_keras.whole_folder import write_file

FLAGS = flags.FlagValues()
_OUTPUT = flags.DEFINE_string("output", None, "The .html file.", required=True, flag_values=FLAGS)
_SCORES = flags.DEFINE_list(
    "scores",
    [],
    "NAME=DIR,...: folders with the metrics.json of experiments.evaluate.",
    flag_values=FLAGS,
)
_RUNS = flags.DEFINE_list(
    "runs",
    [],
    "NAME=DIR,...: training runs; the last one's model goes into the next commands.",
    flag_values=FLAGS,
)
_DATASET_DIR = flags.DEFINE_list(
    "dataset_dir",
    [],
    "Data sets with images and references, one for each of --predictions.",
    flag_values=FLAGS,
)
_PREDICTIONS = flags.DEFINE_list(
    "predictions",
    [],
    "Folders with <case>.nii.gz as experiments.segment writes them.",
    flag_values=FLAGS,
)

_CASES_SHOWN = 3


def main() -> None:
    """Reads the flags, writes the page and prints the Dice table."""
    output = Path(_OUTPUT.value)
    html_page.check_path(output)
    scores = {
        name: score_files.read(folder) for name, folder in _named("scores", _SCORES.value).items()
    }
    runs = _named("runs", _RUNS.value)
    if len(_DATASET_DIR.value) != len(_PREDICTIONS.value):
        raise InputError(
            "--predictions: expected one folder for each of --dataset_dir "
            f"({len(_DATASET_DIR.value)}), found {len(_PREDICTIONS.value)}"
        )
    if not (scores or runs or _PREDICTIONS.value):
        raise InputError(
            "expected something to report by --scores, --runs or --predictions, found none"
        )
    comparisons = [
        (Path(data).resolve().name, compare_cases(Path(data), Path(found), _CASES_SHOWN))
        for data, found in zip(_DATASET_DIR.value, _PREDICTIONS.value, strict=True)
    ]
    write_file(output, run_report.page(scores, runs, comparisons).encode())
    for line in run_report.dice_table(scores):
        print(line)
    print(f"report: {output}")


def _named(flag: str, values: Sequence[str]) -> dict[str, Path]:
    named: dict[str, Path] = {}
    for value in values:
        name, separator, folder = value.partition("=")
        if not (name and separator and folder) or name in named:
            raise InputError(f"--{flag}: expected NAME=DIR with different names, found {value!r}")
        named[name] = Path(folder)
    return named


def cli() -> None:
    """The console script."""
    run(main, FLAGS)


if __name__ == "__main__":
    cli()
