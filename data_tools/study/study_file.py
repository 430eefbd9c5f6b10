"""The JSON file of a study, checked."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_tools.study.study_schema import AnySize, Size, Study, Task
from tl3d_keras import json_file
from tl3d_keras.errors import InputError

# What the grid of cells decides.
_OF_THE_GRID = ("records_dir", "base", "seed", "num_train", "num_validation", "validation_cases")


def load(path: str | Path) -> Study:
    """Reads a study.

    Raises:
        InputError: the file is no study; the line says where and why.
    """
    content = _read(path)
    tasks = content.get("tasks")
    if isinstance(tasks, dict):
        for name, task in tasks.items():
            if isinstance(task, str):
                tasks[name] = _task_of(Path(path).parent / task, name)
    study = json_file.typed(content, Study, f"{path}: not a study")
    for what, found in (("tasks", study.tasks), ("modes", study.modes), ("seeds", study.seeds)):
        if not found:
            raise InputError(f"{path}: expected at least one of {what}, found none")
    for name, task in study.tasks.items():
        _check_task(name, task, study, path)
    for where, settings in _all_settings(study):
        wrong = next((key for key in settings if key in _OF_THE_GRID), None)
        if wrong:
            raise InputError(f"{path}: {where}: expected no {wrong}, which the cells decide")
    if study.baseline not in study.modes:
        raise InputError(
            f"{path}: expected a baseline of {', '.join(study.modes)}, found {study.baseline!r}"
        )
    for name in study.modes:
        if not study.bases and run_mode(study, name) != "scratch":
            raise InputError(f"{path}: mode {name}: expected bases to start from, found none")
    return study


def run_mode(study: Study, mode: str) -> str:
    """The `RunSettings.mode` of a mode of the study."""
    return str(study.modes[mode].get("mode", mode))


def sizes_of(study: Study, task: Task) -> list[Size]:
    """The sizes of a task, as objects."""
    return [_as_size(size) for size in task.sizes or study.sizes]


def splits_of(task: Task, folder: Path, study_folder: Path) -> tuple[list[str], list[str]]:
    """The names of the training cases in order, and of the test cases.

    Args:
        task: of the study.
        folder: that `--data_dir` names.
        study_folder: that of the study file.

    Raises:
        InputError: a splits file that does not hold them.
    """
    if task.splits is None:
        return list(task.train), list(task.test)
    path = find(task.splits.file, folder, study_folder)
    part = json_file.read_object(path, "a JSON file of splits").get(task.splits.key)
    train, test = (part.get(name) if isinstance(part, dict) else None for name in ("train", "test"))
    for names in (train, test):
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise InputError(
                f'{path}: expected lists "test" and "train" of case names in '
                f"{task.splits.key!r}, found {str(part)[:60]}"
            )
    return list(train or ()), list(test or ())


def find(name: str, data_dir: Path, study_folder: Path) -> Path:
    """A path of a study file: from the data's folder, else from the study's."""
    return data_dir / name if (data_dir / name).exists() else study_folder / name


def _read(path: str | Path) -> dict[str, Any]:
    return json_file.read_object(path, "a study file, see docs/study.md")


def _task_of(path: Path, name: str) -> Any:
    content = _read(path)
    tasks = content.get("tasks")
    if not isinstance(tasks, dict) or not isinstance(tasks.get(name), dict):
        raise InputError(f"{path}: expected a task {name}, found none")
    return {"sizes": content.get("sizes", []), **tasks[name]}


def _as_size(size: AnySize) -> Size:
    if isinstance(size, Size):
        return size
    return Size(*size) if isinstance(size, tuple) else Size(size)


def _check_task(name: str, task: Task, study: Study, path: str | Path) -> None:
    where = f"{path}: task {name}"
    sizes = sizes_of(study, task)
    if not sizes:
        raise InputError(f"{where}: expected sizes, found none")
    pairs = [(size.cases, size.slices) for size in sizes]
    if len(set(pairs)) < len(pairs):
        raise InputError(f"{where}: expected different sizes, found one twice")
    if task.splits and (task.test or task.train):
        raise InputError(f"{where}: expected splits or lists of cases, found both")
    if not task.splits and not task.test:
        raise InputError(f"{where}: expected test cases or splits, found neither")
    if task.labels and not task.channels:
        raise InputError(f"{where}: expected channels beside labels, found none")
    for case, files in task.cases.items():
        if not files.images or bool(files.label) == bool(files.masks):
            raise InputError(f"{where}: expected images and either label or masks of {case}")
        if files.label_offset and not (task.partial_labels and files.label):
            raise InputError(
                f"{where}: expected partial_labels and a label beside label_offset of {case}"
            )
    if task.cases and not task.labels:
        raise InputError(f"{where}: expected labels beside cases, found none")


def _all_settings(study: Study) -> Sequence[tuple[str, Mapping[str, Any]]]:
    return [
        ("settings", study.settings),
        *((f"task {name}", task.settings) for name, task in study.tasks.items()),
        *((f"mode {name}", settings) for name, settings in study.modes.items()),
    ]
