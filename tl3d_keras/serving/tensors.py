"""Tensors of requests, checked against the signature before anything is allocated for them."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from grpc import StatusCode

from tl3d_keras.serving.statuses import StatusError


def from_proto(name: str, proto: Any, info: Any, max_bytes: int) -> np.ndarray:
    """Reads a `TensorProto`.

    Args:
        name: of the input.
        proto: the `TensorProto` of the request.
        info: the `TensorInfo` of the signature.
        max_bytes: the most that the tensor may take.

    Raises:
        StatusError: INVALID_ARGUMENT for another type, rank, size or content than the signature and
            the tensor's own shape say, or values that are not finite; RESOURCE_EXHAUSTED for a
            claim above `max_bytes`.
    """
    expected = tf.dtypes.as_dtype(info.dtype)
    if proto.dtype != info.dtype:
        raise _invalid(f"input {name}: expected {expected.name}, found {_type_name(proto.dtype)}")
    if proto.tensor_shape.unknown_rank:
        raise _invalid(f"input {name}: expected a shape, found an unknown rank")
    shape = [dim.size for dim in proto.tensor_shape.dim]
    _check_shape(name, shape, info)
    # A few bytes can claim any shape: one value stands for all that are not there.
    size = math.prod(shape) * expected.size
    if size > max_bytes:
        raise StatusError(
            StatusCode.RESOURCE_EXHAUSTED,
            f"input {name}: expected at most {max_bytes} bytes, found {shape} that claims {size}",
        )
    if proto.tensor_content and len(proto.tensor_content) != size:
        raise _invalid(
            f"input {name}: expected {size} bytes for {shape}, found {len(proto.tensor_content)}"
        )
    try:
        array = tf.make_ndarray(proto)
    except (TypeError, ValueError, IndexError) as error:
        raise _invalid(f"input {name}: cannot read the tensor: {error}") from error
    return _finite(name, array)


def from_json(name: str, value: Any, info: Any) -> np.ndarray:
    """Reads a tensor of a JSON body: nested lists of numbers.

    Raises:
        StatusError: INVALID_ARGUMENT, as `from_proto`.
    """
    expected = tf.dtypes.as_dtype(info.dtype)
    try:
        array = np.array(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise _invalid(f"input {name}: expected lists of equal length: {error}") from error
    numbers = "iu" if expected.is_integer else "iuf"
    if array.dtype.kind not in numbers:
        raise _invalid(f"input {name}: expected {expected.name}, found {array.dtype.name} values")
    _check_shape(name, array.shape, info)
    with np.errstate(over="ignore"):
        return _finite(name, array.astype(expected.as_numpy_dtype))


def _check_shape(name: str, shape: Sequence[int], info: Any) -> None:
    expected = [dim.size for dim in info.tensor_shape.dim]
    if info.tensor_shape.unknown_rank:
        expected = [-1] * len(shape)
    fits = len(shape) == len(expected) and all(
        n >= 0 and m in (-1, n) for n, m in zip(shape, expected, strict=True)
    )
    if not fits:
        raise _invalid(
            f"input {name}: expected the shape {expected} (-1: any), found {list(shape)}"
        )


def _finite(name: str, array: np.ndarray) -> np.ndarray:
    if array.dtype.kind == "f":
        bad = array.size - int(np.isfinite(array).sum())
        if bad:
            raise _invalid(f"input {name}: expected finite values, found {bad} NaN or infinite")
    return array


def _type_name(number: int) -> str:
    try:
        return tf.dtypes.as_dtype(number).name
    except TypeError:
        return f"type {number}"


def _invalid(details: str) -> StatusError:
    return StatusError(StatusCode.INVALID_ARGUMENT, details)
