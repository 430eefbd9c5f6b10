"""Damaged and forged records, dataset.json, tables and manifests: one clear line, or right.

    TL3D_FUZZ=10000 python -m pytest tests/test_fuzz.py

tries that many inputs in all, drawn anew, in about a minute; without it a few hundred, always the
same.
"""

import json
import os
import zlib
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from helpers import write_records
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_tools import layouts
from tl3d_keras import manifest, records, stored_case
from tl3d_keras.annotation import IGNORE
from tl3d_keras.errors import InputError
from tl3d_keras.volumes import Volume

FUZZ = int(os.environ.get("TL3D_FUZZ", "0"))
TARGETS = 4


def fuzz(strategy):
    """Runs a test on its share of the inputs."""

    def decorate(test):
        limits = settings(
            max_examples=(FUZZ or 320) // TARGETS,
            derandomize=not FUZZ,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        return limits(given(strategy)(test))

    return decorate


@st.composite
def damaged(draw, originals: list[bytes]) -> bytes:
    """One of the texts with a few bytes overwritten, taken out or put in."""
    data = bytearray(draw(st.sampled_from(originals)))
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(data)))
        data[start : start + draw(st.integers(0, 6))] = draw(st.binary(max_size=6))
    return bytes(data[: draw(st.one_of(st.none(), st.integers(0, len(data))))])


NAMES = st.sampled_from(
    ["../secret.nrrd", "/etc/passwd", "link.nrrd", "loop.nrrd", "a.nrrd", "a\nb", "\0", "x" * 300]
)
LEAVES = st.one_of(
    NAMES,
    st.none(),
    st.booleans(),
    st.integers(-2, 300),
    st.sampled_from(
        [2**63, -(2**63), 10**400, 1.5, 1e300, float("nan"), float("inf"), "", "\ud800"]
    ),
    st.text(max_size=5),
)
VALUES = st.recursive(
    LEAVES, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=5), v, max_size=3)
)


@st.composite
def forged(draw, originals: list[dict]) -> bytes:
    """One of the JSON objects with a value exchanged, taken out or added somewhere inside."""
    content = json.loads(json.dumps(draw(st.sampled_from(originals))))
    place = content
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = draw(st.sampled_from(keys)) if keys else None
        inner = place[key] if key is not None else None
        if not isinstance(inner, dict | list) or draw(st.integers(0, 3)) == 0:
            break
        place = inner
    if key is None:
        return json.dumps(content).encode()
    if draw(st.booleans()):
        place[key] = draw(VALUES)
    elif isinstance(place, dict) and draw(st.booleans()):
        place[draw(st.text(max_size=5))] = place.pop(key)
    else:
        place.pop(key)
    return json.dumps(content).encode()


def result(read):
    """What `read()` returns, or None after an `InputError` of one line."""
    try:
        return read()
    except InputError as error:
        message = str(error)
        assert message and "\n" not in message and "\r" not in message
        return None


def example(dtype, encoding: str, labelled: bool) -> bytes:
    rng = np.random.default_rng(1)
    array = rng.integers(-9, 9, (2, 3, 4, 1)).astype(dtype)
    labels = rng.choice(np.array([0, 1, 2, IGNORE], np.uint8), (2, 3, 4)) if labelled else None
    volume = Volume(array, (3.0, 1.5, 0.75), (-10.0, 20.5, 7.0))
    return records.encode("case", volume, labels, [1, 2] if labelled else [], encoding)


RECORDS = [
    example(np.int16, "raw", True),
    example(np.float32, "raw", True),
    example(np.int16, "zlib", True),
    example(np.float32, "zlib", False),
]
NUMBERS = st.integers(-2, 30) | st.sampled_from([2**31, 10**12, 2**62, 2**63 - 1, -(2**63)])
STRINGS = st.binary(max_size=60) | st.sampled_from(
    [b"raw", b"zlib", b"int16", b"float32", b"gzip", b"\xff", b"", zlib.compress(bytes(10**6))]
)


@st.composite
def forged_records(draw) -> bytes:
    """A record of which one or two features have other values, another kind or are missing."""
    message = tf.train.Example.FromString(draw(st.sampled_from(RECORDS)))
    features = message.features.feature
    for _ in range(draw(st.integers(1, 2))):
        name = draw(st.sampled_from(sorted(features)))
        kind = features[name].WhichOneof("kind")
        values = list(getattr(features[name], kind).value)
        action = draw(st.sampled_from(["value", "value", "value", "length", "kind", "missing"]))
        if action == "missing":
            del features[name]
            continue
        if action == "kind":
            kind, values = draw(st.sampled_from(["bytes_list", "int64_list", "float_list"])), []
        new = {
            "bytes_list": STRINGS,
            "int64_list": NUMBERS,
            "float_list": st.floats(width=32),
        }[kind]
        if action == "value" and values:
            values[draw(st.integers(0, len(values) - 1))] = draw(new)
        else:
            values = [*values, *draw(st.lists(new, max_size=3))][draw(st.integers(0, 1)) :]
        features[name].Clear()
        getattr(features[name], kind).value.extend(values)
    return message.SerializeToString()


@tf.function(input_signature=[tf.TensorSpec([], tf.string)])
def in_a_graph(serialized):
    return tuple(records.parse(serialized))


