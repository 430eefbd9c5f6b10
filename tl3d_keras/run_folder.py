"""A training run's folder: checkpoints to resume from, metrics.csv, TensorBoard, run.json."""

import fcntl
import json
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import tensorflow as tf

from tl3d_keras import __version__, metrics_csv, run_json
from tl3d_keras.devices import keras_version
from tl3d_keras.errors import InputError
from tl3d_keras.training_state import TrainingState
from tl3d_keras.whole_folder import write_file

_SUFFIX = ".step_"


class RunFolder:
    """Opens a run's folder, new or to be resumed; one process at a time.

    Args:
        path: of the folder.
        settings: what makes two runs the same, as JSON values.
        follows: whether another worker of a cluster writes the folder; this one then only reads
            its checkpoints, and what it writes itself is thrown away.

    Raises:
        InputError: another process uses the folder, or it holds a run of other settings.
    """

    def __init__(
        self, path: str | os.PathLike, settings: Mapping[str, Any], follows: bool = False
    ) -> None:
        self._shared = self.path = Path(path)
        self._own = tempfile.TemporaryDirectory() if follows else None
        if self._own:
            self.path = Path(self._own.name)
        self._started = time.monotonic()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = open(self.path / ".lock", "wb")
        except OSError as error:
            raise InputError(f"{self.path}: cannot write there: {error.strerror}") from error
        mine = json.loads(json.dumps(settings))
        try:
            _lock(self._lock, self.path)
            former = run_json.read(self._shared, mine)
        except InputError:
            self._lock.close()
            raise
        self._run: dict[str, Any] = former or {"settings": mine}
        self._run.setdefault("seconds", 0.0)
        self._run["versions"] = {
            "tl3d_keras": __version__,
            "tensorflow": tf.__version__,
            "keras": keras_version(),
            "numpy": np.__version__,
        }
        self._pictures: dict[str, bytes] = {}

    @property
    def is_done(self) -> bool:
        """Whether the run had ended before."""
        return bool(self._run.get("done"))

    @property
    def logs(self) -> Path:
        """TensorBoard's folder."""
        return self.path / "logs"

    def close(self) -> None:
        """Lets another process use the folder."""
        self._lock.close()
        if self._own:
            self._own.cleanup()

    def note(self, **values: Any) -> None:
        """Adds entries to run.json, with the seconds and the peak memory up to now."""
        self._run |= values
        now = time.monotonic()
        self._run["seconds"] = round(self._run["seconds"] + now - self._started, 1)
        self._started = now
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        self._run["peak_memory_gib"] = round(
            max(peak / 2**30, self._run.get("peak_memory_gib", 0.0)), 2
        )
        write_file(self.path / run_json.FILE_NAME, f"{json.dumps(self._run, indent=1)}\n".encode())

    def noted(self, name: str, default: Any) -> Any:
        """An entry of run.json, of this process or of one before it."""
        return self._run.get(name, default)

    def restore(self, state: TrainingState) -> None:
        """Restores the last checkpoint, if there is one, and drops what was logged after it.

        Raises:
            InputError: the checkpoint or metrics.csv is damaged.
        """
        latest = _last_checkpoint(self._shared / "checkpoints")
        if latest:
            state.checkpoint().restore(latest).expect_partial()
        rows = [row for row in self._rows() if self._step(row) <= state.step]
        if rows:
            metrics_csv.write(self.path, rows)
        else:
            (self.path / metrics_csv.FILE_NAME).unlink(missing_ok=True)
        for events in self.logs.glob(f"*{_SUFFIX}*"):
            step = events.name.rpartition(_SUFFIX)[2]
            if step.isdecimal() and int(step) > state.step:
                events.unlink()
        skipped = self._run.get("skipped_steps", [])
        self._run["skipped_steps"] = [entry for entry in skipped if entry["step"] <= state.step]

    def save(self, state: TrainingState) -> None:
        """Saves a checkpoint; the former one goes when this one is whole."""
        path = self.path / "checkpoints"
        manager = tf.train.CheckpointManager(state.checkpoint(), str(path), max_to_keep=1)
        try:
            manager.save(checkpoint_number=state.step)
        except tf.errors.OpError as error:
            _drop_unfinished(path, state.step)
            raise InputError(f"{path}: cannot write: {error.message}") from error
        self.note()

    def note_skipped(self, step: int, cases: Sequence[str]) -> None:
        """Adds a step that was not taken, with its cases, to run.json."""
        self._run.setdefault("skipped_steps", []).append({"step": step, "cases": list(cases)})
        self.note()

    def add_picture(self, name: str, png: bytes) -> None:
        """Keeps a picture for the next `log`."""
        self._pictures[name] = png

    def log(
        self,
        row: Mapping[str, Any],
        histograms: Mapping[str, tf.Variable] | None = None,
        times: Mapping[str, float] | None = None,
    ) -> None:
        """Adds a row to metrics.csv, and its numbers, pictures and histograms to TensorBoard.

        `times` go to TensorBoard alone, for no two runs have the same.

        Every row has an events file of its own, so that `restore` can drop what a killed run
        logged after its last checkpoint.
        """
        written = {name: "" if value is None else value for name, value in row.items()}
        metrics_csv.write(self.path, [*self._rows(), written])
        for index, png in enumerate(self._pictures.values()):
            write_file(self.path / "pictures" / f"{index}.png", png)
        try:
            self._write_events({**row, **(times or {})}, histograms or {})
        except tf.errors.OpError as error:
            raise InputError(f"{self.logs}: cannot write: {error.message}") from error
        self._pictures = {}

    def _write_events(self, row: Mapping[str, Any], histograms: Mapping[str, tf.Variable]) -> None:
        step = int(row["step"])
        writer = tf.summary.create_file_writer(
            str(self.logs), filename_suffix=f"{_SUFFIX}{step:09d}"
        )
        with writer.as_default(step=step):
            for name, value in row.items():
                if isinstance(value, float):
                    tf.summary.scalar(name, value)
            for name, png in self._pictures.items():
                tf.summary.image(f"validation/{name}", tf.io.decode_png(png, 3)[tf.newaxis])
            for name, variable in histograms.items():
                tf.summary.histogram(name, variable)
        writer.close()

    def _rows(self) -> list[dict[str, str]]:
        there = (self.path / metrics_csv.FILE_NAME).is_file()
        return metrics_csv.read(self.path) if there else []

    def _step(self, row: Mapping[str, str]) -> int:
        try:
            return int(row["step"])
        except (KeyError, ValueError) as error:
            raise InputError(
                f"{self.path / metrics_csv.FILE_NAME}: expected rows with a step, as a training "
                f"run writes them, found {row}"
            ) from error


def _lock(file: BinaryIO, path: Path) -> None:
    """Holds a folder by a file in it until that closes, as it does at any death."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise InputError(f"{path}: another run is writing there") from error


def _last_checkpoint(folder: Path) -> str | None:
    """The last checkpoint of a folder, looked through lest a damaged one is restored by half."""
    try:
        found = tf.train.get_checkpoint_state(str(folder))
        if not found:
            return None
        reader = tf.train.load_checkpoint(found.model_checkpoint_path)
        for name in reader.get_variable_to_shape_map():
            reader.get_tensor(name)
    except (tf.errors.OpError, ValueError, IndexError) as error:
        raise InputError(
            f"{folder}: expected the last checkpoint of the run, found it damaged or incomplete; "
            "without that folder the run starts anew"
        ) from error
    return found.model_checkpoint_path


def _drop_unfinished(folder: Path, step: int) -> None:
    for path in folder.glob(f"ckpt-{step}*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
