"""The JSON file of a study, checked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.types import StringConstraints

from tl3d_keras import json_file
from tl3d_keras.errors import InputError
from tl3d_keras.manifest import first_problem

# Names become folders, and `@` parts a mode from its base.
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$", max_length=60)]
Positive = Annotated[int, Field(ge=1)]
Offset = Annotated[int, Field(ge=0)]
Spacing = tuple[
    Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]
]
_STRICT = ConfigDict(extra="forbid")
# What the grid of cells decides.
_OF_THE_GRID = ("records_dir", "base", "seed", "num_train", "num_validation", "validation_cases")


@dataclass(frozen=True)
class Size:
    """A training size.

    Attributes:
        cases: how many.
        slices: annotated slices of each case; None: all.
        seeds: those of this size; None: the study's.
    """

    cases: Positive
    slices: Positive | None = None
    seeds: tuple[Annotated[int, Field(ge=0)], ...] | None = None
    __pydantic_config__ = _STRICT


@dataclass(frozen=True)
class CaseFiles:
    """The files of a case, as paths from the task's `dataset_dir`.

    Attributes:
        images: one a channel, or one with all; a folder is a DICOM series.
        label: its label file.
        masks: structure -> binary file, in place of `label`.
        label_offset: with `partial_labels`, the voxel (z, y, x) of the image at which the label
            starts, in place of what its header says.
    """

    images: tuple[str, ...]
    label: str | None = None
    masks: dict[str, str] = field(default_factory=dict)
    label_offset: tuple[Offset, Offset, Offset] | None = None
    __pydantic_config__ = _STRICT


@dataclass(frozen=True)
class Splits:
    """A JSON file whose object `key` holds the lists `test` and `train`."""

    file: str
    key: str
    __pydantic_config__ = _STRICT


AnySize = Positive | tuple[Positive, Positive] | Size


@dataclass(frozen=True)
class Task:
    """A data set and what is learnt from it.

    Attributes:
        dataset_dir: a layout of `data_tools.shard`, from `--data_dir` or the study's folder.
        test: names of the cases that are scored, and trained on by no cell.
        train: names of the training cases in the order in which they are added; empty: all others.
        splits: a file with both lists, in their stead.
        labels: structure -> value in the label files, whose other values count as background; then
            no `dataset.json` is read, and the files are those of `imagesTr` and `labelsTr`.
        channels: names of the image channels where no `dataset.json` gives them.
        structures: those to learn; empty: all.
        cases: name -> files, where they are not in `imagesTr` and `labelsTr`.
        spacing: (z, y, x) in mm; None: proposed from the training cases.
        partial_labels: as `data_tools.shard --partial_labels`.
        annotated: as `data_tools.shard --annotated`.
        sizes: instead of the study's.
        settings: of `RunSettings`, over the study's.
    """

    dataset_dir: str
    test: tuple[str, ...] = ()
    train: tuple[str, ...] = ()
    splits: Splits | None = None
    labels: dict[str, Annotated[int, Field(ge=1, le=254)]] = field(default_factory=dict)
    channels: tuple[str, ...] = ()
    structures: tuple[str, ...] = ()
    cases: dict[str, CaseFiles] = field(default_factory=dict)
    spacing: Spacing | None = None
    partial_labels: bool = False
    annotated: Literal["all", "labelled_slices"] = "all"
    sizes: tuple[AnySize, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    __pydantic_config__ = _STRICT


@dataclass(frozen=True)
class Validation:
    """Validation during training, which counts as more annotation; see docs/study.md.

    Attributes:
        every: steps between two.
        cases: how many; the last of the training order, which no cell then trains on.
    """

    every: Positive
    cases: Positive
    __pydantic_config__ = _STRICT


@dataclass(frozen=True)
class Study:
    """A study: every task with every size, mode, base and seed.

    Attributes:
        tasks: by name; in place of a task the file may name another study file, relative to its own
            folder, whose task of that name it takes with its sizes.
        modes: name -> settings of `RunSettings` over the task's; `mode` is the name by default.
        bases: name -> model folder, or a base that ships; modes of scratch take its architecture.
        sizes: numbers of cases, pairs of cases and annotated slices a case, or `Size` objects.
        seeds: of weights, patches and the order of cases.
        settings: of `RunSettings`, for all cells.
        baseline: the mode that gains are measured against.
        case_order: "shuffled": seed 0 takes the training order as it is, every other seed shuffles
            it; "fixed": all seeds take it as it is. Sizes are nested within a seed.
        slice_choice: "even": spread evenly over a case's slices; "random": drawn by the seed.
        scores: "dice" alone, or "all" that `tl3d_keras.evaluation` has.
        validation: see there.
        description: for the reader.
    """

    tasks: dict[Name, Task]
    modes: dict[Name, dict[str, Any]]
    sizes: tuple[AnySize, ...] = ()
    bases: dict[Name, str] = field(default_factory=dict)
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = (0, 1, 2)
    settings: dict[str, Any] = field(default_factory=dict)
    baseline: str = "scratch"
    case_order: Literal["shuffled", "fixed"] = "shuffled"
    slice_choice: Literal["even", "random"] = "even"
    scores: Literal["dice", "all"] = "dice"
    validation: Validation | None = None
    description: str = ""
    __pydantic_config__ = _STRICT


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
    try:
        study = TypeAdapter(Study).validate_python(content)
    except ValidationError as error:
        raise InputError(f"{path}: not a study: {first_problem(error)}") from None
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
