"""One case through bytes and back, eagerly and in a graph, against the table of the schema."""

import tracemalloc
import zlib

import numpy as np
import pytest
import tensorflow as tf

from tl3d_keras import records, stored_case
from tl3d_keras.annotation import IGNORE, Runs, from_runs
from tl3d_keras.errors import InputError
from tl3d_keras.volumes import Volume

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
    np.testing.assert_array_equal(case.image, image.array.astype(np.float32))
    geometry = [*image.spacing, *image.origin, *image.direction]
    np.testing.assert_array_equal(case.geometry, np.float32(geometry))
    runs = Runs(case.start.numpy(), case.length.numpy(), case.value.numpy())
    np.testing.assert_array_equal(from_runs(runs, labels.shape), labels)


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
@pytest.mark.parametrize("encoding", ["raw", "zlib"])
def test_stored_case(rng, dtype, encoding):
    image, labels = volume(rng, dtype), sparse(rng)
    found = stored_case.decode(records.encode("case 7", image, labels, [2, 1], encoding))
    assert found.case_id == "case 7" and found.annotated == (1, 2)
    np.testing.assert_array_equal(found.image.array, image.array)
    assert found.image.array.dtype == dtype
    np.testing.assert_array_equal(found.labels, labels)
    for what in ("spacing", "origin", "direction"):
        assert getattr(found.image, what) == pytest.approx(getattr(image, what))


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


def forge(rng, encoding: str = "raw", **features) -> bytes:
    """A record of a case "a" with other values in some features, `_` in a name for its slash."""
    data = records.encode("a", volume(rng, np.float32, 1), sparse(rng), [1, 2], encoding)
    example = tf.train.Example.FromString(data)
    for name, value in features.items():
        feature = example.features.feature[name.replace("_", "/")]
        kind = feature.WhichOneof("kind")
        feature.Clear()
        getattr(feature, kind).value.extend(value)
    return example.SerializeToString()


RUNS = {"label_length": [3, 2], "label_value": [0, 1]}
GEOMETRY = [3.0, 1.5, 0.75, 0.0, 0.0, 0.0, *DIRECTION]
INSANE = [
    ({"image_shape": [10**4, 10**4, 10**4, 1]}, "expected 4000000000000 bytes .* found 240"),
    ({"image_shape": [10**4] * 3 + [1], "encoding": "zlib"}, "compressed bytes cannot hold"),
    ({"image_shape": [-3, 4, -5, 1]}, r"expected a positive image/shape, found \[-3, 4, -5, 1\]"),
    ({"image_shape": [3, 4, 5]}, "expected 4 int64_list as image/shape, found a int64_list of 3"),
    ({"image_dtype": [b"float64"]}, "an image/dtype of int16, float32, found 'float64'"),
    ({"image_encoding": [b"lzma"]}, "an image/encoding of raw, zlib, found 'lzma'"),
    ({"image": [zlib.compress(bytes(240))[:-5]], "encoding": "zlib"}, "one whole zlib stream"),
    ({"image": [b"no zlib" * 40], "encoding": "zlib"}, "expected an image in zlib's format"),
    ({"image": [b"\xff" * 240]}, "expected finite intensities"),
    ({"label_start": [0, 58], **RUNS, "label_length": [3, 3]}, "ascending runs inside its 60"),
    ({"label_start": [0, 2], **RUNS}, "ascending runs inside its 60 voxels"),
    ({"label_start": [5, 2], **RUNS}, "ascending runs inside its 60 voxels"),
    ({"label_start": [-1, 2], **RUNS}, "ascending runs inside its 60 voxels"),
    ({"label_start": [0, 3], **RUNS, "label_length": [-3, 2]}, "ascending runs inside"),
    ({"label_start": [1, 5], **RUNS, "label_length": [2**63 - 1, 2]}, "ascending runs inside"),
    ({"label_start": [0], **RUNS}, "runs of equal number, found 1 label/start, 2 label/length"),
    ({"label_start": [0, 3], **RUNS, "label_value": [0, 3]}, "structures annotated .* found 3"),
    ({"label_start": [0, 3], **RUNS, "label_value": [0, -1]}, "structures annotated .* found -1"),
    ({"label_annotated": [1, 1, 2]}, "expected different structures from 1 on"),
    ({"geometry": [0.0, *GEOMETRY[1:]]}, "expected finite geometry and positive spacing"),
    ({"geometry": [*GEOMETRY[:6], *[1.0] * 9]}, "a direction of orthogonal unit vectors"),
    ({"case_id": [b"a\nb"]}, "expected the name of a case, found 'a.nb'"),
    ({"case_id": [b"\x80"]}, "expected the name of a case, found '.udc80'"),
]
# What only `check` looks at.
CHECK_ALONE = ("stream", "finite", "name", "geometry", "direction", "different", "found 3")


@pytest.mark.parametrize(("features", "message"), INSANE)
def test_insane_record(rng, features, message):
    data = forge(rng, **{k: v for k, v in features.items() if "case" not in k})
    if "case_id" in features:
        example = tf.train.Example.FromString(data)
        example.features.feature["case_id"].bytes_list.value[0] = features["case_id"][0]
        data = example.SerializeToString()
    with pytest.raises(InputError, match=message) as raised:
        stored_case.decode(data)
    assert "\n" not in str(raised.value)
    if not any(word in message for word in CHECK_ALONE):
        with pytest.raises(tf.errors.OpError):
            in_a_graph(data)


def test_record_of_other_bytes():
    for data in (b"", b"\xff" * 99):
        with pytest.raises(InputError, match="record: expected"):
            stored_case.decode(data)


def test_bomb_does_not_go_off(rng):
    bomb = forge(rng, "zlib", image=[zlib.compress(bytes(10**8))])
    tracemalloc.start()
    with pytest.raises(InputError, match="expected 240 bytes for an image .* found more"):
        stored_case.decode(bomb)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10**7
