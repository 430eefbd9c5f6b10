"""Processes that run cells, one a device, each with TensorFlow imported once.

What imports TensorFlow is imported late here, for a worker gets its device and its threads first.
"""

import os
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from data_tools.command import load_tensorflow
from data_tools.study.task_records import TaskData
from tl3d_keras.errors import InputError
from tl3d_keras.study.outcome import Outcome

if TYPE_CHECKING:
    from data_tools.study.cells import Cell

Result = tuple["Cell", Outcome | InputError]
_SECONDS_BETWEEN_LOOKS = 0.5
_Item = TypeVar("_Item")


def run_all(
    jobs: Sequence[tuple["Cell", TaskData]],
    folder: Path,
    keep_models: bool,
    workers: int,
    devices: Sequence[str],
) -> Iterator[Result]:
    """Runs cells and yields each as it is done, or the error that ended it.

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
    context = get_context("spawn")
    numbers: SimpleQueue = context.SimpleQueue()
    workers = min(workers, len(jobs))
    for number in range(workers):
        numbers.put((devices[number % len(devices)] if devices else None, workers))
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start, initargs=(numbers,))
    with pool:
        try:
            waiting = iter(jobs)
            running: dict[Future, Cell] = {}
            while True:
                for cell, data in _first(waiting, workers - len(running)):
                    running[pool.submit(_run, cell, data, folder, keep_models)] = cell
                if not running:
                    return
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    yield running.pop(future), future.result()
        except BrokenProcessPool as error:
            raise InputError(
                "a worker was killed, most likely for lack of memory: lower --workers; the same "
                "command again goes on with the study"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _first(items: Iterator[_Item], count: int) -> list[_Item]:
    return [item for _, item in zip(range(count), items, strict=False)]


def _start(numbers: SimpleQueue) -> None:
    """Gives a worker its device, or its share of the processors, before TensorFlow starts."""
    device, workers = numbers.get()
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
