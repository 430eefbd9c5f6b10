"""The one TFRecord schema: a case in, bytes out; bytes in, tensors out, in TensorFlow ops alone."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tl3d_keras.annotation import IGNORE
from tl3d_keras.case_fields import Fields, make_fields
from tl3d_keras.record_check import DTYPES, ENCODINGS
from tl3d_keras.volumes import Volume

__all__ = [
    "IGNORE",
    "Case",
    "encode",
    "intensities",
    "parse",
    "parse_words",
    "serialize",
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


def parse(serialized: tf.Tensor) -> Case:
    """Parses one serialised case (string scalar), in a graph or eagerly.

    Raises:
        tf.errors.InvalidArgumentError: sizes, kinds or runs that cannot be; `stored_case.decode`
            looks at all the rest too.
    """
    case, channels = _parse(serialized)
    return case._replace(image=intensities(case.image, channels))


def parse_words(serialized: tf.Tensor) -> Case:
    """Parses one serialised case, its image as it is stored, for `intensities` on parts of it.

    The image is int16 [Z, Y, X, C], or [Z, Y, X, 2 C] where two words make a float32.
    """
    return _parse(serialized)[0]


def intensities(words: tf.Tensor, channels: int | tf.Tensor) -> tf.Tensor:
    """The float32 values [Z, Y, X, C] of a part of an image of `parse_words`, or of `parse`."""
    if words.dtype == tf.float32:
        return words
    shape = tf.concat([tf.shape(words)[:3], [channels]], 0)

    def join() -> tf.Tensor:
        return tf.bitcast(tf.reshape(words, tf.concat([shape, [2]], 0)), tf.float32)

    return tf.cond(tf.equal(tf.shape(words)[3], channels), lambda: tf.cast(words, tf.float32), join)


def _parse(serialized: tf.Tensor) -> tuple[Case, tf.Tensor]:
    """A case whose image is words, and its number of channels."""
    features = tf.io.parse_single_example(serialized, _FEATURES)
    _assert_sane(features)
    data = tf.cond(
        tf.equal(features["image/encoding"], "zlib"),
        lambda: tf.io.decode_compressed(features["image"], "ZLIB"),
        lambda: features["image"],
    )
    shape = features["image/shape"]
    per_value = tf.where(tf.equal(features["image/dtype"], "int16"), [1, 1, 1, 1], [1, 1, 1, 2])
    case = Case(
        case_id=features["case_id"],
        image=tf.reshape(tf.io.decode_raw(data, tf.int16), shape * tf.cast(per_value, tf.int64)),
        geometry=features["geometry"],
        start=features["label/start"].values,
        length=features["label/length"].values,
        value=features["label/value"].values,
        annotated=features["label/annotated"].values,
    )
    return case, tf.cast(shape[3], tf.int32)


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


def _feature(value: bytes | np.ndarray) -> tf.train.Feature:
    if isinstance(value, bytes):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
    if value.dtype == np.int64:
        return tf.train.Feature(int64_list=tf.train.Int64List(value=value))
    return tf.train.Feature(float_list=tf.train.FloatList(value=value))
