"""Named pipes, sockets and devices among the files of a folder, which nobody should open."""

import os
import stat

from tl3d_keras.errors import InputError

_KINDS = (
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def check(path: str | os.PathLike) -> None:
    """Raises an `InputError` for a named pipe, a socket or a device; links count for their targets.

    To open a pipe to which nobody writes would take for ever, and a device may never end.
    """
    try:
        mode = os.stat(path).st_mode
    except OSError:
        # Whoever opens it says why that cannot be.
        return
    for is_kind, name in _KINDS:
        if is_kind(mode):
            raise InputError(f"{path}: expected a file, found {name}")
