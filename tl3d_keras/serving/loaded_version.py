"""One version of a SavedModel in memory, run as TF Serving runs it: TF1 loader and session."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from grpc import StatusCode

from tl3d_keras.errors import InputError
from tl3d_keras.serving import tensors, warmup
from tl3d_keras.serving.statuses import StatusError, code_of_number

DEFAULT_SIGNATURE = "serving_default"

# From the inputs' `TensorInfo` by name to the arrays by name.
ReadInputs = Callable[[Mapping[str, Any]], Mapping[str, np.ndarray]]


class LoadedVersion:
    """Loads a version's folder and runs its warm-up requests.

    Attributes:
        signatures: its `SignatureDef`s by name.

    Raises:
        InputError: the folder holds no SavedModel that loads, or its warm-up requests fail.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._session = tf.compat.v1.Session(graph=tf.Graph())
        try:
            graph = tf.compat.v1.saved_model.load(self._session, ["serve"], str(folder))
            self.signatures: Mapping[str, Any] = dict(graph.signature_def)
            for request in warmup.read(folder):
                read = partial(read_protos, request.inputs, max_bytes)
                self.predict(request.model_spec.signature_name, read)
        except Exception as error:
            self._session.close()
            # A damaged file shows itself as almost any exception.
            reason = " ".join(str(error).split())
            raise InputError(f"{folder}: cannot load the version: {reason}") from error

    def predict(
        self,
        name: str,
        read_inputs: ReadInputs,
        wanted: Sequence[str] = (),
        timeout: float | None = None,
    ) -> dict[str, np.ndarray]:
        """Runs a signature.

        Args:
            name: the signature's; empty for the default.
            read_inputs: gives the arrays for the signature's inputs.
            wanted: the outputs to compute; all if empty.
            timeout: in seconds.

        Raises:
            StatusError: with the code that TF Serving gives.
        """
        name = name or DEFAULT_SIGNATURE
        if name not in self.signatures:
            raise StatusError(
                StatusCode.FAILED_PRECONDITION,
                f"expected one of the signatures {', '.join(sorted(self.signatures))}, "
                f"found {name!r}",
            )
        signature = self.signatures[name]
        unknown = set(wanted) - set(signature.outputs)
        if unknown:
            raise StatusError(
                StatusCode.INVALID_ARGUMENT,
                f"expected outputs of {sorted(signature.outputs)}, found {sorted(unknown)}",
            )
        outputs = sorted(wanted or signature.outputs)
        feeds = {
            signature.inputs[key].name: array
            for key, array in read_inputs(signature.inputs).items()
        }
        try:
            values = self._session.run(
                [signature.outputs[key].name for key in outputs],
                feeds,
                options=tf.compat.v1.RunOptions(timeout_in_ms=_milliseconds(timeout)),
            )
        except tf.errors.OpError as error:
            # The op's place in the graph, which follows, helps nobody who sends a scan.
            message = error.message.split("\n\t [[")[0]
            raise StatusError(code_of_number(error.error_code), message) from error
        return dict(zip(outputs, values, strict=True))

    def close(self) -> None:
        """Frees what the version holds."""
        self._session.close()


def _milliseconds(timeout: float | None) -> int:
    """For TensorFlow, where 0 means for ever."""
    return 0 if timeout is None else max(1, int(timeout * 1000))


def read_protos(
    inputs: Mapping[str, Any], max_bytes: int, infos: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """The arrays of a `PredictRequest`'s inputs."""
    check_names(inputs, infos)
    return {
        name: tensors.from_proto(name, inputs[name], info, max_bytes)
        for name, info in infos.items()
    }


def check_names(inputs: Mapping[str, Any], infos: Mapping[str, Any]) -> None:
    """Raises INVALID_ARGUMENT unless a request has just the inputs of the signature."""
    if set(inputs) != set(infos):
        raise StatusError(
            StatusCode.INVALID_ARGUMENT,
            f"expected the inputs {sorted(infos)}, found {sorted(inputs)}",
        )
