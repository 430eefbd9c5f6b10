"""The records of a task: one shard a case, made once; those of a cell, with fewer slices or not."""

import random
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from data_tools import fingerprint, shard_folder
from data_tools.case_reader import ReadCase
from data_tools.layouts import DataSet
from data_tools.plan import PlannedShard
from data_tools.prepare import prepare_arrays
from data_tools.reading import ReadOptions
from data_tools.sharding import WARNING, Say, ShardOptions, shard_dataset
from data_tools.study.study_schema import Task
from tl3d_keras import manifest as manifest_module
from tl3d_keras.annotation import IGNORE
from tl3d_keras.errors import InputError
from tl3d_keras.manifest import CaseEntry, Manifest, ShardEntry

# So that every case gets a shard of its own.
_ONE_CASE = 1


@dataclass(frozen=True)
class TaskData:
    """Where a task's records lie, and which are for what.

    Attributes:
        folder: holds `train` and `test`, records each.
        train: manifest of the training cases.
        test: manifest of the test cases.
        order: names of the training cases in the order in which they are added.
        validation: names of those that are validated on.
    """

    folder: Path
    train: Manifest
    test: Manifest
    order: tuple[str, ...]
    validation: tuple[str, ...]


def make(
    task: Task,
    dataset: DataSet,
    names: tuple[Sequence[str], Sequence[str]],
    folder: Path,
    workers: int,
    say: Say,
) -> tuple[Manifest, Manifest]:
    """Writes the records of a task's training and test cases, or finds them there.

    Args:
        task: of the study.
        dataset: of the task.
        names: of the training and the test cases.
        folder: gets `train` and `test`.
        workers: processes.
        say: is given lines for the user.

    Raises:
        InputError: names that are no cases, or cases that cannot be read.
    """
    by_name = {case.case_id: case for case in dataset.cases}
    unknown = [name for part in names for name in part if name not in by_name]
    if unknown:
        raise InputError(
            f"{task.dataset_dir}: expected cases of the data set ({len(by_name)}, such as "
            f"{next(iter(by_name))}), found {', '.join(unknown[:5])}"
        )
    reading = ReadOptions(partial_labels=task.partial_labels, annotated=task.annotated)
    options = ShardOptions(task.spacing, _ONE_CASE, workers=workers, reading=reading)
    made = []
    for part, chosen in zip(("train", "test"), names, strict=True):
        cases = tuple(by_name[name] for name in chosen)

        def say_of(line: str, part: str = part) -> None:
            say(f"{folder.name} {part}: {line}")

        written = _sharded(replace(dataset, cases=cases), folder / part, options, say_of)
        # Test cases come to the spacing that the training cases propose.
        z, y, x = written.spacing
        options = replace(options, spacing=(z, y, x))
        made.append(written)
    train, test = made
    return train, test


def ordered(names: Sequence[str], seed: int, shuffled: bool) -> list[str]:
    """The training order of a seed: as given for seed 0 or where `shuffled` is off.

    The subset of a size is its beginning, so the subsets of a seed are nested.
    """
    chosen = list(names)
    if shuffled and seed:
        random.Random(seed).shuffle(chosen)
    return chosen


def chosen_slices(labels: np.ndarray, count: int, draw: random.Random | None = None) -> np.ndarray:
    """Which axial slices of a case are annotated, where only some are to be.

    Args:
        labels: uint8 [Z, Y, X]; slices that are IGNORE all over cannot be chosen.
        count: how many; all if there are fewer.
        draw: draws them; None: in the middle of `count` equal parts.

    Returns:
        Their ascending indices.
    """
    there = np.flatnonzero((labels != IGNORE).any(axis=(1, 2)))
    if count >= len(there):
        return there
    if draw:
        return np.array(sorted(draw.sample(there.tolist(), count)))
    return there[((np.arange(count) + 0.5) * len(there) / count).astype(int)]


def keep_slices(labels: np.ndarray, slices: np.ndarray) -> np.ndarray:
    """The labels with IGNORE outside those slices."""
    kept = np.full_like(labels, IGNORE)
    kept[slices] = labels[slices]
    return kept


def write_cell_records(
    folder: Path,
    data: TaskData,
    names: Sequence[str],
    slices: int | None,
    draw_seed: int | None,
) -> None:
    """Writes the records that a cell trains on: second names of the task's, or sparser ones.

    The proposals are made anew from the chosen cases, as for a user who has no others.

    Args:
        folder: gets them; what was there goes.
        data: of the task.
        names: of the training cases; those of `data.validation` are added whole.
        slices: annotated slices of each training case; None: all.
        draw_seed: draws the slices; None: they are spread evenly.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    entries: list[CaseEntry] = []
    shards: list[ShardEntry] = []
    for case in data.train.select([*names, *data.validation]):
        shard = data.train.shards[case.shard]
        if slices is None or case.case_id in data.validation:
            shard_folder.second_name(data.folder / "train" / shard.file, folder / shard.file)
        else:
            draw = None if draw_seed is None else random.Random(f"{draw_seed} {case.case_id}")
            case, shard = _write_sparse(folder, data, case, slices, draw)
        entries.append(replace(case, shard=len(shards)))
        shards.append(shard)
    shard_folder.remove_parts(folder)
    whole = data.train
    proposal = fingerprint.propose(
        whole.spacing,
        whole.proposal.reasons[0],
        whole.channels,
        whole.structures,
        entries[: len(names)],
    )
    manifest_module.save(replace(whole, shards=shards, cases=entries, proposal=proposal), folder)


def _write_sparse(
    folder: Path, data: TaskData, case: CaseEntry, count: int, draw: random.Random | None
) -> tuple[CaseEntry, ShardEntry]:
    from tl3d_keras import stored_case

    whole = data.train
    stored = stored_case.read(data.folder / "train", whole, case)
    labels = keep_slices(stored.labels, chosen_slices(stored.labels, count, draw))
    annotated = tuple(case.annotated_structures)
    read = ReadCase(case.case_id, stored.image, labels, annotated, case.intensity)
    prepared = prepare_arrays(
        read, case.source_spacing, case.source_shape, whole.structures, whole.channels
    )
    planned = PlannedShard(whole.shards[case.shard].file, "sparse", ())
    part = shard_folder.write_shard(folder, planned, [prepared])
    if part.shard is None:
        raise InputError(f"{folder}: expected the record of {case.case_id}, found none written")
    return part.cases[0], part.shard


def _sharded(dataset: DataSet, folder: Path, options: ShardOptions, say: Say) -> Manifest:
    about_cases: list[str] = []
    try:
        written = shard_dataset(dataset, folder, options, say, about_cases.append)
    except InputError:
        if not folder.is_dir():
            raise
        # Its files or options are others than they were.
        options = replace(options, overwrite=True)
        written = shard_dataset(dataset, folder, options, say, about_cases.append)
    doubts = [line for line in about_cases if line.startswith(WARNING)]
    if doubts:
        say(f"{len(doubts)} warnings, such as {doubts[0].removeprefix(WARNING)}")
    return written
