"""The one TFRecord schema: a case in, bytes out; bytes in, tensors out, in TensorFlow ops alone."""

import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tl3d_keras.annotation import IGNORE, Runs, from_runs, to_runs
from tl3d_keras.errors import InputError
from tl3d_keras.volume_io import Volume

__all__ = [
    "ENCODINGS",
    "IGNORE",
    "Case",
    "dense_labels",
    "encode",
    "intensities",
    "parse",
    "parse_words",
    "to_volumes",
]

ENCODINGS = ("raw", "zlib")

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
    """Serialises a case as a `tf.train.Example`.

    Args:
        case_id: the case's name.
        image: int16 or float32 array [Z, Y, X, C] on its grid.
        labels: uint8 [Z, Y, X] with IGNORE where unannotated, or None for an unlabelled case.
        annotated: the structures (1..K) annotated in this case.
        encoding: "raw" or "zlib".

    Raises:
        InputError: an unknown encoding, a dtype other than int16 and float32, or labels of another
            shape than the image.
    """
    if encoding not in ENCODINGS:
        raise InputError(f"expected an encoding of {', '.join(ENCODINGS)}, found {encoding!r}")
    dtype = image.array.dtype.name
    if dtype not in ("int16", "float32"):
        raise InputError(f"case {case_id}: expected an int16 or float32 image, found {dtype}")
    if labels is None:
        labels = np.full(image.shape, IGNORE, np.uint8)
    if labels.shape != image.shape:
        raise InputError(
            f"case {case_id}: expected labels of shape {image.shape}, found {labels.shape}"
        )
    data = np.ascontiguousarray(image.array).astype(image.array.dtype.newbyteorder("<")).tobytes()
    runs = to_runs(labels)
    feature = {
        "case_id": _bytes(case_id.encode()),
        "image": _bytes(zlib.compress(data, 6) if encoding == "zlib" else data),
        "image/shape": _ints(image.array.shape),
        "image/dtype": _bytes(dtype.encode()),
        "image/encoding": _bytes(encoding.encode()),
        "geometry": tf.train.Feature(
            float_list=tf.train.FloatList(value=[*image.spacing, *image.origin, *image.direction])
        ),
        "label/start": _ints(runs.start),
        "label/length": _ints(runs.length),
        "label/value": _ints(runs.value),
        "label/annotated": _ints(sorted(annotated)),
    }
    example = tf.train.Example(features=tf.train.Features(feature=feature))
    return example.SerializeToString(deterministic=True)


def parse(serialized: tf.Tensor) -> Case:
    """Parses one serialised case (string scalar), in a graph or eagerly."""
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


def dense_labels(case: Case) -> np.ndarray:
    """The uint8 labels [Z, Y, X] of a case that was parsed eagerly, IGNORE where unannotated."""
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


def _bytes(value: bytes) -> tf.train.Feature:
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))


def _ints(values: Any) -> tf.train.Feature:
    return tf.train.Feature(int64_list=tf.train.Int64List(value=values))
