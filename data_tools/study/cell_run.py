"""One cell of a study, in whichever process: its records, its training, its scores."""

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path

import numpy as np
import tensorflow as tf

from data_tools.study.cells import Cell, run_settings
from data_tools.study.task_records import TaskData, write_cell_records
from tl3d_keras import (
    artifact,
    devices,
    evaluation,
    manifest,
    metrics_csv,
    stored_case,
    training_run,
)
from tl3d_keras.inference import Segmenter
from tl3d_keras.manifest import Manifest
from tl3d_keras.run_settings import RunSettings
from tl3d_keras.stored_case import StoredCase
from tl3d_keras.study import outcome
from tl3d_keras.study.outcome import Outcome

# Checkpoints cost as much as several steps, and a killed cell loses no more than these.
_STEPS_PER_CHECKPOINT = 500


def run_cell(cell: Cell, data: TaskData, folder: Path, keep_models: bool) -> Outcome:
    """Trains and scores a cell, and writes into the study's folder that it is done.

    Args:
        cell: to be run.
        data: of its task.
        folder: of the study.
        keep_models: whether the model's artifact stays.

    Raises:
        InputError: settings that do not fit the records or the base, or a run that diverged.
    """
    started = time.monotonic()
    tf.keras.backend.clear_session()
    place = folder / cell.key.folder
    records_dir, run_dir = place / "records", place / "run"
    write_cell_records(records_dir, data, cell.cases, cell.key.slices, cell.draw_seed)
    values = {"steps_per_epoch": _STEPS_PER_CHECKPOINT, **cell.settings}
    settings = run_settings({**values, "records_dir": str(records_dir)}, str(cell.key))
    _drop_other_run(run_dir, settings)
    model = training_run.run(settings, run_dir, report=False)
    scores = score(model, settings, data, cell.scores == "all")
    found = Outcome(cell.key, scores, _curve(run_dir), time.monotonic() - started)
    _remove_parts(place, keep_models)
    outcome.write(found, cell.fingerprint, folder)
    return found


def _drop_other_run(run_dir: Path, settings: RunSettings) -> None:
    """Removes what a killed cell left if an other version of this package began it."""
    path = run_dir / "run.json"
    if not path.is_file():
        return
    mine = json.loads(json.dumps(asdict(settings)))
    former = json.loads(path.read_text("utf-8"))["settings"]
    if any(former.get(name) != value for name, value in mine.items()):
        shutil.rmtree(run_dir)


def score(
    model: Path, settings: RunSettings, data: TaskData, surfaces: bool
) -> dict[str, dict[str, evaluation.Scores]]:
    """The scores of a run's model by test case and structure.

    Args:
        model: artifact of the run.
        settings: of the run.
        data: of the task.
        surfaces: whether surface distances are measured.
    """
    precision = devices.choose_precision(settings.precision)
    network, info = artifact.load(model, dtype=precision)
    segmenter = Segmenter(network, info.intensity, patch_size=info.patch_size)
    scores = {}
    names = dict(enumerate(data.test.structures, start=1))
    for case in _test_cases(data.folder / "test", data.test.fingerprint):
        predicted = segmenter.labels(case.image.array.astype(np.float32))
        annotated = [names[number] for number in case.annotated]
        scores[case.case_id] = evaluation.evaluate_case(
            predicted, case.labels, case.image.spacing, names, annotated, surfaces
        )
    return scores


@lru_cache(maxsize=1)
def _test_cases(records_dir: Path, fingerprint: str) -> Sequence[StoredCase]:
    """The test cases of a task, which all of its cells are scored on."""
    found: Manifest = manifest.load(records_dir)
    return [stored_case.read(records_dir, found, case) for case in found.cases]


def _curve(run_dir: Path) -> list[tuple[int, float]]:
    return [
        (int(row["step"]), float(row["validation_dice"]))
        for row in metrics_csv.read(run_dir)
        if row.get("validation_dice")
    ]


def _remove_parts(place: Path, keep_models: bool) -> None:
    shutil.rmtree(place / "records", ignore_errors=True)
    for name in ("checkpoints", "logs", "pictures", *(() if keep_models else ("model",))):
        shutil.rmtree(place / "run" / name, ignore_errors=True)
