"""Label files to compare: which belong together, and what their values mean."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_tools import layouts
from tl3d_keras import regular_file, volume_io, volumes
from tl3d_keras.annotation import IGNORE, MAX_STRUCTURES
from tl3d_keras.errors import InputError


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


def pair_files(prediction: Path, reference: Path) -> list[Case]:
    """Pairs two files, or the files of two folders by name; predictions may be more.

    Raises:
        InputError: a prediction is missing, or a folder holds no or two files of a case.
    """
    predictions, references = find_files(prediction), find_files(reference)
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


def find_files(path: Path) -> dict[str, Path]:
    """The label files of a folder, or the one file, by name.

    Raises:
        InputError: there is none, one is a named pipe or the like, or a folder holds two of one
            name.
    """
    regular_file.check(path)
    if path.is_file():
        return {volume_io.case_name(path): path}
    if not path.is_dir():
        raise InputError(f"{path}: no such file or folder")
    files: dict[str, Path] = {}
    for file in sorted(path.iterdir()):
        if file.name.startswith(".") or file.is_dir() or not volume_io.has_known_suffix(file):
            continue
        regular_file.check(file)
        first = files.setdefault(volume_io.case_name(file), file)
        if first != file:
            raise InputError(f"{file}: expected one file a case, found {first.name} too")
    if not files:
        raise InputError(
            f"{path}: expected label files ({', '.join(volume_io.SUFFIXES)}), found none"
        )
    return files


def find_description(reference: Path) -> Path | None:
    """The dataset.json beside a reference or its folder's files, or one folder above."""
    folder = (reference if reference.is_dir() else reference.parent).absolute()
    places = (folder / "dataset.json", folder.parent / "dataset.json")
    return next((path for path in places if path.is_file()), None)


def read_meaning(
    cases: Iterable[Case], reference: Path, names: Sequence[str], dataset_values: bool
) -> Labels:
    """What the values in the files mean.

    Args:
        cases: the files, whose values are the structures where nothing else tells.
        reference: a reference or their folder; a dataset.json there or one above tells.
        names: of labels 1..K; dataset.json is not read then.
        dataset_values: the predictions hold the values of dataset.json too, not 1..K.

    Raises:
        InputError: names that are equal or too many, or values that cannot be labels.
    """
    described = find_description(reference)
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


def read_pair(case: Case, labels: Labels) -> tuple[np.ndarray, np.ndarray, tuple[float, ...]]:
    """Reads a case.

    Returns:
        The prediction and the reference, labels [Z, Y, X] 0..K or IGNORE, and the spacing
        (z, y, x) in mm.

    Raises:
        InputError: the grids differ, a value has no meaning, or the prediction says IGNORE where
            the reference is annotated.
    """
    reference = volume_io.read_labels(case.reference)
    prediction = volume_io.read_labels(case.prediction)
    prediction = volumes.on_same_grid(reference, prediction, case.reference, case.prediction)
    true = mapped(reference.array[..., 0], labels.reference, case.reference)
    predicted = mapped(prediction.array[..., 0], labels.prediction, case.prediction)
    undecided = int(((predicted == IGNORE) & (true != IGNORE)).sum())
    if undecided:
        raise InputError(
            f"{case.prediction}: expected a label at every annotated voxel of "
            f"{case.reference}, found {undecided} voxels that say unannotated"
        )
    return predicted, true, reference.spacing


def mapped(array: np.ndarray, meaning: Mapping[int, int], path: Path) -> np.ndarray:
    """The labels that the values of a file stand for.

    Args:
        array: integers, as read.
        meaning: value in the file -> label, 0..K or IGNORE.
        path: the file.

    Returns:
        uint8 of the same shape.

    Raises:
        InputError: a value without a meaning.
    """
    values = np.unique(array)
    unknown = [int(v) for v in values if int(v) not in meaning]
    if unknown:
        raise InputError(
            f"{path}: expected the declared label values {sorted(set(meaning) - {IGNORE})} or "
            f"{IGNORE} (unannotated), found {unknown[0]}"
        )
    labels = np.array([meaning[int(v)] for v in values], np.uint8)
    return labels[np.searchsorted(values, array)]
