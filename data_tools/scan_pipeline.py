"""Scans one after the other: the next is read, and the last one's labels are written, meanwhile."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

from data_tools.scan_jobs import Job
from tl3d_keras import memory, volume_io
from tl3d_keras.errors import InputError
from tl3d_keras.volumes import Volume

_Result = TypeVar("_Result")


class Segmented(NamedTuple):
    """A scan whose labels are written.

    Attributes:
        volume: as read.
        labels: on its grid.
        doubts: whether it is what the model is for, in lines for the user.
    """

    volume: Volume
    labels: Volume
    doubts: list[str]


def segment_all(
    jobs: Sequence[Job],
    read: Callable[[Job], Volume],
    segment: Callable[[Job, Volume], Segmented],
    memory_gib: float | None = None,
) -> Iterator[tuple[Job, Segmented | InputError]]:
    """Segments scans and writes their labels.

    Args:
        jobs: the scans.
        read: reads one.
        segment: segments it.
        memory_gib: limit for the process; without one up to three scans are in memory at a time.

    Yields:
        Each scan in turn, once its labels are written or it failed.
    """
    overlapped = memory_gib is None

    def within(call: Callable[..., _Result], job: Job, *rest: Any) -> _Result:
        try:
            return call(job, *rest)
        except Exception as error:
            if not memory.ran_out(error):
                raise
        # Beyond that block nothing holds what the call had made.
        raise _out_of_memory(job, memory_gib)

    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        coming: Future[Volume] | None = None
        last: tuple[Job, Future[Segmented]] | None = None
        for number, job in enumerate(jobs, start=1):
            current = coming or reader.submit(within, read, job)
            coming = None
            try:
                volume = current.result()
                if overlapped and number < len(jobs):
                    coming = reader.submit(within, read, jobs[number])
                found = within(segment, job, volume)
            except InputError as error:
                if last:
                    yield _written(*last)
                    last = None
                yield job, error
                continue
            if last:
                yield _written(*last)
            last = job, writer.submit(within, _write, job, found)
            # What is written needs no second name for its memory here.
            del current, volume, found
            if not overlapped:
                yield _written(*last)
                last = None
        if last:
            yield _written(*last)


def _write(job: Job, found: Segmented) -> Segmented:
    volume_io.write(job.output, found.labels)
    return found


def _written(job: Job, future: Future[Segmented]) -> tuple[Job, Segmented | InputError]:
    try:
        return job, future.result()
    except InputError as error:
        return job, error


def _out_of_memory(job: Job, memory_gib: float | None) -> InputError:
    limit = memory_gib or (memory.resident_memory() + memory.available_memory()) / 2**30
    return InputError(
        f"{job.files[0]}: out of memory; try --memory_gib={max(limit / 2, 0.01):.2g}, for smaller "
        "tiles and one scan at a time"
    )
