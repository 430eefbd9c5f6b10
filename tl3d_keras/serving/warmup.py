"""Warm-up requests: what a server runs before a version takes its first scan.

TF Serving reads them from `assets.extra/tf_serving_warmup_requests`, a TFRecord file of
`PredictionLog` (https://www.tensorflow.org/tfx/serving/saved_model_warmup).
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tl3d_keras.artifact import EXTRA, ModelInfo
from tl3d_keras.errors import InputError
from tl3d_keras.serving.protos import predict_pb2, prediction_log_pb2

FILE = f"{EXTRA}/tf_serving_warmup_requests"


def write(folder: Path, model: str, info: ModelInfo) -> None:
    """Writes a request to each signature, of one training patch, into a version's folder."""
    shape = [*info.patch_size, len(info.channels)]
    scan = {"image": _zeros(shape), "spacing": _values(info.spacing)}
    requests = [
        _request(model, "segment", **scan),
        _request(model, "segment_oblique", **scan, direction=_values(np.eye(3).ravel())),
        _request(model, "serving_default", image=_zeros([1, *shape])),
    ]
    with tf.io.TFRecordWriter(str(folder / FILE)) as writer:
        for request in requests:
            log = prediction_log_pb2.PredictionLog(
                predict_log=prediction_log_pb2.PredictLog(request=request)
            )
            writer.write(log.SerializeToString())


def read(folder: Path) -> Iterator[Any]:
    """The `PredictRequest`s of a version's folder; none where there is no such file.

    Raises:
        InputError: the file is damaged or holds other records.
    """
    path = folder / FILE
    if not path.is_file():
        return
    try:
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            log = prediction_log_pb2.PredictionLog.FromString(record)
            if not log.HasField("predict_log"):
                raise InputError(f"{path}: expected Predict requests, found another kind")
            yield log.predict_log.request
    except (tf.errors.OpError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: cannot read the warm-up requests: damaged") from error


def _request(model: str, signature: str, **inputs: Any) -> Any:
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = model, signature
    for name, tensor in inputs.items():
        request.inputs[name].CopyFrom(tensor)
    return request


def _values(values: Sequence[float] | np.ndarray) -> Any:
    return tf.make_tensor_proto(values, tf.float32)


def _zeros(shape: Sequence[int]) -> Any:
    """A `TensorProto` whose only value stands for all, so that it takes a few bytes."""
    tensor = tf.make_tensor_proto([0.0], tf.float32)
    tensor.tensor_shape.CopyFrom(tf.TensorShape(shape).as_proto())
    return tensor
