"""One case through bytes and back, eagerly and in a graph, against the table of the schema."""

import zlib

import numpy as np
import pytest
import tensorflow as tf

from tl3d_keras import records
from tl3d_keras.annotation import IGNORE
from tl3d_keras.errors import InputError
from tl3d_keras.volume_io import Volume

KINDS = {
    "case_id": "bytes_list",
    "image": "bytes_list",
    "image/dtype": "bytes_list",
    "image/encoding": "bytes_list",
    "image/shape": "int64_list",
    "geometry": "float_list",
    "label/start": "int64_list",
    "label/length": "int64_list",
    "label/value": "int64_list",
    "label/annotated": "int64_list",
}
DIRECTION = (0.0, 1.0, 0.0, -1.0, 0.0, 0.0, 0.0, 0.0, 1.0)


def volume(rng, dtype=np.int16, channels: int = 2) -> Volume:
    array = rng.integers(-2000, 3000, (3, 4, 5, channels)).astype(dtype)
    if dtype == np.float32:
        array += np.float32(0.3)
    return Volume(array, (3.0, 1.5, 0.75), (-10.0, 20.5, 7.0), DIRECTION)


def sparse(rng) -> np.ndarray:
    return rng.choice(np.array([0, 1, 2, IGNORE, IGNORE], np.uint8), (3, 4, 5))


def eagerly(data: bytes) -> records.Case:
    return records.parse(tf.constant(data))


def in_a_graph(data: bytes) -> records.Case:
    return next(iter(tf.data.Dataset.from_tensors(data).map(records.parse)))


@pytest.mark.parametrize("parse", [eagerly, in_a_graph])
@pytest.mark.parametrize("dtype", [np.int16, np.float32])
@pytest.mark.parametrize("encoding", ["raw", "zlib"])
def test_round_trip(rng, parse, dtype, encoding):
    image, labels = volume(rng, dtype), sparse(rng)
    case = parse(records.encode("case 7", image, labels, [2, 1], encoding))
    assert case.case_id.numpy() == b"case 7"
    assert case.image.dtype == tf.float32
    assert case.annotated.numpy().tolist() == [1, 2]
    assert {part.dtype for part in case[3:]} == {tf.int64}
    found, found_labels = records.to_volumes(case)
    np.testing.assert_array_equal(found.array, image.array.astype(np.float32))
    np.testing.assert_array_equal(found_labels, labels)
    np.testing.assert_array_equal(records.dense_labels(case), labels)
    assert (found.spacing, found.origin, found.direction) == (
        image.spacing,
        image.origin,
        image.direction,
    )


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
@pytest.mark.parametrize("channels", [1, 2])
def test_parts_of_stored_words(rng, dtype, channels):
    image = volume(rng, dtype, channels)
    case = records.parse_words(records.encode("a", image, sparse(rng), []))
    assert case.image.dtype == tf.int16
    part = records.intensities(case.image[1:, :2, 3:], channels)
    np.testing.assert_array_equal(part, image.array[1:, :2, 3:].astype(np.float32))


@pytest.mark.parametrize(("dtype", "encoding"), [(np.int16, "raw"), (np.float32, "zlib")])
def test_features_of_the_schema(rng, dtype, encoding):
    image = volume(rng, dtype)
    labels = np.full((3, 4, 5), IGNORE, np.uint8)
    labels[1, 0, 1:4] = [0, 0, 2]
    data = records.encode("a", image, labels, [2], encoding)
    features = tf.train.Example.FromString(data).features.feature
    assert {name: feature.WhichOneof("kind") for name, feature in features.items()} == KINDS
    values = {name: list(getattr(features[name], kind).value) for name, kind in KINDS.items()}
    stored = values.pop("image")[0]
    content = zlib.decompress(stored) if encoding == "zlib" else stored
    assert content == image.array.astype(np.dtype(dtype).newbyteorder("<")).tobytes()
    assert values == {
        "case_id": [b"a"],
        "image/dtype": [np.dtype(dtype).name.encode()],
        "image/encoding": [encoding.encode()],
        "image/shape": [3, 4, 5, 2],
        "geometry": [3.0, 1.5, 0.75, -10.0, 20.5, 7.0, *DIRECTION],
        "label/start": [21, 23],
        "label/length": [2, 1],
        "label/value": [0, 2],
        "label/annotated": [2],
    }


def test_encoding_is_raw_where_nothing_says_otherwise(rng):
    image = volume(rng)
    example = tf.train.Example.FromString(records.encode("a", image, None, []))
    del example.features.feature["image/encoding"]
    np.testing.assert_array_equal(eagerly(example.SerializeToString()).image, image.array)


@pytest.mark.parametrize("parse", [eagerly, in_a_graph])
def test_unlabelled_case_has_no_runs(rng, parse):
    case = parse(records.encode("a", volume(rng), None, []))
    assert [part.shape[0] for part in case[3:]] == [0, 0, 0, 0]
    assert (records.dense_labels(case) == IGNORE).all()


def test_memory_order_does_not_matter(rng):
    image = volume(rng)
    turned = image.with_array(np.asfortranarray(image.array).astype(">i2"))
    assert records.encode("a", turned, None, []) == records.encode("a", image, None, [])


@pytest.mark.parametrize(
    ("dtype", "labels", "encoding", "message"),
    [
        (np.int16, None, "gzip", "expected an encoding of raw, zlib, found 'gzip'"),
        (np.float64, None, "raw", "case a: expected an int16 or float32 image, found float64"),
        (
            np.int16,
            np.zeros((3, 4, 4), np.uint8),
            "raw",
            r"case a: expected labels of shape \(3, 4, 5\), found \(3, 4, 4\)",
        ),
    ],
)
def test_cases_that_do_not_fit_the_schema(rng, dtype, labels, encoding, message):
    with pytest.raises(InputError, match=message):
        records.encode("a", volume(rng, dtype), labels, [], encoding)
