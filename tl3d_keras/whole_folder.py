"""Folders and files that appear when whole: built beside their place, then renamed into it."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tl3d_keras.errors import InputError

_WRITING = ".writing-"


@contextmanager
def whole_folder(
    path: str | os.PathLike, overwrite: bool = False, resume: bool = False
) -> Iterator[Path]:
    """Yields a temporary folder that becomes `path` when the block ends without an error.

    What a killed run left behind is removed at the next call, or with `resume` yielded again, as is
    what an error left. With `overwrite` the former folder stays until the new one is whole.

    Raises:
        InputError: `path` holds files and `overwrite` is off, is a mounted folder, the place cannot
            be written, or another process is building there.
    """
    check_free(path, overwrite)
    # A link stays, and a folder has a name even where it is given as `.`.
    path, given = Path(path).resolve(), path
    if os.path.ismount(path):
        raise InputError(
            f"{given}: expected a folder that can be replaced, found a mounted one; name a folder "
            "inside it"
        )
    building = path.parent / f".{path.name}.building"
    former = path.parent / f".{path.name}.former"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if former.exists() and not path.exists():
            former.rename(path)
        shutil.rmtree(former, ignore_errors=True)
        building.mkdir(exist_ok=True)
        lock = os.open(building, os.O_RDONLY)
    except OSError as error:
        raise InputError(f"{given}: cannot write there: {error.strerror}") from error
    try:
        _lock(lock, given)
        if not resume:
            _empty(building)
        try:
            yield building
            if path.exists():
                path.rename(former)
            building.rename(path)
        except BaseException:
            if not resume or not any(building.iterdir()):
                shutil.rmtree(building, ignore_errors=True)
            raise
    finally:
        os.close(lock)
    shutil.rmtree(former, ignore_errors=True)


def _lock(descriptor: int, path: str | os.PathLike) -> None:
    """Holds a folder for this process until the descriptor closes, as it does at any death."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise InputError(f"{path}: another process is writing it") from None


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


@contextmanager
def passing_folder(place: str | os.PathLike) -> Iterator[Path]:
    """Yields a hidden folder in `place` that ends with the block.

    What killed processes left of theirs is removed before.

    Raises:
        OSError: it cannot be made there.
    """
    for path in Path(place).glob(f"{_WRITING}*"):
        _remove_abandoned(path)
    path, lock = _new_locked(place)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(lock)


def _remove_abandoned(path: Path) -> None:
    # What is gone by now, another user's or locked by a living process stays as it is.
    with suppress(OSError):
        lock = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path, ignore_errors=True)
        finally:
            os.close(lock)


def _new_locked(place: str | os.PathLike) -> tuple[Path, int]:
    while True:
        path = Path(tempfile.mkdtemp(prefix=_WRITING, dir=place))
        # Another process may take it for abandoned before it is locked.
        with suppress(FileNotFoundError):
            lock = os.open(path, os.O_RDONLY)
            if _is_ours(lock) and path.exists():
                return path, lock
            os.close(lock)


def _is_ours(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        # A file system without locks, where nobody takes it for abandoned either.
        pass
    return True


def write_file(path: str | os.PathLike, content: bytes) -> None:
    """Writes a file, making its folder.

    Raises:
        InputError: it cannot be written; what was there before stays.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.writing")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise InputError(f"{path}: cannot write: {error.strerror}") from error


def check_writable(path: str | os.PathLike) -> None:
    """Raises an `InputError` unless a file `path` could be written now; leaves nothing behind."""
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path}: cannot write: expected a file, found a folder")
    place = path.parent
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise InputError(f"{path}: cannot write: {error.strerror}") from error


def check_free(path: str | os.PathLike, overwrite: bool = False) -> None:
    """Raises an `InputError` if `path` is a file, or holds files and `overwrite` is off."""
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise InputError(f"{path}: expected a folder, found a file")
    if path.is_dir() and any(path.iterdir()) and not overwrite:
        raise InputError(
            f"{path}: expected a new or empty folder, found files in it; --overwrite replaces it"
        )
