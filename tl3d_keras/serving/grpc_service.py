"""TF Serving's gRPC API over `ServedModels`: Predict, GetModelMetadata, GetModelStatus."""

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import grpc
import tensorflow as tf

from tl3d_keras.errors import InputError
from tl3d_keras.serving.loaded_version import DEFAULT_SIGNATURE, read_protos
from tl3d_keras.serving.protos import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)
from tl3d_keras.serving.served_models import ServedModels, Which
from tl3d_keras.serving.statuses import StatusError

_Answer = TypeVar("_Answer")
_THREADS = 8


def start(models: ServedModels, host: str, port: int) -> tuple[grpc.Server, int]:
    """Starts the server; gives it and its port, which is free to choose where `port` is 0.

    Raises:
        InputError: the port is taken.
    """
    server = grpc.server(
        ThreadPoolExecutor(_THREADS),
        options=[
            ("grpc.max_receive_message_length", models.max_bytes),
            ("grpc.max_send_message_length", -1),
            # Two servers must not share a port by accident.
            ("grpc.so_reuseport", 0),
        ],
    )
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
        _PredictionService(models), server
    )
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(_ModelService(models), server)
    try:
        bound = server.add_insecure_port(f"{host}:{port}")
    except RuntimeError as error:
        raise InputError(f"{host}:{port}: cannot listen there; is the port taken?") from error
    server.start()
    return server, bound


class _PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    def __init__(self, models: ServedModels) -> None:
        self._models = models

    def Predict(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        return _answer(context, lambda: self._predict(request, context.time_remaining()))

    def GetModelMetadata(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        return _answer(context, lambda: self._metadata(request))

    def _predict(self, request: Any, timeout: float | None) -> Any:
        number, outputs = self._models.predict(
            _which(request.model_spec),
            request.model_spec.signature_name,
            partial(read_protos, request.inputs, self._models.max_bytes),
            request.output_filter,
            timeout,
        )
        response = predict_pb2.PredictResponse()
        _name(
            response.model_spec,
            request,
            number,
            request.model_spec.signature_name or DEFAULT_SIGNATURE,
        )
        for name, array in outputs.items():
            response.outputs[name].CopyFrom(tf.make_tensor_proto(array))
        return response

    def _metadata(self, request: Any) -> Any:
        if list(request.metadata_field) != ["signature_def"]:
            raise StatusError(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"expected the metadata_field signature_def, found {list(request.metadata_field)}",
            )
        number, signatures = self._models.signatures(_which(request.model_spec))
        found = get_model_metadata_pb2.SignatureDefMap()
        for name, signature in signatures.items():
            found.signature_def[name].CopyFrom(signature)
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        _name(response.model_spec, request, number)
        response.metadata["signature_def"].Pack(found)
        return response


class _ModelService(model_service_pb2_grpc.ModelServiceServicer):
    def __init__(self, models: ServedModels) -> None:
        self._models = models

    def GetModelStatus(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        return _answer(
            context,
            lambda: get_model_status_pb2.GetModelStatusResponse(
                model_version_status=self._models.statuses(_which(request.model_spec))
            ),
        )


def _answer(context: grpc.ServicerContext, work: Callable[[], _Answer]) -> _Answer:
    try:
        return work()
    except StatusError as error:
        code, details = error.code, error.details
    except MemoryError:
        code, details = grpc.StatusCode.RESOURCE_EXHAUSTED, "not enough memory for the request"
    except Exception:
        logging.exception("A request failed.")
        code, details = grpc.StatusCode.INTERNAL, "the server failed; its log has the reason"
    context.abort(code, details)
    raise AssertionError("abort always raises")


def _which(spec: Any) -> Which:
    choice = spec.WhichOneof("version_choice")
    return Which(
        spec.name,
        spec.version.value if choice == "version" else None,
        spec.version_label if choice == "version_label" else None,
    )


def _name(spec: Any, request: Any, number: int, signature: str = "") -> None:
    """Fills in the `ModelSpec` of an answer."""
    spec.name, spec.signature_name = request.model_spec.name, signature
    spec.version.value = number
