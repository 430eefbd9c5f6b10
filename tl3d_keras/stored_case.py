"""A case out of its shard as arrays, checked first; training reads in a graph instead."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tl3d_keras import record_check
from tl3d_keras.annotation import Runs, from_runs
from tl3d_keras.errors import InputError
from tl3d_keras.manifest import CaseEntry, Manifest
from tl3d_keras.volumes import Volume


class StoredCase(NamedTuple):
    """What a record holds.

    Attributes:
        case_id: the case's name.
        image: int16 or float32 [Z, Y, X, C] on its grid.
        labels: uint8 [Z, Y, X], IGNORE where unannotated.
        annotated: the structures (1..K) annotated in it.
    """

    case_id: str
    image: Volume
    labels: np.ndarray
    annotated: tuple[int, ...]


def read(folder: str | Path, manifest: Manifest, case: CaseEntry) -> StoredCase:
    """Reads a case.

    Raises:
        InputError: the shard cannot be read, or holds no sane record where the case should be.
    """
    path = Path(folder) / manifest.shards[case.shard].file
    try:
        with open(path, "rb") as shard:
            shard.seek(case.offset)
            serialized = shard.read(case.bytes)
        return decode(serialized)
    except OSError as error:
        raise InputError(f"{path}: cannot read: {error.strerror}") from error
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def decode(serialized: bytes) -> StoredCase:
    """Decodes a serialised case; an `InputError` says what is wrong with it."""
    example, data = record_check.check(tf.train.Example, serialized)
    features = example.features.feature
    shape = features["image/shape"].int64_list.value
    dtype = np.dtype(_text(features["image/dtype"])).newbyteorder("<")
    geometry = features["geometry"].float_list.value
    image = Volume(
        np.frombuffer(data, dtype).reshape(shape),
        (geometry[0], geometry[1], geometry[2]),
        (geometry[3], geometry[4], geometry[5]),
        tuple(geometry[6:]),
    )
    start, length, value = (
        np.array(features[f"label/{name}"].int64_list.value, np.int64)
        for name in ("start", "length", "value")
    )
    return StoredCase(
        _text(features["case_id"]),
        image,
        from_runs(Runs(start, length, value), image.shape),
        tuple(features["label/annotated"].int64_list.value),
    )


def _text(feature: tf.train.Feature) -> str:
    return feature.bytes_list.value[0].decode()
