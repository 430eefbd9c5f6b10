"""Pools of processes that end with their command, and leave it to say so."""

import signal
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any


class SpawnedPool(ProcessPoolExecutor):
    """Spawned processes that Ctrl-C ends at once and without tracebacks.

    A forked child of a process that holds TensorFlow's threads may hang; a spawned one cannot.
    """

    def __init__(
        self,
        workers: int,
        initializer: Callable[..., None] | None = None,
        initargs: tuple[Any, ...] = (),
    ) -> None:
        super().__init__(
            workers,
            mp_context=get_context("spawn"),
            initializer=_begin,
            initargs=(initializer, initargs),
        )

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
        """As that of the base class, whose processes start here."""
        # They inherit what is blocked, and hold Ctrl-C back while they import.
        former = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            return super().submit(fn, *args, **kwargs)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, former)


def _begin(initializer: Callable[..., None] | None, initargs: tuple[Any, ...]) -> None:
    # Ignored is it in what a shell runs in the background.
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    if initializer:
        initializer(*initargs)
