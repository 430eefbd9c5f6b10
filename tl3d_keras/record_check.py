"""Whether bytes from anywhere are a record of the schema; sizes first, then what they hold.

Imports no TensorFlow: the class of the message comes from the caller.
"""

import math
import zlib
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from tl3d_keras.annotation import IGNORE
from tl3d_keras.errors import InputError

ENCODINGS = ("raw", "zlib")
DTYPES = ("int16", "float32")

# Deflate cannot shrink anything further (https://zlib.net/zlib_tech.html).
_MAX_ZLIB_RATIO = 1032
_TOLERANCE = 1e-2

_COUNTS = {
    "case_id": ("bytes_list", 1),
    "image": ("bytes_list", 1),
    "image/shape": ("int64_list", 4),
    "image/dtype": ("bytes_list", 1),
    "image/encoding": ("bytes_list", 1),
    "geometry": ("float_list", 15),
    "label/start": ("int64_list", None),
    "label/length": ("int64_list", None),
    "label/value": ("int64_list", None),
    "label/annotated": ("int64_list", None),
}


def check(example_class: Any, serialized: bytes) -> tuple[Any, bytes]:
    """Checks one serialised case; returns its message and the image's bytes, uncompressed.

    Args:
        example_class: `tf.train.Example`.
        serialized: the bytes.

    Raises:
        InputError: what differs from the schema: a feature, the image's size, a voxel that is not
            finite, a geometry that is none, runs that overlap or leave the volume, structures that
            are not declared.
    """
    try:
        example = example_class.FromString(serialized)
    except DecodeError as error:
        raise InputError("record: expected a tf.train.Example, found other bytes") from error
    features = {name: _values(example, name) for name in _COUNTS}
    # What is no UTF-8 becomes what is not printable.
    case_id = features["case_id"][0].decode(errors="surrogateescape")
    if not case_id or not case_id.isprintable():
        raise InputError(f"record: expected the name of a case, found {case_id!r}")
    where = f"record of case {case_id}"
    shape = list(features["image/shape"])
    if min(shape) < 1:
        raise InputError(f"{where}: expected a positive image/shape, found {shape}")
    image = _check_image(features, shape, where)
    _check_geometry(np.array(features["geometry"]), where)
    _check_labels(features, math.prod(shape[:3]), where)
    return example, image


def _values(example: Any, name: str) -> Any:
    kind, count = _COUNTS[name]
    feature = example.features.feature
    found = feature[name].WhichOneof("kind") if name in feature else None
    if found is None:
        if name == "image/encoding":
            return [b"raw"]
        if count is None:
            return []
        raise InputError(f"record: expected the feature {name}, found none")
    values = getattr(feature[name], kind).value
    if found != kind or count not in (None, len(values)):
        raise InputError(
            f"record: expected {'a' if count is None else count} {kind} as {name}, "
            f"found a {found} of {len(getattr(feature[name], found).value)}"
        )
    return values


def _text(value: bytes) -> str:
    return value.decode(errors="replace")


def _check_image(features: dict[str, Any], shape: list[int], where: str) -> bytes:
    stored = features["image"][0]
    dtype, encoding = _text(features["image/dtype"][0]), _text(features["image/encoding"][0])
    for name, value, known in (("dtype", dtype, DTYPES), ("encoding", encoding, ENCODINGS)):
        if value not in known:
            raise InputError(
                f"{where}: expected an image/{name} of {', '.join(known)}, found {value!r}"
            )
    expected = math.prod(shape) * np.dtype(dtype).itemsize
    if encoding == "zlib":
        if expected > _MAX_ZLIB_RATIO * len(stored):
            raise InputError(
                f"{where}: {len(stored)} compressed bytes cannot hold an image of shape {shape}"
            )
        stored = _decompressed(stored, expected, where)
    if len(stored) != expected:
        found = f"{len(stored)}" if len(stored) < expected else "more"
        raise InputError(
            f"{where}: expected {expected} bytes for an image of shape {shape}, found {found}"
        )
    if dtype == "float32" and not np.isfinite(np.frombuffer(stored, "<f4")).all():
        raise InputError(f"{where}: expected finite intensities, found NaN or infinite values")
    return stored


def _decompressed(stored: bytes, expected: int, where: str) -> bytes:
    """At most one byte more than expected, so that a bomb does not go off."""
    stream = zlib.decompressobj()
    try:
        content = stream.decompress(stored, expected + 1)
    except zlib.error as error:
        raise InputError(f"{where}: expected an image in zlib's format: {error}") from error
    if len(content) == expected and (not stream.eof or stream.unused_data):
        raise InputError(f"{where}: expected one whole zlib stream, found more or less")
    return content


def _check_geometry(geometry: np.ndarray, where: str) -> None:
    spacing, direction = geometry[:3], geometry[6:].reshape(3, 3)
    if not (np.isfinite(geometry).all() and (spacing > 0).all()):
        raise InputError(f"{where}: expected finite geometry and positive spacing")
    if np.abs(direction).max() > 2 or not np.allclose(
        direction @ direction.T, np.eye(3), rtol=0, atol=_TOLERANCE
    ):
        raise InputError(f"{where}: expected a direction of orthogonal unit vectors")


def _check_labels(features: dict[str, Any], voxels: int, where: str) -> None:
    start, length, value, annotated = (
        np.array(features[f"label/{name}"], np.int64)
        for name in ("start", "length", "value", "annotated")
    )
    if not len(start) == len(length) == len(value):
        raise InputError(
            f"{where}: expected runs of equal number, found {len(start)} label/start, "
            f"{len(length)} label/length, {len(value)} label/value"
        )
    after = np.append(start[1:], voxels)
    inside = (start >= 0) & (start < voxels) & (length > 0)
    if not inside.all() or (length > after - start).any():
        raise InputError(f"{where}: expected ascending runs inside its {voxels} voxels")
    if len(set(annotated)) < len(annotated) or not ((annotated > 0) & (annotated < IGNORE)).all():
        raise InputError(f"{where}: expected different structures from 1 on as label/annotated")
    undeclared = np.setdiff1d(value, [0, *annotated])
    if undeclared.size:
        raise InputError(
            f"{where}: expected labels of the structures annotated in it, found {undeclared[0]}"
        )
