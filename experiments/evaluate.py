"""Scores segmentations against their references, on annotated voxels alone.

    python -m experiments.evaluate --prediction=SEGMENTED --reference=DATASET/labelsTr \\
        --output_dir=SCORES

takes two files, or two folders whose files have the same names, prints the mean of every structure
and writes metrics.json and metrics.csv. `tl3d_keras.evaluation.Scores` says what the scores are.
Identical folders score Dice 1, HD95 0 and NSD 1.
"""

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from absl import flags

from data_tools import layouts
from data_tools.command import run
from tl3d_keras import evaluation, volume_io
from tl3d_keras.annotation import IGNORE, MAX_STRUCTURES
from tl3d_keras.errors import InputError
from tl3d_keras.evaluation import METRICS, Scores, Summary
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


@dataclass(frozen=True)
class Case:
    """Two label files to compare."""

    name: str
    prediction: Path
    reference: Path


@dataclass(frozen=True)
class Labels:
    """What the values in the files mean.

    Attributes:
        structures: label -> name.
        reference: value in the reference files -> label 0..K or IGNORE.
        prediction: the same for the predictions.
        annotated: case -> the structures annotated in it, where not all are.
    """

    structures: Mapping[int, str]
    reference: Mapping[int, int]
    prediction: Mapping[int, int]
    annotated: Mapping[str, Sequence[str]]


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
    _print_table(result)
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
        cases = _paired(prediction, reference)
        labels = _labels(cases, reference, structures, prediction_has_dataset_values)
        scores = {}
        for case in cases:
            scores[case.name] = _scored(case, labels)
            dice = [s.dice for s in scores[case.name].values() if s.dice is not None]
            print(
                f"{case.name}: mean Dice {np.mean(dice):.4f}"
                if dice
                else f"{case.name}: nothing to score",
                flush=True,
            )
        result = evaluation.summary(scores.values(), labels.structures.values())
        _write(folder, scores, result)
    return result


def _paired(prediction: Path, reference: Path) -> list[Case]:
    predictions, references = _label_files(prediction), _label_files(reference)
    if prediction.is_file() and reference.is_file():
        return [Case(name, prediction, reference) for name in references]
    missing = [name for name in references if name not in predictions]
    if missing:
        folder = prediction if prediction.is_dir() else prediction.parent
        path = references[missing[0]]
        more = f"; {len(missing) - 1} more are missing" if len(missing) > 1 else ""
        raise InputError(
            f"{folder / path.name}: no such file, though the reference {path} is there{more}"
        )
    extra = [name for name in predictions if name not in references]
    if extra:
        print(f"predictions without a reference, skipped: {', '.join(extra)}")
    return [Case(name, predictions[name], path) for name, path in references.items()]


def _label_files(path: Path) -> dict[str, Path]:
    if path.is_file():
        return {volume_io.case_name(path): path}
    if not path.is_dir():
        raise InputError(f"{path}: no such file or folder")
    files: dict[str, Path] = {}
    for file in sorted(path.iterdir()):
        if file.name.startswith(".") or not file.is_file() or not volume_io.has_known_suffix(file):
            continue
        first = files.setdefault(volume_io.case_name(file), file)
        if first != file:
            raise InputError(f"{file}: expected one file a case, found {first.name} too")
    if not files:
        raise InputError(
            f"{path}: expected label files ({', '.join(volume_io.SUFFIXES)}), found none"
        )
    return files


def _labels(
    cases: Iterable[Case], reference: Path, names: Sequence[str], dataset_values: bool
) -> Labels:
    folder = (reference if reference.is_dir() else reference.parent).absolute()
    described = next(
        (
            path
            for path in (folder / "dataset.json", folder.parent / "dataset.json")
            if path.is_file()
        ),
        None,
    )
    if names and (len(set(names)) < len(names) or len(names) > MAX_STRUCTURES):
        raise InputError(
            f"--structures: expected at most {MAX_STRUCTURES} different names, "
            f"found {','.join(names)}"
        )
    if described and not names:
        names, dataset_meaning = layouts.read_labels(described)
        structures = dict(enumerate(names, start=1))
        meaning = dataset_meaning if dataset_values else _as_they_are(structures)
        return Labels(structures, dataset_meaning, meaning, layouts.read_annotated(described))
    structures = dict(enumerate(names, start=1)) or {
        value: f"structure_{value}" for value in _found_values(cases)
    }
    return Labels(structures, _as_they_are(structures), _as_they_are(structures), {})


