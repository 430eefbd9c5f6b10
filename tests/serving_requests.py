"""Requests to a served model, good and bad, and the status that each must get."""

import json
import socket
from collections.abc import Callable
from contextlib import suppress
from urllib import error, request

import grpc
import numpy as np
import tensorflow as tf
from tensorflow.core.framework.tensor_pb2 import TensorProto

from tl3d_keras.serving.protos import predict_pb2, prediction_service_pb2_grpc

OK, INVALID, PRECONDITION = "OK", "INVALID_ARGUMENT", "FAILED_PRECONDITION"
NOT_FOUND, EXHAUSTED = "NOT_FOUND", "RESOURCE_EXHAUSTED"
SHAPE = (8, 9, 10, 1)
SPACING = np.array([2, 1, 1], np.float32)
IMAGE = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
WITH_NAN = np.where(IMAGE > 2, np.nan, IMAGE).astype(np.float32)


def predict_request(model="m", signature="segment", version=None, label=None, **inputs):
    """A `PredictRequest` of arrays or `TensorProto`s."""
    message = predict_pb2.PredictRequest()
    message.model_spec.name, message.model_spec.signature_name = model, signature
    if version is not None:
        message.model_spec.version.value = version
    if label is not None:
        message.model_spec.version_label = label
    for name, value in (inputs or {"image": IMAGE, "spacing": SPACING}).items():
        is_proto = isinstance(value, TensorProto)
        message.inputs[name].CopyFrom(value if is_proto else tf.make_tensor_proto(value))
    return message


def claiming(shape, content=b"", values=()):
    """A float32 `TensorProto` that claims a shape."""
    dims = [{"size": n} for n in shape]
    return TensorProto(
        dtype=tf.float32.as_datatype_enum,
        tensor_shape={"dim": dims},
        tensor_content=content,
        float_val=values,
    )


def image(array):
    """A request with another image."""
    return predict_request(image=array, spacing=SPACING)


# For a server of the stand-in that takes at most 8 MiB.
GRPC = [
    ("good", predict_request(), OK),
    ("default signature", predict_request(signature="", image=IMAGE[None]), OK),
    ("version", predict_request(version=1), OK),
    ("rank", image(IMAGE[..., 0]), INVALID),
    ("channels", image(np.repeat(IMAGE, 2, -1)), INVALID),
    ("NaN", image(WITH_NAN), INVALID),
    ("float64", image(IMAGE.astype(np.float64)), INVALID),
    ("string", image(np.array("scan")), INVALID),
    ("2 GB claimed by one value", image(claiming((1024, 1024, 512, 1), values=[0])), EXHAUSTED),
    ("more claimed than sent", image(claiming(SHAPE, content=b"1234")), INVALID),
    ("negative size", image(claiming((-8, 9, 10, 1), values=[0])), INVALID),
    ("sizes that overflow", image(claiming((2**62, 2**62, 4, 1), values=[0])), EXHAUSTED),
    ("message above the limit", image(np.zeros((64, 256, 256, 1), np.float32)), EXHAUSTED),
    ("spacing of 0", predict_request(image=IMAGE, spacing=0 * SPACING), INVALID),
    ("input missing", predict_request(image=IMAGE), INVALID),
    ("input too many", predict_request(image=IMAGE, spacing=SPACING, mask=IMAGE), INVALID),
    ("model", predict_request(model="other"), NOT_FOUND),
    ("no model", predict_request(model=""), INVALID),
    ("version not there", predict_request(version=77), NOT_FOUND),
    ("label not there", predict_request(label="canary"), NOT_FOUND),
    ("signature", predict_request(signature="other"), PRECONDITION),
]

INPUTS = {"image": IMAGE.tolist(), "spacing": SPACING.tolist()}


def body(signature_name="segment", **content):
    """A JSON body."""
    return json.dumps({"signature_name": signature_name, **content}).encode()


def inputs(**changed):
    """A JSON body with other inputs."""
    return body(inputs=INPUTS | changed)


PREDICT = "/v1/models/m:predict"
REST = [
    ("good", PREDICT, inputs(), 200),
    ("by row", PREDICT, body("", instances=IMAGE[None].tolist()), 200),
    ("status", "/v1/models/m", None, 200),
    ("metadata", "/v1/models/m/versions/1/metadata", None, 200),
    ("rank", PREDICT, inputs(image=IMAGE[..., 0].tolist()), 400),
    ("NaN", PREDICT, inputs(image=WITH_NAN.tolist()), 400),
    ("beyond float32", PREDICT, inputs(spacing=[1e300, 1, 1]), 400),
    ("ragged", PREDICT, inputs(image=[[1], [1, 2]]), 400),
    ("strings", PREDICT, inputs(spacing=["2", "1", "1"]), 400),
    ("truth", PREDICT, inputs(spacing=[True, True, True]), 400),
    ("nothing", PREDICT, inputs(image=None), 400),
    ("spacing of 0", PREDICT, inputs(spacing=[0, 1, 1]), 400),
    ("input missing", PREDICT, body(inputs={"image": INPUTS["image"]}), 400),
    ("one input without its name", PREDICT, body(inputs=INPUTS["image"]), 400),
    ("both forms", PREDICT, body(inputs=1, instances=1), 400),
    ("a list", PREDICT, b"[1]", 400),
    ("no JSON", PREDICT, b"\xff\x00{", 400),
    ("empty", PREDICT, b"", 400),
    ("depth", PREDICT, b"[" * 100_000, 400),
    ("signature", PREDICT, body("other", inputs=INPUTS), 400),
    ("signature's type", PREDICT, body(3, inputs=INPUTS), 400),
    ("method", "/v1/models/m:explain", inputs(), 400),
    ("classify", "/v1/models/m:classify", inputs(), 501),
    ("model", "/v1/models/other:predict", inputs(), 404),
    ("version", "/v1/models/m/versions/77:predict", inputs(), 404),
    ("huge version", f"/v1/models/m/versions/{10**17}", None, 404),
    ("label", "/v1/models/m/labels/canary:predict", inputs(), 404),
    ("path", "/v1/other", None, 400),
    ("elsewhere", "/../../etc/passwd", None, 404),
    ("body above the limit", PREDICT, b" " * (9 * 2**20), 413),
]


def send_grpc(port: int) -> Callable[[object], str]:
    """Gives a function that sends a `PredictRequest` and tells the status."""
    channel = grpc.insecure_channel(f"127.0.0.1:{port}")
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)

    def send(message):
        try:
            stub.Predict(message, timeout=20)
        except grpc.RpcError as failure:
            return failure.code().name
        return OK

    return send


def send_rest(port: int, path: str, content: bytes | None) -> tuple[int, dict]:
    """The HTTP status and the JSON of the answer."""
    try:
        with request.urlopen(f"http://127.0.0.1:{port}{path}", content, timeout=20) as answer:
            return answer.status, json.load(answer)
    except error.HTTPError as failure:
        with failure:
            return failure.code, json.load(failure)


def send_bytes(port: int, content: bytes) -> bytes:
    """What a port answers to bytes of any kind, after which nothing more is sent."""
    answer = b""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=20) as connection,
        # A server may close before it has read all.
        suppress(OSError),
    ):
        connection.sendall(content)
        connection.shutdown(socket.SHUT_WR)
        while piece := connection.recv(2**16):
            answer += piece
    return answer
