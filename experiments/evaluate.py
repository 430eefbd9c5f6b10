"""Scores segmentations against their references, on annotated voxels alone.

    python -m experiments.evaluate --prediction=SEGMENTED --reference=DATASET/labelsTr \\
        --output_dir=SCORES

takes two files, or two folders whose files have the same names, prints the mean of every structure
and writes metrics.json and metrics.csv. `tl3d_keras.evaluation.Scores` says what the scores are.
Identical folders score Dice 1, HD95 0 and NSD 1.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import flags

from data_tools import label_files
from data_tools.command import run
from tl3d_keras import evaluation, score_files
from tl3d_keras.errors import InputError
from tl3d_keras.evaluation import Summary
from tl3d_keras.whole_folder import whole_folder

FLAGS = flags.FlagValues()
_PREDICTION = flags.DEFINE_string(
    "prediction",
    None,
    "Label file, or folder of label files: 0 background, 1..K the structures.",
    required=True,
    flag_values=FLAGS,
)
_REFERENCE = flags.DEFINE_string(
    "reference",
    None,
    "Label file or folder of label files, 255 where unannotated. A dataset.json "
    "in the folder or the one above tells names, values and the structures annotated by case.",
    required=True,
    flag_values=FLAGS,
)
_OUTPUT_DIR = flags.DEFINE_string(
    "output_dir", None, "Folder for the scores.", required=True, flag_values=FLAGS
)
_STRUCTURES = flags.DEFINE_list(
    "structures",
    None,
    "Names of labels 1..K; dataset.json is not read then.",
    flag_values=FLAGS,
)
_DATASET_VALUES = flags.DEFINE_bool(
    "prediction_has_dataset_values",
    False,
    "The predictions hold the label values of dataset.json as they are, where those are not 1..K.",
    flag_values=FLAGS,
)
_OVERWRITE = flags.DEFINE_bool(
    "overwrite", False, "Replace what is in --output_dir.", flag_values=FLAGS
)


def main() -> None:
    """Reads the flags, writes the scores and prints their means."""
    result = evaluate(
        Path(_PREDICTION.value),
        Path(_REFERENCE.value),
        Path(_OUTPUT_DIR.value),
        _STRUCTURES.value or (),
        _DATASET_VALUES.value,
        _OVERWRITE.value,
    )
    print("\n".join(score_files.table(result)))
    print(f"metrics.json and metrics.csv: {_OUTPUT_DIR.value}")


def evaluate(
    prediction: Path,
    reference: Path,
    output_dir: Path,
    structures: Sequence[str] = (),
    prediction_has_dataset_values: bool = False,
    overwrite: bool = False,
) -> Summary:
    """Scores every case of `reference`, prints its mean Dice, and writes `output_dir` when whole.

    Raises:
        InputError: a prediction is missing, grids differ, or a value is not declared.
    """
    for path in (prediction, reference):
        if path.resolve().is_relative_to(output_dir.resolve()):
            raise InputError(
                f"{output_dir}: expected another folder than that of the label files, found {path}"
            )
    with whole_folder(output_dir, overwrite) as folder:
        cases = label_files.pair_files(prediction, reference)
        labels = label_files.read_meaning(
            cases, reference, structures, prediction_has_dataset_values
        )
        scores = {}
        for case in cases:
            predicted, true, spacing = label_files.read_pair(case, labels)
            scores[case.name] = evaluation.evaluate_case(
                predicted, true, spacing, labels.structures, labels.annotated.get(case.name)
            )
            dice = [s.dice for s in scores[case.name].values() if s.dice is not None]
            print(
                f"{case.name}: mean Dice {np.mean(dice):.4f}"
                if dice
                else f"{case.name}: nothing to score",
                flush=True,
            )
        result = evaluation.summary(scores.values(), labels.structures.values())
        score_files.write(folder, scores, result)
    return result


def cli() -> None:
    """The console script."""
    run(main, FLAGS)


if __name__ == "__main__":
    cli()
