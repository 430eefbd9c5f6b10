"""Requests to a server that speaks TF Serving's gRPC or REST API."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http.client import HTTPException, IncompleteRead
from typing import Any, NamedTuple, Protocol
from urllib import error as url_error
from urllib import request as url_request
from urllib.parse import quote

import grpc
import numpy as np
import tensorflow as tf
from grpc import StatusCode

from tl3d_keras.serving.protos import (
    get_model_metadata_pb2,
    model_pb2,
    predict_pb2,
    prediction_service_pb2_grpc,
)
from tl3d_keras.serving.statuses import StatusError, code_of_http

SIGNATURE, OBLIQUE_SIGNATURE = "segment", "segment_oblique"


@dataclass(frozen=True)
class Target:
    """Where to send scans.

    Attributes:
        address: HOST:PORT; for REST also a URL.
        model: the model's name.
        version: of the model; None takes the server's choice.
        label: of a version, instead of `version`.
        timeout: seconds to wait for an answer.
        wait: seconds, from a first failure on, to try again while it may pass by itself.
    """

    address: str
    model: str
    version: int | None = None
    label: str | None = None
    timeout: float = 600.0
    wait: float = 60.0


class Served(NamedTuple):
    """What a model on a server takes.

    Attributes:
        channels: C of its image.
        oblique: whether it has `OBLIQUE_SIGNATURE`.
    """

    channels: int
    oblique: bool


class Connection(Protocol):
    """One of the two APIs."""

    def served(self) -> Served:
        """What the model takes; raises `StatusError`."""

    def labels(
        self, image: np.ndarray, spacing: Sequence[float], direction: Sequence[float] | None = None
    ) -> np.ndarray:
        """Labels [Z, Y, X] of a raw image [Z, Y, X, C]; raises `StatusError`.

        Args:
            image: the image, whose axes run to superior, posterior, left without a `direction`.
            spacing: (z, y, x) in mm.
            direction: as `Volume.direction`, for `OBLIQUE_SIGNATURE`.
        """


def connect(target: Target, protocol: str) -> Connection:
    """Prepares for requests by `protocol`, grpc or rest; nothing is sent yet."""
    return RestConnection(target) if protocol == "rest" else GrpcConnection(target)


class GrpcConnection:
    """Requests by gRPC: 4 bytes a voxel, and the answer in 1."""

    def __init__(self, target: Target) -> None:
        self._target = target
        # gRPC's own limit for answers is 4 MiB, less than the labels of any scan.
        channel = grpc.insecure_channel(
            target.address,
            options=[
                ("grpc.max_send_message_length", -1),
                ("grpc.max_receive_message_length", -1),
                # So that a server that comes back is found by the next attempt.
                ("grpc.initial_reconnect_backoff_ms", 200),
                ("grpc.max_reconnect_backoff_ms", 2000),
            ],
        )
        self._stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)

    def served(self) -> Served:
        """See `Connection`."""
        request = get_model_metadata_pb2.GetModelMetadataRequest(
            model_spec=self._spec(), metadata_field=["signature_def"]
        )
        response = self._call(self._stub.GetModelMetadata, request)
        found = get_model_metadata_pb2.SignatureDefMap()
        response.metadata["signature_def"].Unpack(found)
        if SIGNATURE not in found.signature_def:
            raise _no_signature(found.signature_def)
        shape = found.signature_def[SIGNATURE].inputs["image"].tensor_shape
        return _served([dim.size for dim in shape.dim], found.signature_def)

    def labels(
        self, image: np.ndarray, spacing: Sequence[float], direction: Sequence[float] | None = None
    ) -> np.ndarray:
        """See `Connection`."""
        request = predict_pb2.PredictRequest(model_spec=self._spec())
        request.model_spec.signature_name, grid = _signature(spacing, direction)
        for name, array in (("image", image), *grid.items()):
            request.inputs[name].CopyFrom(tf.make_tensor_proto(array, tf.float32))
        response = self._call(self._stub.Predict, request)
        return tf.make_ndarray(response.outputs["labels"])

    def _spec(self) -> Any:
        target = self._target
        spec = model_pb2.ModelSpec(name=target.model)
        if target.label is not None:
            spec.version_label = target.label
        elif target.version is not None:
            spec.version.value = target.version
        return spec

    def _call(self, method: Callable, request: Any) -> Any:
        try:
            return method(request, timeout=self._target.timeout)
        except grpc.RpcError as error:
            raise StatusError(error.code(), error.details() or "") from error


class RestConnection:
    """Requests by REST: each voxel is written out, so it is for small scans and no gRPC."""

    def __init__(self, target: Target) -> None:
        self._timeout = target.timeout
        address = target.address.rstrip("/")
        server = address if "://" in address else f"http://{address}"
        self._url = f"{server}/v1/models/{quote(target.model, safe='')}"
        if target.label is not None:
            self._url += f"/labels/{quote(target.label, safe='')}"
        elif target.version is not None:
            self._url += f"/versions/{target.version}"

    def served(self) -> Served:
        """See `Connection`."""
        signatures = _part(self._call("/metadata"), "metadata", "signature_def", "signature_def")
        if SIGNATURE not in signatures:
            raise _no_signature(signatures)
        sizes = _part(signatures, SIGNATURE, "inputs", "image", "tensor_shape", "dim")
        return _served([int(dim.get("size", 0)) for dim in sizes], signatures)

    def labels(
        self, image: np.ndarray, spacing: Sequence[float], direction: Sequence[float] | None = None
    ) -> np.ndarray:
        """See `Connection`."""
        signature, grid = _signature(spacing, direction)
        whole = image.astype(np.int32)
        # Whole numbers are written in half the characters.
        values = whole if np.array_equal(whole, image) else image
        inputs = {"image": values, **{name: np.array(v) for name, v in grid.items()}}
        written = ",".join(f'"{name}":{_json(array)}' for name, array in inputs.items())
        body = f'{{"signature_name":"{signature}","inputs":{{{written}}}}}'
        return np.array(_part(self._call(":predict", body.encode()), "outputs"))

    def _call(self, path: str, body: bytes | None = None) -> Any:
        headers = {"Content-Type": "application/json"}
        try:
            request = url_request.Request(self._url + path, body, headers)
            with url_request.urlopen(request, timeout=self._timeout) as response:
                return json.load(response)
        except url_error.HTTPError as error:
            raise StatusError(code_of_http(error.code), _reason(error)) from error
        except TimeoutError as error:
            raise StatusError(StatusCode.DEADLINE_EXCEEDED, f"{self._timeout} s") from error
        except (OSError, IncompleteRead) as error:
            late = isinstance(getattr(error, "reason", None), TimeoutError)
            code = StatusCode.DEADLINE_EXCEEDED if late else StatusCode.UNAVAILABLE
            raise StatusError(code, str(error)) from error
        except (ValueError, HTTPException) as error:
            raise StatusError(StatusCode.UNIMPLEMENTED, f"no REST API there: {error}") from error


def _json(array: np.ndarray) -> str:
    """An array as nested lists, of which few exist at a time: millions are slow in Python."""
    if array.ndim <= 2:
        return json.dumps(array.tolist(), separators=(",", ":"))
    return f"[{','.join(map(_json, array))}]"


def _reason(error: url_error.HTTPError) -> str:
    with error:
        text = error.read(2**16).decode(errors="replace")
    try:
        return str(json.loads(text)["error"])
    except (ValueError, KeyError, TypeError):
        return f"HTTP {error.code} {error.reason}"


def _no_signature(found: Any) -> StatusError:
    return StatusError(
        StatusCode.FAILED_PRECONDITION,
        f"expected the signature {SIGNATURE}, found {', '.join(sorted(found)) or 'none'}",
    )


def _signature(
    spacing: Sequence[float], direction: Sequence[float] | None
) -> tuple[str, dict[str, Sequence[float]]]:
    if direction is None:
        return SIGNATURE, {"spacing": spacing}
    return OBLIQUE_SIGNATURE, {"spacing": spacing, "direction": direction}


def _served(shape: Sequence[int], signatures: Any) -> Served:
    if len(shape) != 4 or shape[-1] < 1:
        raise StatusError(
            StatusCode.FAILED_PRECONDITION, f"expected an image [Z, Y, X, C], found {shape}"
        )
    return Served(shape[-1], OBLIQUE_SIGNATURE in signatures)


def _part(content: Any, *names: str) -> Any:
    """A part of an answer in JSON."""
    for name in names:
        if not isinstance(content, dict) or name not in content:
            raise StatusError(StatusCode.UNIMPLEMENTED, f"expected {name} in the answer")
        content = content[name]
    return content
