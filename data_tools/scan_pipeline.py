"""Scans one after the other: the next is read, and the last one's labels are written, meanwhile."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from data_tools.scan_jobs import Job
from tl3d_keras import volume_io
from tl3d_keras.errors import InputError
from tl3d_keras.volumes import Volume


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
    overlapped: bool = True,
) -> Iterator[tuple[Job, Segmented | InputError]]:
    """Segments scans and writes their labels.

    Args:
        jobs: the scans.
        read: reads one.
        segment: segments it.
        overlapped: whether up to three scans may be in memory at a time.

    Yields:
        Each scan in turn, once its labels are written or it failed.
    """
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        coming: Future[Volume] | None = None
        last: tuple[Job, Future[Segmented]] | None = None
        for number, job in enumerate(jobs, start=1):
            current = coming or reader.submit(read, job)
            coming = None
            try:
                volume = current.result()
                if overlapped and number < len(jobs):
                    coming = reader.submit(read, jobs[number])
                found = segment(job, volume)
            except InputError as error:
                if last:
                    yield _written(*last)
                    last = None
                yield job, error
                continue
            if last:
                yield _written(*last)
            last = job, writer.submit(_write, job, found)
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