@fuzz(damaged(RECORDS) | forged_records())
def test_records(data):
    case = result(lambda: stored_case.decode(data))
    try:
        graph = in_a_graph(data)
    except (tf.errors.OpError, UnicodeDecodeError):  # TensorFlow quotes the bytes in its message.
        graph = None
    if case is None:
        return
    features = tf.train.Example.FromString(data).features.feature
    stored = features["image"].bytes_list.value[0]
    if features["image/encoding"].bytes_list.value[:] == [b"zlib"]:
        stored = zlib.decompress(stored)
    dtype = features["image/dtype"].bytes_list.value[0].decode()
    image = np.frombuffer(stored, dtype).reshape(features["image/shape"].int64_list.value)
    np.testing.assert_array_equal(case.image.array, image)
    start, length, value = (
        features[f"label/{name}"].int64_list.value for name in ("start", "length", "value")
    )
    expected = np.full(image[..., 0].size, IGNORE)
    for s, n, v in zip(start, length, value, strict=True):
        expected[s : s + n] = v
    labels = case.labels
    np.testing.assert_array_equal(labels.ravel(), expected)
    assert (labels != IGNORE).sum() == sum(length)
    assert graph is not None
    np.testing.assert_array_equal(graph[1], image)


DECATHLON = {
    "modality": {"0": "CT"},
    "labels": {"0": "background", "1": "liver", "2": "spleen"},
    "training": [{"image": "a.nrrd", "label": "l.nrrd"}, "b.nrrd"],
    "annotated_labels": {"a": ["liver"]},
}
NNUNET = {
    "channel_names": {"0": "CT"},
    "file_ending": ".nrrd",
    "labels": {"background": 0, "liver": 1, "ignore": 2},
    "annotated_labels": {"p": ["liver"]},
}
TABLE = """case_id,image,label,annotated_mask,annotated_labels
a,{},l.nrrd,m.nrrd,liver;spleen
b,{},,,
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Files that may be listed, and a link that may, to another that may not by its own name."""
    outer = tmp_path_factory.mktemp("fuzz")
    (outer / "secret.nrrd").touch()
    inner = outer / "set"
    for name in ("a.nrrd", "b.nrrd", "l.nrrd", "m.nrrd", "imagesTr/p_0000.nrrd", "labelsTr/p.nrrd"):
        (inner / name).parent.mkdir(parents=True, exist_ok=True)
        (inner / name).touch()
    (inner / "link.nrrd").symlink_to(outer / "secret.nrrd")
    (inner / "loop.nrrd").symlink_to(inner / "loop.nrrd")
    return inner


def assert_sane(data_set: layouts.DataSet, folder: Path) -> None:
    names = data_set.structures
    assert 0 < len(set(names)) == len(names) <= 254 and all(n.isprintable() for n in names)
    assert set(data_set.file_values.values()) <= {IGNORE, *range(len(names) + 1)}
    assert data_set.cases and data_set.channels
    for case in data_set.cases:
        assert case.annotated is None or set(case.annotated) <= set(names)
        for file in (*case.images, case.label, case.annotated_mask):
            assert file is None or (file.exists() and ".." not in file.parts)
            assert file is None or file.is_relative_to(folder)


SETS = [DECATHLON, NNUNET]


@fuzz(damaged([json.dumps(s).encode() for s in SETS]) | forged(SETS))
def test_dataset_json(folder, text):
    (folder / "dataset.json").write_bytes(text)
    found = result(lambda: layouts.read_layout(folder))
    if found:
        assert_sane(found, folder)


@st.composite
def tables(draw) -> bytes:
    image = st.sampled_from(["a.nrrd", "b.nrrd"]) | NAMES | st.text(max_size=5)
    text = TABLE.format(draw(image), draw(image)).encode(errors="replace")
    return draw(damaged([text])) if draw(st.booleans()) else text


@fuzz(tables())
def test_table(folder, text):
    (folder / "cases.csv").write_bytes(text)
    found = result(lambda: layouts.read_layout(folder / "cases.csv", ["liver", "spleen"], ["CT"]))
    if found:
        assert_sane(found, folder)


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> tuple[Path, bytes]:
    """A folder of records and the text of its manifest."""
    path = write_records(tmp_path_factory.mktemp("fuzz"), num_cases=2)
    return path, (path / manifest.FILE_NAME).read_bytes()


@fuzz(st.data())
def test_manifest(shards, data):
    path, text = shards
    (path / manifest.FILE_NAME).write_bytes(data.draw(damaged([text]) | forged([json.loads(text)])))
    found = result(lambda: manifest.load(path))
    if not found:
        return
    for case in found.cases:
        file = path / found.shards[case.shard].file
        assert file.resolve().parent == path.resolve()
        assert 12 <= case.offset < case.offset + case.bytes <= file.stat().st_size - 4
        assert len(case.shape) == 4 and min(case.shape) > 0
        assert set(case.annotated_structures) <= set(found.structures)


def test_undamaged(folder, shards):
    for data in RECORDS:
        assert result(lambda data=data: stored_case.decode(data)) is not None
    for content in SETS:
        (folder / "dataset.json").write_text(json.dumps(content))
        assert result(lambda: layouts.read_layout(folder)) is not None
    (folder / "cases.csv").write_text(TABLE.format("a.nrrd", "b.nrrd"))
    assert result(lambda: layouts.read_layout(folder / "cases.csv", ["liver", "spleen"], ["CT"]))
    shards[0].joinpath(manifest.FILE_NAME).write_bytes(shards[1])
    assert result(lambda: manifest.load(shards[0])) is not None
