"""Warm-up requests: what a server runs before a version takes its first scan.

TF Serving reads them from `assets.extra/tf_serving_warmup_requests`, a TFRecord file of
`PredictionLog` (https://www.tensorflow.org/tfx/serving/saved_model_warmup).
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from tl3d_keras.errors import InputError
from tl3d_keras.serving.protos import predict_pb2, prediction_log_pb2

FILE = "assets.extra/tf_serving_warmup_requests"


def write(folder: Path, requests: Sequence[Any]) -> None:
    """Writes `PredictRequest`s into a version's folder."""
    path = folder / FILE
    path.parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
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


def zeros(model: str, signature: str, inputs: Mapping[str, Sequence[int]], **given: Any) -> Any:
    """A `PredictRequest` of zeros in a few bytes.

    Args:
        model: the model's name.
        signature: the signature's name.
        inputs: the shape of each float32 input; its zeros are not written out.
        **given: inputs with values instead.
    """
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = model, signature
    for name, shape in inputs.items():
        tensor = request.inputs[name]
        tensor.dtype = tf.float32.as_datatype_enum
        tensor.tensor_shape.CopyFrom(tf.TensorShape(shape).as_proto())
        tensor.float_val.append(0.0)
    for name, value in given.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value, tf.float32))
    return request
