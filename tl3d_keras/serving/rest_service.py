"""TF Serving's REST API over `ServedModels` (https://www.tensorflow.org/tfx/serving/api_rest)."""

import json
import logging
import re
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
from google.protobuf.json_format import MessageToDict
from grpc import StatusCode

from tl3d_keras.errors import InputError
from tl3d_keras.serving import tensors
from tl3d_keras.serving.loaded_version import check_names
from tl3d_keras.serving.protos import get_model_status_pb2
from tl3d_keras.serving.served_models import ServedModels, Which
from tl3d_keras.serving.statuses import StatusError, code_of_number, http_status

_PATH = re.compile(
    r"/v1/models/(?P<model>[^/:]+)(?:/versions/(?P<version>\d{1,18})|/labels/(?P<label>[^/:]+))?"
    r"(?:/(?P<metadata>metadata)|:(?P<method>\w+))?"
)
_CHUNK = 2**20
_LINGER = 10.0


def start(models: ServedModels, host: str, port: int) -> tuple[ThreadingHTTPServer, int]:
    """Starts the server in a thread; gives it and its port, free to choose where `port` is 0.

    Raises:
        InputError: the port is taken.
    """
    try:
        server = _Server((host, port), models)
    except OSError as error:
        raise InputError(f"{host}:{port}: cannot listen there: {error.strerror}") from error
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    return server, server.server_address[1]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], models: ServedModels) -> None:
        self.models = models
        super().__init__(address, _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no event."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    # Of a client that says nothing more, in seconds.
    timeout = 60

    def do_GET(self) -> None:  # noqa: N802
        self._answer(lambda: _get(self.server.models, self.path))

    def do_POST(self) -> None:  # noqa: N802
        body = self._body()
        if body is not None:
            self._answer(lambda: _post(self.server.models, self.path, body))

    def _body(self) -> bytes | None:
        length = self.headers.get("Content-Length", "")
        # Python makes no number of thousands of digits.
        if not re.fullmatch(r"\d{1,18}", length):
            self.send_error(411, "expected a Content-Length")
            return None
        size, most = int(length), self.server.models.max_bytes
        if size > most:
            self.send_error(413, f"expected at most {most} bytes, found {size}")
            self._discard(size)
            return None
        # In pieces: a length that is only claimed takes no memory.
        body = bytearray()
        while len(body) < size:
            piece = self.rfile.read(min(_CHUNK, size - len(body)))
            if not piece:
                self.send_error(400, f"expected {size} bytes, found {len(body)}")
                return None
            body += piece
        return bytes(body)

    def _discard(self, size: int) -> None:
        """Reads on for a while: a client that still sends would not see the answer."""
        end = time.monotonic() + _LINGER
        self.connection.settimeout(_LINGER)
        while size > 0 and time.monotonic() < end:
            piece = self.rfile.read(min(_CHUNK, size))
            if not piece:
                break
            size -= len(piece)

    def _answer(self, work: Callable[[], Any]) -> None:
        try:
            status, content = 200, work()
        except StatusError as error:
            status, content = http_status(error.code), {"error": error.details}
        except MemoryError:
            status, content = 429, {"error": "not enough memory for the request"}
        except Exception:
            logging.exception("A request failed.")
            status, content = 500, {"error": "the server failed; its log has the reason"}
        self._send(status, content)

    def send_error(self, code: int, message: Any = None, explain: Any = None) -> None:
        """Answers as the API does, and closes: the body may be unread."""
        self.close_connection = True
        self._send(code, {"error": message or self.responses.get(code, ("",))[0]})

    def _send(self, status: int, content: Any) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not logged."""


def _get(models: ServedModels, path: str) -> Any:
    which, parts = _parsed(path)
    if parts["method"]:
        raise _malformed(f"GET {path}")
    if parts["metadata"]:
        number, signatures = models.signatures(which)
        return {
            "model_spec": {"name": which.model, "signature_name": "", "version": str(number)},
            "metadata": {
                "signature_def": {
                    "signature_def": {
                        name: MessageToDict(signature, preserving_proto_field_name=True)
                        for name, signature in signatures.items()
                    }
                }
            },
        }
    states = get_model_status_pb2.ModelVersionStatus.State
    return {
        "model_version_status": [
            {
                "version": str(status.version),
                "state": states.Name(status.state),
                "status": {
                    "error_code": code_of_number(status.status.error_code).name,
                    "error_message": status.status.error_message,
                },
            }
            for status in models.statuses(which)
        ]
    }


def _post(models: ServedModels, path: str, body: bytes) -> Any:
    which, parts = _parsed(path)
    if parts["method"] in ("classify", "regress"):
        raise StatusError(StatusCode.UNIMPLEMENTED, "only :predict is offered here")
    if parts["method"] != "predict":
        raise _malformed(f"POST {path}")
    try:
        request = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise StatusError(StatusCode.INVALID_ARGUMENT, f"expected JSON: {error}") from error
    if not isinstance(request, dict) or ("inputs" in request) == ("instances" in request):
        raise StatusError(
            StatusCode.INVALID_ARGUMENT, 'expected an object with either "inputs" or "instances"'
        )
    signature = request.get("signature_name", "")
    if not isinstance(signature, str):
        raise StatusError(StatusCode.INVALID_ARGUMENT, "expected a string as signature_name")
    by_row = "instances" in request
    given = request["instances"] if by_row else request["inputs"]
    _, outputs = models.predict(which, signature, lambda infos: _arrays(given, by_row, infos))
    return _rows(outputs) if by_row else {"outputs": _only(_lists(outputs))}


def _arrays(given: Any, by_row: bool, infos: Any) -> dict[str, np.ndarray]:
    """The inputs of a request: by column, or by row along their common first axis."""
    if by_row and isinstance(given, list) and given and isinstance(given[0], dict):
        names = given[0].keys()
        if not all(isinstance(row, dict) and row.keys() == names for row in given):
            raise StatusError(StatusCode.INVALID_ARGUMENT, "expected the same names in each row")
        given = {name: [row[name] for row in given] for name in names}
    elif not isinstance(given, dict):
        if len(infos) != 1:
            raise StatusError(
                StatusCode.INVALID_ARGUMENT, f"expected the inputs {sorted(infos)} by name"
            )
        given = {name: given for name in infos}
    check_names(given, infos)
    return {name: tensors.from_json(name, given[name], info) for name, info in infos.items()}


def _lists(outputs: dict[str, np.ndarray]) -> dict[str, Any]:
    return {name: array.tolist() for name, array in outputs.items()}


def _rows(outputs: dict[str, np.ndarray]) -> Any:
    lengths = {array.shape[0] if array.ndim else -1 for array in outputs.values()}
    if len(lengths) != 1 or -1 in lengths:
        raise StatusError(
            StatusCode.INVALID_ARGUMENT, "expected outputs of one length; ask by inputs instead"
        )
    lists = _lists(outputs)
    rows = [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]
    return {"predictions": [_only(row) for row in rows]}


def _only(values: dict[str, Any]) -> Any:
    """The value of a single name stands for itself."""
    return next(iter(values.values())) if len(values) == 1 else values


def _parsed(path: str) -> tuple[Which, dict[str, str | None]]:
    match = _PATH.fullmatch(path)
    if not match:
        if path.startswith("/v1/"):
            raise _malformed(path)
        raise StatusError(StatusCode.NOT_FOUND, f"expected /v1/models/..., found {path[:100]}")
    version = match["version"]
    which = Which(match["model"], int(version) if version else None, match["label"])
    return which, match.groupdict()


def _malformed(what: str) -> StatusError:
    return StatusError(StatusCode.INVALID_ARGUMENT, f"malformed request: {what[:100]}")
