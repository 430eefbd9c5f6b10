"""The versions of one model: which of the folder's are served, and how they change under load."""

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grpc import StatusCode

from tl3d_keras import artifact
from tl3d_keras.errors import InputError
from tl3d_keras.serving.loaded_version import LoadedVersion
from tl3d_keras.serving.protos import get_model_status_pb2
from tl3d_keras.serving.statuses import StatusError

_State = get_model_status_pb2.ModelVersionStatus


@dataclass
class _Held:
    """A version in memory.

    Attributes:
        loaded: the version.
        requests: how many it is answering.
        is_retired: whether the last of them frees it.
    """

    loaded: LoadedVersion
    requests: int = 0
    is_retired: bool = False


class ModelVersions:
    """Loads the versions that a model's configuration asks for, and lets others go.

    A new version takes requests once it is loaded and warm; only then do the former ones get no
    new requests, and each is freed by the last request that it still answers.

    Args:
        config: a `ModelConfig` of TF Serving.
        max_bytes: the most that a tensor of a request may take.
        tell: is given a line for each change.
    """

    def __init__(self, config: Any, max_bytes: int, tell: Callable[[str], None]) -> None:
        self.name = config.name
        self._folder = Path(config.base_path)
        self._policy = config.model_version_policy
        self._labels = dict(config.version_labels)
        self._max_bytes = max_bytes
        self._tell = tell
        self._lock = threading.Lock()
        self._held: dict[int, _Held] = {}
        self._states: dict[int, Any] = {}
        self._failed: dict[int, tuple] = {}

    def refresh(self) -> None:
        """Brings what is loaded in line with the folder; called by one thread at a time."""
        wanted = self._wanted()
        for number in wanted:
            if number not in self._available():
                self._load(number)
        available = self._available()
        # Where nothing of what is wanted can be served, what is served stays.
        if any(number in available for number in wanted):
            for number in available:
                if number not in wanted:
                    self._retire(number)

    @contextmanager
    def version(self, number: int | None, label: str | None) -> Iterator[tuple[int, LoadedVersion]]:
        """Holds a version while a request runs; the highest where neither is given.

        Raises:
            StatusError: NOT_FOUND.
        """
        with self._lock:
            found = self._find(number, label)
            held = self._held[found]
            held.requests += 1
        try:
            yield found, held.loaded
        finally:
            with self._lock:
                held.requests -= 1
                self._free(found, held)

    def statuses(self, number: int | None, label: str | None) -> list[Any]:
        """The `ModelVersionStatus` of all versions, or of one, newest first.

        Raises:
            StatusError: NOT_FOUND.
        """
        with self._lock:
            if label is not None:
                number = self._find(None, label)
            if number is not None and number not in self._states:
                raise self._not_found(f"version {number}")
            chosen = sorted(self._states, reverse=True) if number is None else [number]
            return [self._states[n] for n in chosen]

    def close(self) -> None:
        """Lets all versions go."""
        for number in self._available():
            self._retire(number)

    def _find(self, number: int | None, label: str | None) -> int:
        if label is not None:
            if label not in self._labels:
                raise self._not_found(f"label {label!r}")
            number = self._labels[label]
        available = self._available()
        if number is None:
            if not available:
                raise self._not_found("version that can be served")
            return max(available)
        if number not in available:
            raise self._not_found(f"version {number}")
        return number

    def _not_found(self, what: str) -> StatusError:
        available = sorted(self._available()) or "none"
        return StatusError(
            StatusCode.NOT_FOUND, f"model {self.name}: no {what}; versions served: {available}"
        )

    def _available(self) -> list[int]:
        return [n for n, status in list(self._states.items()) if status.state == _State.AVAILABLE]

    def _wanted(self) -> list[int]:
        """The versions of the folder that the policy names, oldest first."""
        try:
            found = artifact.versions(self._folder)
        except OSError:
            return []
        present = [number for number in found if (self._folder / str(number)).is_dir()]
        kind = self._policy.WhichOneof("policy_choice")
        if kind == "all":
            return present
        if kind == "specific":
            return [number for number in present if number in self._policy.specific.versions]
        return present[-max(1, self._policy.latest.num_versions) :]

    def _load(self, number: int) -> None:
        folder = self._folder / str(number)
        files = _fingerprint(folder)
        if self._failed.get(number) == files:
            return
        self._set(number, _State.LOADING)
        try:
            loaded = LoadedVersion(folder, self._max_bytes)
        except InputError as error:
            # Tried again when the folder has changed: it may have been half copied.
            self._failed[number] = files
            self._set(number, _State.END, StatusCode.UNKNOWN, str(error))
            self._tell(f"model {self.name}: {error}")
            return
        self._failed.pop(number, None)
        with self._lock:
            self._held[number] = _Held(loaded)
            self._set(number, _State.AVAILABLE)
        self._tell(f"model {self.name}: version {number} is served")

    def _retire(self, number: int) -> None:
        with self._lock:
            held = self._held[number]
            held.is_retired = True
            self._set(number, _State.UNLOADING)
            self._free(number, held)
        self._tell(f"model {self.name}: version {number} takes no new requests")

    def _free(self, number: int, held: _Held) -> None:
        if not held.is_retired or held.requests:
            return
        held.loaded.close()
        # A version of that number may have come back meanwhile.
        if self._held.get(number) is held:
            del self._held[number]
            if self._states[number].state == _State.UNLOADING:
                self._set(number, _State.END)

    def _set(
        self, number: int, state: int, code: StatusCode = StatusCode.OK, message: str = ""
    ) -> None:
        status = get_model_status_pb2.ModelVersionStatus(version=number, state=state)
        status.status.error_code, status.status.error_message = code.value[0], message
        self._states[number] = status


def _fingerprint(folder: Path) -> tuple:
    """Changes with any file of the folder."""
    found: list[tuple] = []
    for path in folder.rglob("*"):
        try:
            stat = path.stat()
        except OSError:
            found.append((str(path), math.nan))
        else:
            found.append((str(path), stat.st_size, stat.st_mtime_ns))
    return tuple(sorted(found))
