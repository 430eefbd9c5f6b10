"""Cases prepared in parallel, in order, within a budget of memory."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from functools import partial

from data_tools.plan import PlannedCase
from data_tools.prepare import PreparedCase, Settings, SkippedCase, prepare
from data_tools.process_pool import SpawnedPool
from tl3d_keras.errors import InputError

# Measured peaks, rounded up: of this process with TensorFlow, of a worker with SimpleITK and SciPy,
# and of one case per voxel and channel; benchmarks/shard_memory.py shows that they suffice.
PARENT_BYTES, WORKER_BYTES = 600 << 20, 160 << 20
_BYTES_PER_FILE_VOXEL, _BYTES_PER_RECORD_VOXEL = 24, 24
# Starting processes costs more than a few small cases.
_MIN_VOXELS_FOR_POOL = 20_000_000


def prepare_all(
    cases: Sequence[PlannedCase], settings: Settings, workers: int, memory_bytes: int
) -> Iterator[PreparedCase | SkippedCase]:
    """Yields the prepared cases in order.

    As many are in work or waiting as fit `memory_bytes`, at most `workers` + 1.

    Raises:
        InputError: the largest case alone does not fit.
    """
    channels = len(settings.dataset.channels)
    sizes = [case_memory(case, channels) for case in cases]
    if not cases:
        return
    budget = memory_bytes - PARENT_BYTES
    largest = max(sizes)
    workers = min(workers, len(cases), max(1, budget // (WORKER_BYTES + largest)))
    alone = workers == 1 or sum(_voxels(case.header.shape) for case in cases) < _MIN_VOXELS_FOR_POOL
    if largest + (0 if alone else WORKER_BYTES * workers) > budget:
        case = cases[sizes.index(largest)]
        raise InputError(
            f"{case.source.images[0]}: expected a case that fits --memory_gib="
            f"{memory_bytes / 2**30:.2f}, found one that takes about "
            f"{(PARENT_BYTES + largest) / 2**30:.2f} GiB"
        )
    work = partial(prepare, settings=settings)
    if alone:
        yield from map(work, cases)
        return
    budget -= WORKER_BYTES * workers
    with SpawnedPool(workers) as pool:
        pending: deque[tuple[int, Future]] = deque()
        try:
            for case, size in zip(cases, sizes, strict=True):
                while pending and (
                    len(pending) > workers or size + sum(s for s, _ in pending) > budget
                ):
                    yield pending.popleft()[1].result()
                pending.append((size, pool.submit(work, case)))
            while pending:
                yield pending.popleft()[1].result()
        except BrokenProcessPool as error:
            raise InputError(
                "a worker was killed, most likely for lack of memory: lower --memory_gib or "
                "--workers; whole shards are kept"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def case_memory(case: PlannedCase, channels: int) -> int:
    """Upper bound of the bytes that preparing a case takes."""
    return channels * (
        _BYTES_PER_FILE_VOXEL * _voxels(case.header.shape)
        + _BYTES_PER_RECORD_VOXEL * _voxels(case.shape)
    )


def _voxels(shape: Sequence[int]) -> int:
    z, y, x = shape
    return z * y * x