def _as_they_are(structures: Iterable[int]) -> dict[int, int]:
    return {value: value for value in (0, *structures, IGNORE)}


def _found_values(cases: Iterable[Case]) -> list[int]:
    found: set[int] = set()
    for case in cases:
        for path in (case.prediction, case.reference):
            values = np.unique(volume_io.read_labels(path).array).tolist()
            if values[0] < 0 or values[-1] > IGNORE:
                wrong = values[0] if values[0] < 0 else values[-1]
                raise InputError(
                    f"{path}: expected label values 0 to {MAX_STRUCTURES} or {IGNORE} "
                    f"(unannotated), found {wrong}"
                )
            found.update(values)
    found -= {0, IGNORE}
    if not found:
        raise InputError(
            f"{path}: expected structures in the label files, found background alone "
            "in all; name the structures by --structures or a dataset.json"
        )
    return sorted(found)


def _scored(case: Case, labels: Labels) -> dict[str, Scores]:
    reference = volume_io.read_labels(case.reference)
    prediction = volume_io.read_labels(case.prediction)
    volume_io.check_same_grid(reference, prediction, case.reference, case.prediction)
    true = _mapped(reference.array[..., 0], labels.reference, case.reference)
    predicted = _mapped(prediction.array[..., 0], labels.prediction, case.prediction)
    undecided = int(((predicted == IGNORE) & (true != IGNORE)).sum())
    if undecided:
        raise InputError(
            f"{case.prediction}: expected a label at every annotated voxel of "
            f"{case.reference}, found {undecided} voxels that say unannotated"
        )
    return evaluation.evaluate_case(
        predicted, true, reference.spacing, labels.structures, labels.annotated.get(case.name)
    )


def _mapped(array: np.ndarray, meaning: Mapping[int, int], path: Path) -> np.ndarray:
    values = np.unique(array)
    unknown = [int(v) for v in values if int(v) not in meaning]
    if unknown:
        raise InputError(
            f"{path}: expected the label values {sorted(set(meaning) - {IGNORE})} or "
            f"{IGNORE} (unannotated), found {unknown[0]}"
        )
    labels = np.array([meaning[int(v)] for v in values], np.uint8)
    return labels[np.searchsorted(values, array)]


def _write(folder: Path, scores: Mapping[str, Mapping[str, Scores]], result: Summary) -> None:
    per_case = {
        case: {name: asdict(s) for name, s in found.items()} for case, found in scores.items()
    }
    content = {"summary": asdict(result), "cases": per_case}
    (folder / "metrics.json").write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")
    with (folder / "metrics.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["case", "structure", *METRICS])
        writer.writeheader()
        for case, found in per_case.items():
            writer.writerows(
                {"case": case, "structure": name, **values} for name, values in found.items()
            )


def _print_table(result: Summary) -> None:
    width = max(len(name) for name in (*result.structures, "structure"))
    print(f"{'structure':{width}}  cases    Dice  HD95 mm     NSD  volume ml  volume %")
    for name, found in result.structures.items():
        dice, hd95, nsd, volume, relative = (found[metric].mean for metric in METRICS)
        percent = None if relative is None else 100 * relative
        print(
            f"{name:{width}}  {found['dice'].count:5d}  {_text(dice, 6, 4)}  "
            f"{_text(hd95, 7, 2)}  {_text(nsd, 6, 4)}  {_text(volume, 9, 2)}  "
            f"{_text(percent, 8, 1)}"
        )
    print(f"overall mean Dice: {_text(result.mean['dice'], 6, 4)}")


def _text(value: float | None, width: int, digits: int) -> str:
    return f"{'-':>{width}}" if value is None else f"{value:{width}.{digits}f}"


def cli() -> None:
    """The console script."""
    run(main, FLAGS)


if __name__ == "__main__":
    cli()
