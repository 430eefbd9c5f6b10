"""The one TFRecord schema: a case in, bytes out; bytes in, tensors out, in TensorFlow ops alone."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tl3d_keras import record_check
from tl3d_keras.annotation import IGNORE, Runs, from_runs
from tl3d_keras.case_fields import Fields, make_fields
from tl3d_keras.record_check import DTYPES, ENCODINGS
from tl3d_keras.volume_io import Volume

__all__ = [
    "IGNORE",
    "Case",
    "check",
    "dense_labels",
    "encode",
    "parse",
    "serialize",
    "to_volumes",
]

_FEATURES = {
    "case_id": tf.io.FixedLenFeature([], tf.string),
    "image": tf.io.FixedLenFeature([], tf.string),
    "image/shape": tf.io.FixedLenFeature([4], tf.int64),
    "image/dtype": tf.io.FixedLenFeature([], tf.string),
    "image/encoding": tf.io.FixedLenFeature([], tf.string, default_value="raw"),
    "geometry": tf.io.FixedLenFeature([15], tf.float32),
    "label/start": tf.io.VarLenFeature(tf.int64),
    "label/length": tf.io.VarLenFeature(tf.int64),
    "label/value": tf.io.VarLenFeature(tf.int64),
    "label/annotated": tf.io.VarLenFeature(tf.int64),
}


class Case(NamedTuple):
    """A parsed record.

    Attributes:
        case_id: string scalar.
        image: int16 or float32 [Z, Y, X, C], as stored, cast to float32.
        geometry: float32 [15]: spacing z,y,x; origin x,y,z; direction row-major.
        start: int64 [R], first voxel of each run of equal label over the flattened [Z, Y, X].
        length: int64 [R].
        value: int64 [R], labels 0..K.
        annotated: int64 [A], the structures (1..K) annotated in this case.
    """

    case_id: Any
    image: Any
    geometry: Any
    start: Any
    length: Any
    value: Any
    annotated: Any


def encode(
    case_id: str,
    image: Volume,
    labels: np.ndarray | None,
    annotated: Sequence[int],
    encoding: str = "raw",
) -> bytes:
    """Serialises a case; its arguments and errors are those of `case_fields.make_fields`."""
    return serialize(make_fields(case_id, image, labels, annotated, encoding))


def serialize(fields: Fields) -> bytes:
    """The `tf.train.Example` of `case_fields.make_fields`, as bytes that depend on it alone."""
    example = tf.train.Example(
        features=tf.train.Features(feature={k: _feature(v) for k, v in fields.items()})
    )
    return example.SerializeToString(deterministic=True)


def check(serialized: bytes) -> None:
    """Raises an `InputError` that names what is wrong, unless this is a whole and sane record."""
    record_check.check(tf.train.Example, serialized)


def parse(serialized: tf.Tensor) -> Case:
    """Parses one serialised case (string scalar), in a graph or eagerly.

    Raises:
        InputError: eagerly, what `check` finds.
        tf.errors.InvalidArgumentError: in a graph, which looks at sizes and runs alone.
    """
    if tf.executing_eagerly():
        example = record_check.check(tf.train.Example, tf.convert_to_tensor(serialized).numpy())
        # As Protobuf reads it: of features that are there twice both parsers could take another.
        serialized = example.SerializeToString(deterministic=True)
    features = tf.io.parse_single_example(serialized, _FEATURES)
    _assert_sane(features)
    data = tf.cond(
        tf.equal(features["image/encoding"], "zlib"),
        lambda: tf.io.decode_compressed(features["image"], "ZLIB"),
        lambda: features["image"],
    )
    flat = tf.cond(
        tf.equal(features["image/dtype"], "int16"),
        lambda: tf.cast(tf.io.decode_raw(data, tf.int16), tf.float32),
        lambda: tf.io.decode_raw(data, tf.float32),
    )
    return Case(
        case_id=features["case_id"],
        image=tf.reshape(flat, features["image/shape"]),
        geometry=features["geometry"],
        start=features["label/start"].values,
        length=features["label/length"].values,
        value=features["label/value"].values,
        annotated=features["label/annotated"].values,
    )


def _assert_sane(features: dict[str, Any]) -> None:
    """What costs little in a graph: known kinds, a positive shape, ascending runs inside it."""
    shape, start = features["image/shape"], features["label/start"].values
    length, value = features["label/length"].values, features["label/value"].values
    after = tf.concat([start[1:], [tf.reduce_prod(shape[:3])]], 0)
    kinds = tf.stack([features["image/encoding"], features["image/dtype"]])
    paired = tf.size(start) == tf.stack([tf.size(length), tf.size(value)])
    known = tf.reduce_any(kinds[:, tf.newaxis] == tf.constant([ENCODINGS, DTYPES]), axis=1)
    # Of numbers that are not negative the difference cannot overflow, as the sum could.
    runs = [start >= 0, length > 0, length <= after - start, value >= 0, value < IGNORE]
    # `tf.debugging.Assert` would hide its message in a branch, which costs more than the checks.
    tf.raw_ops.Assert(
        condition=tf.reduce_all(tf.concat([known, shape > 0, paired, *runs], 0)),
        data=["expected a sane record, found this kind, shape or its runs:", kinds, shape],
    )


def dense_labels(case: Case) -> np.ndarray:
    """The uint8 labels [Z, Y, X] of a case that was parsed, IGNORE where unannotated."""
    runs = Runs(case.start.numpy(), case.length.numpy(), case.value.numpy())
    return from_runs(runs, case.image.shape[:3])


def to_volumes(case: Case) -> tuple[Volume, np.ndarray]:
    """The float32 image on its grid and the uint8 labels of a case that was parsed eagerly."""
    geometry = [float(g) for g in case.geometry.numpy()]
    spacing, origin = (
        (geometry[0], geometry[1], geometry[2]),
        (geometry[3], geometry[4], geometry[5]),
    )
    image = Volume(case.image.numpy(), spacing, origin, tuple(geometry[6:]))
    return image, dense_labels(case)


def _feature(value: bytes | np.ndarray) -> tf.train.Feature:
    if isinstance(value, bytes):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
    if value.dtype == np.int64:
        return tf.train.Feature(int64_list=tf.train.Int64List(value=value))
    return tf.train.Feature(float_list=tf.train.FloatList(value=value))
