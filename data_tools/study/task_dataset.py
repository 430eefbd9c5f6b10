"""The data set of a task, with the structures that it learns alone."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from data_tools import layouts
from data_tools.layouts import CaseSource, DataSet
from data_tools.layouts.data_set import check_structures
from data_tools.study.study_file import find
from data_tools.study.study_schema import Task
from tl3d_keras.annotation import IGNORE
from tl3d_keras.errors import InputError
from tl3d_keras.volume_io import SUFFIXES, case_name


def read(task: Task, data_dir: Path, study_folder: Path) -> DataSet:
    """The data set of a task, with the structures that it learns alone.

    Raises:
        InputError: no such data set, or one without these structures.
    """
    path = find(task.dataset_dir, data_dir, study_folder)
    if task.labels:
        return _from_labels(task, path)
    if (path / "dataset.json").exists():
        dataset = layouts.read_layout(path)
    else:
        dataset = layouts.read_layout(path, task.structures, task.channels)
    return _restricted(dataset, task.structures, path) if task.structures else dataset


def _from_labels(task: Task, path: Path) -> DataSet:
    structures = tuple(task.labels)
    values = {value: 0 for value in range(IGNORE)} | {IGNORE: IGNORE}
    values |= {value: index for index, value in enumerate(task.labels.values(), start=1)}
    check_structures(structures, f"{path}: labels")
    if task.cases:
        cases = _listed(task, path, structures)
    else:
        cases = _found(path, len(task.channels), structures)
    return DataSet(structures, task.channels, values, cases)


def _listed(task: Task, path: Path, structures: tuple[str, ...]) -> tuple[CaseSource, ...]:
    cases = []
    for name, files in task.cases.items():
        images = tuple(path / image for image in files.images)
        label = path / files.label if files.label else None
        masks = tuple((structure, path / mask) for structure, mask in files.masks.items())
        unknown = [structure for structure, _ in masks if structure not in structures]
        if unknown:
            raise InputError(f"{path}: expected masks of structures in labels, found {unknown[0]}")
        for file in (*images, *([label] if label else ()), *(mask for _, mask in masks)):
            if not file.exists():
                raise InputError(f"{file}: no such file, though the study lists it")
        annotated = tuple(structure for structure, _ in masks) or structures
        offset = files.label_offset
        cases.append(CaseSource(name, images, label, annotated, masks, label_offset=offset))
    return tuple(cases)


def _found(path: Path, channels: int, structures: tuple[str, ...]) -> tuple[CaseSource, ...]:
    """The files of `imagesTr` and `labelsTr`, by name."""
    cases = []
    images = {
        file.name: file
        for file in (path / "imagesTr").glob("[!.]*")
        if file.name.endswith(SUFFIXES)
    }
    for label in sorted((path / "labelsTr").glob("[!.]*")):
        if not label.name.endswith(SUFFIXES):
            continue
        name = case_name(label)
        ending = label.name.removeprefix(name)
        several = [f"{name}_{channel:04d}{ending}" for channel in range(channels)]
        files = [label.name] if label.name in images else several
        missing = [file for file in files if file not in images]
        if missing:
            raise InputError(f"{path / 'imagesTr' / missing[0]}: no such file, though {label} is")
        cases.append(CaseSource(name, tuple(images[file] for file in files), label, structures))
    if not cases:
        raise InputError(f"{path}: expected images in imagesTr and labels in labelsTr, found none")
    return tuple(cases)


def _restricted(dataset: DataSet, structures: Sequence[str], path: Path) -> DataSet:
    """The data set with some of its structures, in the given order; the others are background."""
    unknown = [name for name in structures if name not in dataset.structures]
    if unknown:
        raise InputError(
            f"{path}: expected structures of {', '.join(dataset.structures)}, found {unknown[0]!r}"
        )
    number = {old: 0 for old in range(len(dataset.structures) + 1)} | {IGNORE: IGNORE}
    for new, name in enumerate(structures, start=1):
        number[dataset.structures.index(name) + 1] = new
    cases = tuple(
        replace(
            case,
            annotated=None
            if case.annotated is None
            else tuple(name for name in structures if name in case.annotated),
            masks=tuple(mask for mask in case.masks if mask[0] in structures),
        )
        for case in dataset.cases
    )
    values = {value: number[label] for value, label in dataset.file_values.items()}
    return DataSet(tuple(structures), dataset.channels, values, cases)
