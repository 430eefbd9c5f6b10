"""Segments volumes on a server that speaks TF Serving's gRPC or REST API."""

import random
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from grpc import StatusCode

from tl3d_keras import resampling
from tl3d_keras.errors import InputError, ServerError
from tl3d_keras.serving.connections import Connection, Served, Target
from tl3d_keras.serving.statuses import StatusError
from tl3d_keras.volumes import Volume

# Messages of protocol buffers end there.
_MOST_BYTES = 2**31 - 1
# What may pass by itself: a server that starts, is full, or moves on.
_TRANSIENT = {StatusCode.UNAVAILABLE, StatusCode.ABORTED}
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 10.0

# What the sender can change: other input or flags.
_SENDERS_FAULT = {
    StatusCode.INVALID_ARGUMENT: "the server refused the scan",
    StatusCode.FAILED_PRECONDITION: "the model cannot do that; was it exported by tl3d-export?",
    StatusCode.OUT_OF_RANGE: "the server refused the scan",
    StatusCode.NOT_FOUND: "the server does not have that; see --model, --version and --label",
    StatusCode.UNIMPLEMENTED: "the server does not speak this API; see --server and --protocol",
    StatusCode.UNAUTHENTICATED: "the server wants to know who asks",
    StatusCode.PERMISSION_DENIED: "the server does not let you",
}
_SERVERS_FAULT = {
    StatusCode.UNAVAILABLE: "cannot reach the server, or it is too busy; is it running, and is "
    "--server right? tried for {wait:g} s, see --wait",
    StatusCode.DEADLINE_EXCEEDED: "no answer in time; see --timeout and the server's own limit",
    StatusCode.RESOURCE_EXHAUSTED: "too large for the server's memory or message limit",
    StatusCode.CANCELLED: "the request was cancelled",
    StatusCode.ABORTED: "the server gave the request up; tried for {wait:g} s, see --wait",
}

_Answer = TypeVar("_Answer")


def served(connection: Connection, target: Target, tell: Callable[[str], None]) -> Served:
    """What the model takes.

    Raises:
        InputError: the server has no such model, or the model no `segment` signature.
        ServerError: no answer.
    """
    return _told(target, lambda: _with_retries(connection.served, target, tell))


def segment(
    volume: Volume,
    connection: Connection,
    target: Target,
    spacing: Sequence[float] | None = None,
    tell: Callable[[str], None] = lambda line: None,
    oblique: bool = False,
) -> Volume:
    """Segments a volume on any grid.

    Args:
        volume: as read from a file.
        connection: to the server.
        target: of the connection.
        spacing: (z, y, x) in mm to resample to before sending; None sends the scan's own voxels.
        tell: is given a line for each failed attempt.
        oblique: whether the model takes oblique scans; if not, they are resampled before sending,
            for a model's axes are those of the patient.

    Returns:
        uint8 labels [Z, Y, X, 1] on exactly the grid of `volume`.

    Raises:
        InputError: the server refuses the scan, or it is too large for one message.
        ServerError: no answer, or one that does not fit the scan.
    """
    oblique = oblique and not resampling.is_aligned(volume)
    if oblique:
        seen = resampling.resample_image(volume, spacing or volume.spacing)
    else:
        seen = resampling.to_grid(volume, spacing or resampling.canonical(volume).spacing)
    direction = seen.direction if oblique else None
    image = seen.array.astype(np.float32)
    if image.nbytes > _MOST_BYTES:
        raise InputError(
            f"expected at most {_MOST_BYTES} bytes for one message, found {image.nbytes}; "
            "--spacing sends fewer voxels, experiments.segment sends none"
        )
    labels = _told(
        target,
        lambda: _with_retries(
            lambda: connection.labels(image, seen.spacing, direction), target, tell
        ),
    )
    if labels.shape != seen.shape:
        raise ServerError(
            f"{target.address}: expected labels of {seen.shape}, found {labels.shape}"
        )
    return resampling.labels_onto(seen.with_array(labels.astype(np.uint8)[..., np.newaxis]), volume)


def _with_retries(
    call: Callable[[], _Answer], target: Target, tell: Callable[[str], None]
) -> _Answer:
    """Calls until there is an answer or a failure that stays; predictions change nothing there."""
    end, pause = None, _FIRST_PAUSE
    while True:
        try:
            return call()
        except StatusError as error:
            now = time.monotonic()
            end = now + target.wait if end is None else end
            left = end - now
            if error.code not in _TRANSIENT or left <= 0:
                raise
            # Spread, so that many clients do not come back at once.
            seconds = min(left, pause * random.uniform(0.5, 1))
            tell(f"{target.address}: {error}; again in {seconds:.1f} s, for {left:.0f} s yet")
            time.sleep(seconds)
            pause = min(_LONGEST_PAUSE, 2 * pause)


def _told(target: Target, call: Callable[[], _Answer]) -> _Answer:
    """Says in one line what a status means for the sender."""
    try:
        return call()
    except StatusError as error:
        where = f"{target.address}: model {target.model}"
        if error.code in _SENDERS_FAULT:
            raise InputError(f"{where}: {_SENDERS_FAULT[error.code]} ({error})") from error
        what = _SERVERS_FAULT.get(error.code, "the server failed; its log has the reason")
        raise ServerError(f"{where}: {what.format(wait=target.wait)} ({error})") from error
