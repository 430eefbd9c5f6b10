"""A whole study: the data once, the cells that are missing, and what they found."""

import fcntl
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from tqdm import tqdm

from data_tools.study import cells, study_file, task_dataset, task_records, workers
from data_tools.study.cells import Cell
from data_tools.study.study_schema import Study, Task
from data_tools.study.task_records import TaskData
from tl3d_keras import run_settings as settings_module
from tl3d_keras.errors import InputError
from tl3d_keras.study import report, tables
from tl3d_keras.study.outcome import Outcome
from tl3d_keras.study.report import Plan, PlannedCell
from tl3d_keras.text_table import aligned
from tl3d_keras.whole_folder import write_file

_SECONDS_BETWEEN_REPORTS = 600.0
_BAR = "{desc}: {percentage:3.0f} % |{bar}| {remaining} left{postfix}"


@dataclass(frozen=True)
class StudyOptions:
    """How a study is run; nothing here changes what it finds, but for `tuning_cases`.

    Attributes:
        data_dir: what the paths of the study's data start from, besides its own folder.
        workers: processes that run cells; 0: this one.
        devices: numbers of the GPUs.
        tuning_cases: score on the last so many training cases, and read no test case.
        keep_models: whether the cells' models stay.
        bases: name -> model, instead of those that the study names.
    """

    data_dir: Path
    workers: int = 1
    devices: Sequence[str] = ()
    tuning_cases: int = 0
    keep_models: bool = False
    bases: Mapping[str, str] = field(default_factory=dict)


def run(path: Path, output_dir: Path, options: StudyOptions, say: Callable[[str], None]) -> None:
    """Runs the cells of a study that are not done yet, and says what all of them found.

    Args:
        path: of the study file.
        output_dir: gets `records/`, `cells/` and what `report.write` writes.
        options: see there.
        say: is given lines for the user.

    Raises:
        InputError: what is wrong with the study, its data or its bases; or which cells failed.
    """
    study = study_file.load(path)
    if options.bases:
        study = replace(study, bases=dict(options.bases))
    with _locked(output_dir):
        data = {
            name: _task_data(study, name, task, path.parent, output_dir, options, say)
            for name, task in study.tasks.items()
        }
        bases = {name: cells.read_base(_base_path(b, path)) for name, b in study.bases.items()}
        whole, twins = cells.grid(study, bases, data)
        _check(whole, data)
        _save_plan(study, whole, twins, output_dir)
        missing = [cell for cell in whole if not cells.is_done(cell, output_dir)]
        say(f"{len(whole)} cells, {len(whole) - len(missing)} of them done")
        for cell in missing:
            _remove_stale(cell, output_dir)
        try:
            _run_cells(missing, data, output_dir, options, say)
        finally:
            # Also where it was interrupted, or some failed.
            with suppress(InputError):
                report.write(output_dir)
        say_results(output_dir, say)


def say_results(output_dir: Path, say: Callable[[str], None]) -> None:
    """Writes what the cells that are done have found, and says it.

    Raises:
        InputError: none is.
    """
    found = report.write(output_dir)
    heads, rows = tables.dice_rows(found)
    for line in [*aligned([heads, *rows]), *tables.sentences(found)]:
        say(line)
    say(f"report: {output_dir / 'report.html'}")


def _save_plan(
    study: Study, whole: Sequence[Cell], twins: Mapping[tuple[str, str], str], output_dir: Path
) -> None:
    filed: dict[str, dict[str, str]] = {}
    if study_file.run_mode(study, study.baseline) == "scratch":
        for (task, base), twin in twins.items():
            filed.setdefault(task, {})[base] = twin
    planned = [PlannedCell(cell.key, cell.annotated_slices) for cell in whole]
    report.save_plan(Plan(study.description, study.baseline, planned, filed), output_dir)


