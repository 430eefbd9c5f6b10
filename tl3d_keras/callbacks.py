"""What happens during `fit`: progress, guard, profile, and validation with checkpoint and logs."""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import tensorflow as tf
from tqdm import tqdm

from tl3d_keras.guards import Diverged, GuardReport
from tl3d_keras.input_wait import InputWait
from tl3d_keras.run_folder import RunFolder
from tl3d_keras.training_state import TrainingState

# Reading a figure makes the host wait for the device, so it isn't done at every step.
_SECONDS_BETWEEN_LOOKS = 1.0
_BAR = "{desc}: {n_fmt}/{total_fmt} |{bar}| {remaining} left, {rate_fmt}{postfix}"


class Progress(tf.keras.callbacks.Callback):
    """A bar of the whole run on a terminal, elsewhere a line an epoch.

    Args:
        say: is given the lines.
    """

    def __init__(self, say: Callable[[str], None] = lambda _: None) -> None:
        super().__init__()
        self._say = say
        self._bar: tqdm | None = None

    def start(self, total: int, done: int) -> None:
        """Begins to count: `total` steps of the run, `done` of them by former processes."""
        self._total, self._first, self._done = total, done, done
        self._started = time.monotonic()
        if sys.stderr.isatty():
            self._bar = tqdm(
                total=total, initial=done, desc="training", unit="step", bar_format=_BAR
            )
            self._next_look = 0.0

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Starts the clock of the epoch, which leaves out validation."""
        self._epoch_started, self._epoch_steps = time.monotonic(), 0

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Counts a step."""
        self._done += 1
        self._epoch_steps += 1
        now = time.monotonic()
        self._epoch_seconds = now - self._epoch_started
        if self._bar is None:
            return
        self._bar.update()
        if now >= self._next_look:
            self._next_look = now + _SECONDS_BETWEEN_LOOKS
            self._bar.set_postfix_str(_figures(logs or {}), refresh=False)

    def show(self, row: dict[str, Any]) -> None:
        """Tells of an epoch, as a line unless there is a bar."""
        if self._bar is not None:
            self._bar.set_postfix_str(_figures(row))
            return
        seconds = time.monotonic() - self._started
        left = (self._total - self._done) * seconds / max(1, self._done - self._first)
        rate = self._epoch_steps / max(self._epoch_seconds, 1e-9)
        self._say(
            f"step {self._done}/{self._total}: {_figures(row)}, {rate:.3g} steps/s, "
            f"{tqdm.format_interval(left)} left"
        )

    def say(self, line: str) -> None:
        """Tells a line without breaking the bar."""
        if self._bar is not None:
            self._bar.clear()
        self._say(line)

    def close(self) -> None:
        """Leaves the bar as it stands."""
        if self._bar is not None:
            self._bar.close()


@dataclass(frozen=True)
class Watching:
    """How a run is watched; nothing here changes what is trained.

    Attributes:
        progress: tells the user.
        case_names: what the `case` of a batch counts.
        profile: the first and the last step of a profile for TensorBoard, counted from 1.
        histograms: whether weights are logged as histograms at every validation.
    """

    progress: Progress = field(default_factory=Progress)
    case_names: Sequence[str] = ()
    profile: tuple[int, int] | None = None
    histograms: bool = False


class Watch(tf.keras.callbacks.Callback):
    """Looks for skipped steps, now and then and at the end of every epoch.

    Where there are too many, the network gets its best weights back before the error is raised.
    """

    def __init__(self, report: GuardReport, state: TrainingState) -> None:
        super().__init__()
        self._report, self._state = report, state
        self._next_look = 0.0

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Looks if it's time."""
        if time.monotonic() >= self._next_look:
            self._look()
            self._next_look = time.monotonic() + _SECONDS_BETWEEN_LOOKS

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Looks."""
        self._look()

    def _look(self) -> None:
        try:
            self._report.check()
        except Diverged:
            if self._state.best_step:
                self._state.recall_best()
            raise


class Profiler(tf.keras.callbacks.Callback):
    """Records steps for TensorBoard's profile plugin.

    Args:
        folder: of the logs.
        first: number of the first step recorded, counted from 1 over the whole run.
        last: of the last.
        state: of the run.
    """

    def __init__(self, folder: str, first: int, last: int, state: TrainingState) -> None:
        super().__init__()
        self._folder, self._first, self._last, self._state = folder, first, last, state
        self._is_on = False

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Starts before the first step."""
        if not self._is_on and self._first == self._number(batch):
            tf.profiler.experimental.start(self._folder)
            self._is_on = True
        if self._is_on:
            # The input pipeline analysis counts by steps; Keras 3 does not mark them.
            self._step = tf.profiler.experimental.Trace("train", step_num=self._number(batch), _r=1)
            self._step.__enter__()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Stops after the last step."""
        if self._is_on:
            self._step.__exit__(None, None, None)
        if self._number(batch) >= self._last:
            self.stop()

    def _number(self, batch: int) -> int:
        return self._state.step + batch + 1

    def stop(self) -> None:
        """Writes what was recorded."""
        if self._is_on:
            tf.profiler.experimental.stop()
            self._is_on = False


class Keeper(tf.keras.callbacks.Callback):
    """After every epoch: validates, logs and, last of all, saves the checkpoint."""

    def __init__(
        self,
        folder: RunFolder,
        state: TrainingState,
        stage: str,
        validate: Callable[[], Sequence[float | None]] | None,
        structures: Sequence[str],
        watching: Watching,
        waiting: InputWait,
    ) -> None:
        super().__init__()
        self._folder = folder
        self._waiting = waiting
        self._state = state
        self._stage = stage
        self._validate = validate
        self._structures = structures
        self._watching = watching

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Ends an epoch."""
        self._state.advance(self.params["steps"])
        row: dict[str, Any] = {"step": self._state.step, "stage": self._stage}
        row |= {name: float(value) for name, value in (logs or {}).items()}
        if self._validate:
            with self._state.averaged():
                dice = self._validate()
                known = [d for d in dice if d is not None]
                mean = sum(known) / len(known) if known else 0.0
                self._state.offer(mean)
            row["validation_dice"] = mean
            row |= {
                f"validation_dice/{name}": d for name, d in zip(self._structures, dice, strict=True)
            }
        wait = self._waiting.of_epoch
        times = {} if wait is None else {"input_wait": wait}
        self._folder.log(row, self._state.weights if self._watching.histograms else {}, times)
        self._folder.save(self._state)
        self._watching.progress.show(row)


def _figures(row: dict[str, Any]) -> str:
    named = {"loss": "loss", "dice": "Dice", "validation_dice": "validation Dice"}
    return ", ".join(f"{title} {float(row[key]):.4f}" for key, title in named.items() if key in row)
