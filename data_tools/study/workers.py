"""Processes that run cells, one a device, each with TensorFlow imported once for many cells.

What imports TensorFlow is imported late here, for a worker gets its device and its threads first.
"""

import os
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TYPE_CHECKING

from data_tools.command import load_tensorflow
from data_tools.process_pool import SpawnedPool
from data_tools.study.task_records import TaskData
from tl3d_keras.errors import InputError
from tl3d_keras.study.outcome import Outcome

if TYPE_CHECKING:
    from data_tools.study.cells import Cell

# TensorFlow keeps some 50 MB of every network that it has traced.
_CELLS_A_PROCESS = 20
_SECONDS_BETWEEN_LOOKS = 0.5


def run_all(
    jobs: Sequence[tuple["Cell", TaskData]],
    folder: Path,
    keep_models: bool,
    workers: int,
    devices: Sequence[str] = (),
) -> Iterator[tuple["Cell", Outcome | InputError]]:
    """Runs cells and yields each as it is done, or with the error that ended it.

    Args:
        jobs: cells with their tasks' data, in the order in which they begin.
        folder: of the study.
        keep_models: see `cell_run.run_cell`.
        workers: processes; 0: this one.
        devices: numbers of the GPUs; the workers share them in turn.

    Raises:
        InputError: a worker was killed.
    """
    if not workers:
        for cell, data in jobs:
            yield cell, _run(cell, data, folder, keep_models)
        return
    waiting = iter(jobs)
    workers = min(workers, len(jobs))
    pools = [
        _Worker(devices[number % len(devices)] if devices else None, workers)
        for number in range(workers)
    ]
    running: dict[Future, tuple[_Worker, Cell]] = {}
    try:
        while True:
            busy = [worker for worker, _ in running.values()]
            idle = [worker for worker in pools if worker not in busy]
            # Idle workers first: once they are used up, no job is taken from those that wait.
            for worker, (cell, data) in zip(idle, waiting, strict=False):
                running[worker.submit(cell, data, folder, keep_models)] = worker, cell
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                _, cell = running.pop(future)
                yield cell, future.result()
    except BrokenProcessPool as error:
        raise InputError(
            "a worker was killed, most likely for lack of memory: lower --workers; the same "
            "command again goes on with the study"
        ) from error
    finally:
        for worker in pools:
            worker.close()


class _Worker:
    """A process, replaced by a new one now and then."""

    def __init__(self, device: str | None, workers: int) -> None:
        self._arguments = device, workers
        self._done = 0
        self._pool = self._new_pool()

    def submit(self, cell: "Cell", data: TaskData, folder: Path, keep_models: bool) -> Future:
        """Starts a cell; the former one has ended."""
        if self._done == _CELLS_A_PROCESS:
            self.close()
            self._done, self._pool = 0, self._new_pool()
        self._done += 1
        return self._pool.submit(_run, cell, data, folder, keep_models)

    def close(self) -> None:
        """Ends the process after its cell."""
        self._pool.shutdown(cancel_futures=True)

    def _new_pool(self) -> SpawnedPool:
        return SpawnedPool(1, _start, self._arguments)


def _start(device: str | None, workers: int) -> None:
    """Gives a process its device, or its share of the processors, before TensorFlow starts."""
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = device
    elif workers > 1:
        threads = str(max(1, (os.cpu_count() or 1) // workers))
        for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS"):
            os.environ.setdefault(name, threads)
    threading.Thread(target=_die_with, args=(os.getppid(),), daemon=True).start()
    load_tensorflow()
    import tensorflow as tf

    # Every cell is a network of its own, so that TensorFlow warns of tracing anew.
    tf.get_logger().setLevel("ERROR")


def _die_with(parent: int) -> None:
    """Ends this process once its parent is gone, lest it writes where the next study runs."""
    while os.getppid() == parent:
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    os._exit(1)


def _run(cell: "Cell", data: TaskData, folder: Path, keep_models: bool) -> Outcome | InputError:
    from data_tools.study.cell_run import run_cell

    try:
        return run_cell(cell, data, folder, keep_models)
    except InputError as error:
        # The others of a study do not suffer for one.
        return error
