"""The official messages and stubs of TF Serving, which the extra `serving` brings."""

from tl3d_keras.errors import InputError

try:
    from tensorflow_serving.apis import (
        get_model_metadata_pb2,
        get_model_status_pb2,
        model_pb2,
        model_service_pb2_grpc,
        predict_pb2,
        prediction_log_pb2,
        prediction_service_pb2_grpc,
    )
    from tensorflow_serving.config import model_server_config_pb2
except ImportError as error:
    raise InputError(
        f"expected the package tensorflow-serving-api, found none ({error}); "
        "pip install 'tl3d-keras[serving]' brings it"
    ) from error

__all__ = [
    "get_model_metadata_pb2",
    "get_model_status_pb2",
    "model_pb2",
    "model_server_config_pb2",
    "model_service_pb2_grpc",
    "predict_pb2",
    "prediction_log_pb2",
    "prediction_service_pb2_grpc",
]
