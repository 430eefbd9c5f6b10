"""A case as the features of its record; no TensorFlow, for workers."""

import zlib
from collections.abc import Sequence

import numpy as np

from tl3d_keras.annotation import IGNORE, to_runs
from tl3d_keras.errors import InputError
from tl3d_keras.record_check import DTYPES, ENCODINGS
from tl3d_keras.volumes import Volume

Fields = dict[str, bytes | np.ndarray]


def make_fields(
    case_id: str,
    image: Volume,
    labels: np.ndarray | None,
    annotated: Sequence[int],
    encoding: str = "raw",
) -> Fields:
    """The features of a case's record by name: bytes, int64 and float32 arrays.

    Args:
        case_id: the case's name.
        image: int16 or float32 [Z, Y, X, C].
        labels: uint8 [Z, Y, X], IGNORE where unannotated; None for an unlabelled case.
        annotated: the structures (1..K) annotated in this case.
        encoding: "raw" or "zlib".

    Raises:
        InputError: an unknown encoding, a dtype other than int16 and float32, or labels of another
            shape than the image.
    """
    if encoding not in ENCODINGS:
        raise InputError(f"expected an encoding of {', '.join(ENCODINGS)}, found {encoding!r}")
    dtype = image.array.dtype.name
    if dtype not in DTYPES:
        raise InputError(f"case {case_id}: expected an int16 or float32 image, found {dtype}")
    if labels is None:
        labels = np.full(image.shape, IGNORE, np.uint8)
    if labels.shape != image.shape:
        raise InputError(
            f"case {case_id}: expected labels of shape {image.shape}, found {labels.shape}"
        )
    data = np.ascontiguousarray(image.array, image.array.dtype.newbyteorder("<"))
    runs = to_runs(labels)
    return {
        "case_id": case_id.encode(),
        "image": zlib.compress(data.data, 6) if encoding == "zlib" else data.tobytes(),
        "image/shape": np.array(image.array.shape),
        "image/dtype": dtype.encode(),
        "image/encoding": encoding.encode(),
        "geometry": np.array([*image.spacing, *image.origin, *image.direction], np.float32),
        "label/start": runs.start,
        "label/length": runs.length,
        "label/value": runs.value,
        "label/annotated": np.sort(np.array(annotated, np.int64)),
    }
