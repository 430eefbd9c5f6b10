"""What both APIs of the local server ask: predictions, status and signatures of its models."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from google.protobuf import text_format
from grpc import StatusCode

from tl3d_keras.errors import InputError
from tl3d_keras.serving.loaded_version import ReadInputs
from tl3d_keras.serving.model_versions import ModelVersions
from tl3d_keras.serving.protos import model_server_config_pb2
from tl3d_keras.serving.statuses import StatusError


class Which(NamedTuple):
    """A model, and a version or label of it; the highest version where neither is given."""

    model: str
    version: int | None = None
    label: str | None = None


class ServedModels:
    """All models of a server; a thread looks for new versions until `close`.

    Args:
        configs: `ModelConfig`s of TF Serving.
        max_bytes: the most that a tensor of a request may take.
        poll_seconds: between two looks at the folders.
        tell: is given a line for each change.

    Raises:
        InputError: a model has no version that can be served.
    """

    def __init__(
        self,
        configs: Sequence[Any],
        max_bytes: int,
        poll_seconds: float,
        tell: Callable[[str], None],
    ) -> None:
        self.max_bytes = max_bytes
        self._models = {config.name: ModelVersions(config, max_bytes, tell) for config in configs}
        self._tell = tell
        self._closed = threading.Event()
        for config in configs:
            model = self._models[config.name]
            model.refresh()
            _check_served(model, config.base_path)
        self._thread = threading.Thread(target=self._poll, args=(poll_seconds,), daemon=True)
        self._thread.start()

    def predict(
        self,
        which: Which,
        signature: str,
        read_inputs: ReadInputs,
        wanted: Sequence[str] = (),
        timeout: float | None = None,
    ) -> tuple[int, dict[str, np.ndarray]]:
        """Runs a signature; gives the version that ran, and its outputs by name.

        Raises:
            StatusError: with the code that TF Serving gives.
        """
        with self._model(which).version(which.version, which.label) as (number, loaded):
            return number, loaded.predict(signature, read_inputs, wanted, timeout)

    def signatures(self, which: Which) -> tuple[int, dict[str, Any]]:
        """The version and its `SignatureDef`s by name."""
        with self._model(which).version(which.version, which.label) as (number, loaded):
            return number, dict(loaded.signatures)

    def statuses(self, which: Which) -> list[Any]:
        """The `ModelVersionStatus` of a model's versions."""
        return self._model(which).statuses(which.version, which.label)

    def close(self) -> None:
        """Ends the look-out and frees the models."""
        self._closed.set()
        self._thread.join()
        for model in self._models.values():
            model.close()

    def _model(self, which: Which) -> ModelVersions:
        if not which.model:
            raise StatusError(StatusCode.INVALID_ARGUMENT, "expected a model's name, found none")
        if which.model not in self._models:
            raise StatusError(
                StatusCode.NOT_FOUND,
                f"no model {which.model!r}; models served: {', '.join(sorted(self._models))}",
            )
        return self._models[which.model]

    def _poll(self, seconds: float) -> None:
        while not self._closed.wait(seconds):
            for model in self._models.values():
                try:
                    model.refresh()
                except Exception as error:
                    # Whatever is wrong with a folder, what is loaded goes on being served.
                    self._tell(f"model {model.name}: cannot look for versions: {error}")


def single(name: str, base_path: str) -> list[Any]:
    """The configuration of one model, of which the highest version is served."""
    return [
        model_server_config_pb2.ModelConfig(
            name=name, base_path=base_path, model_platform="tensorflow"
        )
    ]


def read_config(path: Path) -> list[Any]:
    """The models of a `--model_config_file` of TF Serving.

    Raises:
        InputError: it cannot be read or lists no model.
    """
    try:
        config = text_format.Parse(path.read_text(), model_server_config_pb2.ModelServerConfig())
    except (OSError, UnicodeDecodeError, text_format.ParseError) as error:
        raise InputError(f"{path}: expected a ModelServerConfig in text form: {error}") from error
    models = list(config.model_config_list.config)
    if not models:
        raise InputError(f"{path}: expected a model_config_list, found none")
    return models


def _check_served(model: ModelVersions, base_path: str) -> None:
    """Raises an `InputError` with what failed unless a version is served."""
    try:
        with model.version(None, None):
            return
    except StatusError:
        reasons = [status.status.error_message for status in model.statuses(None, None)]
    raise InputError(
        reasons[0]
        if reasons
        else f"{base_path}: expected a folder with versions (1, 2, ...) of model {model.name}, "
        "found none"
    )
