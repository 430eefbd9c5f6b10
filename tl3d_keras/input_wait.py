"""How long training waits for its batches."""

import time
from typing import Any

import numpy as np
import tensorflow as tf


class InputWait(tf.keras.callbacks.Callback):
    """Measures what share of the time of training's steps is spent waiting for batches.

    The first step of a `fit` does not count, in which graphs are traced and the first patches are
    made; nor does what happens between epochs.
    """

    def __init__(self) -> None:
        super().__init__()
        self._waited = 0.0
        self._is_watching = False
        self._total = np.zeros(2)

    def watch(self, batches: tf.data.Dataset, strategy: tf.distribute.Strategy) -> tf.data.Dataset:
        """The same batches; how long each is waited for is added up where they are taken.

        Under a strategy that hands batches out to devices nothing is measured: threads take them
        ahead of the steps.
        """
        self._is_watching = strategy is tf.distribute.get_strategy()
        if not self._is_watching:
            return batches

        # Not `tf.timestamp`, which deterministic runs refuse.
        def ask(number: np.ndarray) -> np.ndarray:
            self._asked = time.perf_counter()
            return number

        def get(number: np.ndarray) -> np.ndarray:
            self._waited += time.perf_counter() - self._asked
            return number

        def count(number: tf.Tensor, batch: Any) -> Any:
            tf.numpy_function(get, [number], tf.int64)
            return batch

        numbers = tf.data.Dataset.range(np.iinfo(np.int64).max)
        asked = numbers.map(lambda number: tf.numpy_function(ask, [number], tf.int64))
        options = tf.data.Options()
        # Else a thread would take batches ahead, and wait for them without harm.
        options.experimental_optimization.inject_prefetch = False
        return tf.data.Dataset.zip((asked, batches)).map(count).with_options(options)

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        """Begins with a step that does not count."""
        self._counts = False

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Starts the clock."""
        self._epoch = np.zeros(2)
        self._start()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Starts the clock again after the step that does not count."""
        if self._counts:
            self._steps += 1
        else:
            self._counts = True
            self._start()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Stops the clock."""
        if self._steps and self._is_watching:
            self._epoch = self._now() - self._before
            self._total += self._epoch

    @property
    def of_epoch(self) -> float | None:
        """The share in the last epoch; None where nothing was measured."""
        return _share(self._epoch)

    @property
    def of_all(self) -> float | None:
        """The share in all epochs."""
        return _share(self._total)

    def _start(self) -> None:
        self._steps, self._before = 0, self._now()

    def _now(self) -> np.ndarray:
        """Seconds waited, and on the clock."""
        return np.array([self._waited, time.perf_counter()])


def _share(seconds: np.ndarray) -> float | None:
    waited, passed = seconds
    return float(waited / passed) if passed else None