def _task_data(
    study: Study,
    name: str,
    task: Task,
    study_folder: Path,
    output_dir: Path,
    options: StudyOptions,
    say: Callable[[str], None],
) -> TaskData:
    dataset = task_dataset.read(task, options.data_dir, study_folder)
    order, test = study_file.splits_of(task, options.data_dir, study_folder)
    order = order or [c.case_id for c in dataset.cases if c.case_id not in test]
    where = f"task {name}"
    for what, names in (("training", order), ("test", test)):
        if len(set(names)) < len(names):
            raise InputError(f"{where}: expected each {what} case once, found one twice")
    both = set(order) & set(test)
    if both:
        raise InputError(f"{where}: {sorted(both)[0]} is both a training and a test case")
    held_out = study.validation.cases if study.validation else 0
    if len(order) <= held_out + options.tuning_cases or not test:
        raise InputError(
            f"{where}: expected test cases, and more training cases than the "
            f"{held_out + options.tuning_cases} held out, found {len(test)} and {len(order)}"
        )
    folder = output_dir / "records" / name
    if options.tuning_cases:
        order, test = order[: -options.tuning_cases], order[-options.tuning_cases :]
    count = os.cpu_count() or 1
    train, tested = task_records.make(task, dataset, (order, test), folder, count, say)
    pool, validation = order[: len(order) - held_out], order[len(order) - held_out :]
    return TaskData(folder, train, tested, tuple(pool), tuple(validation))


def _base_path(base: str, study_path: Path) -> str:
    beside = study_path.parent / base
    return str(beside) if beside.exists() else base


def _check(whole: Sequence[Cell], data: dict[str, TaskData]) -> None:
    """Finds what is wrong with any cell's settings before the first of them runs for hours."""
    for cell in whole:
        settings = cells.run_settings({**cell.settings, "records_dir": ""}, str(cell.key))
        try:
            settings_module.check(settings, data[cell.key.task].train)
        except InputError as error:
            raise InputError(f"{cell.key}: {error}") from error


def _remove_stale(cell: Cell, output_dir: Path) -> None:
    """Removes what a cell of other settings left; a run that was killed is taken up again."""
    folder = output_dir / cell.key.folder
    note = folder / "fingerprint"
    if folder.is_dir() and (not note.is_file() or note.read_text("utf-8") != cell.fingerprint):
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_file(note, cell.fingerprint.encode())


def _run_cells(
    missing: Sequence[Cell],
    data: dict[str, TaskData],
    output_dir: Path,
    options: StudyOptions,
    say: Callable[[str], None],
) -> None:
    jobs = [(cell, data[cell.key.task]) for cell in missing]
    progress = _Progress(missing, say)
    failed = []
    written = time.monotonic()
    for cell, result in workers.run_all(
        jobs, output_dir, options.keep_models, options.workers, options.devices
    ):
        progress.show(cell, result)
        if isinstance(result, InputError):
            failed.append(cell)
        elif time.monotonic() > written + _SECONDS_BETWEEN_REPORTS:
            # Where --results_only writes the same files just now, the next time will do.
            with suppress(InputError):
                report.write(output_dir)
            written = time.monotonic()
    progress.close()
    if failed:
        raise InputError(f"{len(failed)} of {len(missing)} cells failed, such as {failed[0].key}")


class _Progress:
    """A bar on a terminal, a line a cell elsewhere; cells count by their steps times voxels."""

    def __init__(self, missing: Sequence[Cell], say: Callable[[str], None]) -> None:
        self._say = say
        self._count, self._done, self._work = len(missing), 0, 0.0
        self._total = sum(_work(cell) for cell in missing)
        self._started = time.monotonic()
        self._bar = None
        if sys.stderr.isatty() and missing:
            self._bar = tqdm(total=self._total, desc="study", bar_format=_BAR)

    def show(self, cell: Cell, result: Outcome | InputError) -> None:
        """Tells of a cell that has ended."""
        self._done += 1
        self._work += _work(cell)
        spent = time.monotonic() - self._started
        left = tqdm.format_interval(spent * (self._total - self._work) / self._work)
        if isinstance(result, InputError):
            text = f"failed: {result}"
        else:
            dice = result.mean_dice
            text = f"Dice {'undefined' if dice is None else f'{dice:.4f}'}, {result.seconds:.0f} s"
        line = f"{self._done}/{self._count} {cell.key}: {text}; {left} left"
        if self._bar is not None:
            self._bar.update(_work(cell))
            self._bar.clear()
        self._say(line)

    def close(self) -> None:
        """Leaves the bar as it stands."""
        if self._bar is not None:
            self._bar.close()


def _work(cell: Cell) -> float:
    return float(cell.settings.get("steps", 1))


@contextmanager
def _locked(output_dir: Path) -> Iterator[None]:
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        lock = open(output_dir / ".lock", "wb")
    except OSError as error:
        raise InputError(f"{output_dir}: cannot write there: {error.strerror}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(f"{output_dir}: another study is running there") from None
        yield
