"""The manifest against the folder it describes: damage and absence are named."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from helpers import case_entry, make_manifest

from tl3d_keras import distribution, manifest
from tl3d_keras.errors import InputError
from tl3d_keras.manifest import CaseEntry, Proposal, ShardEntry, StructureStatistics

COVERAGE = {
    "annotated": {"slices": 2, "voxels": 8},
    "liver": {"slices": 1, "voxels": 3},
    "spleen": {"slices": 0, "voxels": 0},
}

PROPOSAL = Proposal((1.0, 1.0, 1.0), None, (8, 8, 8), [])


def case(name: str, shard: int, annotated: list[str]) -> CaseEntry:
    return case_entry(
        name,
        shard,
        annotated_structures=annotated,
        coverage=COVERAGE,
        body=[distribution.describe(np.arange(9))],
        structures={"liver": StructureStatistics(0.5, [distribution.describe(np.arange(4))])},
    )


@pytest.fixture
def folder(tmp_path) -> Path:
    """Two shards of 100 and 120 bytes and their manifest."""
    shards = []
    for number, size in enumerate((100, 120)):
        data = bytes(range(size))
        (tmp_path / f"shard-{number}.tfrecord").write_bytes(data)
        shards.append(ShardEntry(f"shard-{number}.tfrecord", size, manifest.crc32c(data), "key"))
    cases = [case("a", 0, ["liver"]), case("b", 1, ["spleen", "liver"]), case("c", 1, [])]
    manifest.save(make_manifest(["liver", "spleen"], cases, shards), tmp_path)
    return tmp_path


def edit(folder: Path, **changes) -> None:
    path = folder / manifest.FILE_NAME
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_round_trip(folder):
    text = (folder / manifest.FILE_NAME).read_text()
    loaded = manifest.load(folder)
    assert json.loads(json.dumps(asdict(loaded))) == json.loads(text)
    assert loaded.schema_version == 2 and loaded.tool_version == "1.2.3"
    assert loaded.cases[1].case_id == "b" and loaded.cases[1].coverage == COVERAGE
    assert loaded.shards[1].file == "shard-1.tfrecord"
    manifest.verify(loaded, folder)


def test_crc32c_of_the_published_example():
    # RFC 3720, B.4: 32 bytes of zeros, 32 bytes of ones.
    assert manifest.crc32c(bytes(32)) == "8a9136aa"
    assert manifest.crc32c(b"\xff" * 32) == "62a8ab43"


def test_crc32c_of_a_file_in_pieces(tmp_path):
    data = bytes(range(256)) * 9000
    (tmp_path / "file").write_bytes(data)
    assert manifest.file_crc32c(tmp_path / "file") == manifest.crc32c(data)


@pytest.mark.parametrize("place", [0, 57, 119])
def test_flipped_bit_is_found(folder, place):
    file = folder / "shard-1.tfrecord"
    data = bytearray(file.read_bytes())
    data[place] ^= 4
    file.write_bytes(data)
    loaded = manifest.load(folder)
    with pytest.raises(InputError, match="shard-1.tfrecord: expected CRC32C .* found .*: damaged"):
        manifest.verify(loaded, folder)


def test_truncated_shard_is_named(folder):
    (folder / "shard-1.tfrecord").write_bytes(bytes(119))
    with pytest.raises(InputError, match="shard-1.tfrecord: expected 120 bytes, found 119 bytes"):
        manifest.load(folder)


def test_missing_shard_is_named(folder):
    (folder / "shard-0.tfrecord").unlink()
    with pytest.raises(InputError, match="shard-0.tfrecord: expected 100 .* found no such file"):
        manifest.load(folder)


def test_verify_names_every_damaged_shard_and_its_cases(folder):
    loaded = manifest.load(folder)
    (folder / "shard-0.tfrecord").unlink()
    (folder / "shard-1.tfrecord").write_bytes(bytes(120))
    assert manifest.load(folder, check_shards=False) == loaded
    with pytest.raises(InputError) as error:
        manifest.verify(loaded, folder)
    first, second = str(error.value).splitlines()
    assert first.endswith(
        "shard-0.tfrecord: expected 100 bytes, found no such file; cases in it: a"
    )
    assert "shard-1.tfrecord: expected CRC32C" in second
    assert second.endswith(": damaged; cases in it: b, c")
    (folder / "shard-1.tfrecord").write_bytes(bytes(119))
    with pytest.raises(InputError, match="shard-1.tfrecord: expected 120 bytes, found 119 bytes;"):
        manifest.verify(loaded, folder)


def test_many_cases_of_a_damaged_shard_fit_on_a_line(folder):
    many = replace(manifest.load(folder), cases=[case(f"c{n}", 0, []) for n in range(9)])
    (folder / "shard-0.tfrecord").unlink()
    with pytest.raises(InputError, match="cases in it: 9, c0 to c8 in the manifest's order$"):
        manifest.verify(many, folder)


def test_no_manifest(tmp_path):
    with pytest.raises(InputError, match="manifest.json: cannot read: No such .*; expected a"):
        manifest.load(tmp_path)


@pytest.mark.parametrize("text", ["{", "", "\x00\x01"])
def test_not_json(folder, text):
    (folder / manifest.FILE_NAME).write_text(text)
    with pytest.raises(InputError, match="manifest.json: not valid JSON: "):
        manifest.load(folder)


@pytest.mark.parametrize(("text", "found"), [("{}", "None"), ('{"schema_version": 1}', "1")])
def test_another_schema(folder, text, found):
    (folder / manifest.FILE_NAME).write_text(text)
    with pytest.raises(InputError, match=f"expected schema_version 2, found {found}$"):
        manifest.load(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shards": [{"file": "shard-0.tfrecord"}]}, "not a manifest of this schema: "),
        ({"cases": None}, "not a manifest of this schema: cases: "),
        (
            {"cases": [asdict(case("a", 0, [])) | {"shape": [3, "x"]}]},
            r"not a manifest of this schema: cases\.0\.shape\.1: .*integer",
        ),
        ({"colour": "red"}, "not a manifest of this schema: .*colour"),
        (
            {"shards": [asdict(ShardEntry("../s.tfrecord", 1, "0", "0"))]},
            r"expected shard names without folders, found '\.\./s\.tfrecord'",
        ),
        ({"cases": [asdict(case("a", 2, []))]}, "case a names a shard that is not listed"),
        ({"cases": [asdict(case("a", 0, [])) | {"bytes": 85}]}, "case a lies outside its shard"),
        ({"cases": [asdict(case("a", 0, [])) | {"offset": -9}]}, "case a lies outside its shard"),
        (
            {"cases": [asdict(case("a", 0, [])) | {"shape": [3, 4, -5, 1]}]},
            "case a: expected a shape",
        ),
        ({"cases": [asdict(case("a", 0, ["heart"]))]}, "case a: .* found 'heart'"),
        (
            {"cases": [asdict(case("a", 0, [])) | {"coverage": {}}]},
            "case a: expected the coverage of annotated, found {}",
        ),
        (
            {"cases": [asdict(case("a", 0, [])) | {"intensity": []}]},
            r"case a: expected maximum, mean, minimum, std of 1 channels as intensity, found \[\]",
        ),
        (
            {"cases": [asdict(case("a", 0, [])) | {"intensity": [{"mean": 1.5}]}]},
            "case a: expected maximum, mean, .* as intensity, found",
        ),
        ({"cases": [asdict(case("a", 0, []))] * 2}, "expected cases of different names"),
        ({"spacing": [1.0, 0.0, 1.0]}, "expected a positive spacing"),
        ({"cases": [asdict(case("a", -1, []))]}, "case a names a shard that is not listed"),
        ({"cases": []}, "expected cases, found none"),
        (
            {"proposal": asdict(PROPOSAL) | {"patch_size": [8, 8]}},
            r"expected a proposed patch size z, y, x, found \(8, 8\)",
        ),
        (
            {"proposal": asdict(PROPOSAL) | {"patch_size": [8, 0, 8]}},
            r"expected a proposed patch size z, y, x, found \(8, 0, 8\)",
        ),
        (
            {"proposal": asdict(PROPOSAL) | {"window": [[0, 1], [0, 1]]}},
            "expected a proposed window low < high of 1 channels, found ",
        ),
        (
            {"proposal": asdict(PROPOSAL) | {"window": [[1, 1]]}},
            "expected a proposed window low < high of 1 channels, found ",
        ),
    ],
)
def test_malformed(folder, changes, message):
    edit(folder, **changes)
    with pytest.raises(InputError, match=f"manifest.json: {message}"):
        manifest.load(folder)


def test_select_keeps_the_order_asked_for(folder):
    loaded = manifest.load(folder)
    assert [c.case_id for c in loaded.select(["c", "a"])] == ["c", "a"]
    with pytest.raises(InputError, match=r"expected case names .* \(3 cases, .* found x, y$"):
        loaded.select(["a", "x", "y"])


def test_fully_labelled(folder):
    loaded = manifest.load(folder)
    assert [loaded.is_fully_labelled(c) for c in loaded.cases] == [False, True, False]


def test_fingerprint_follows_the_shards(folder):
    loaded = manifest.load(folder)
    assert loaded.fingerprint == replace(loaded, tool_version="9").fingerprint
    other = replace(loaded.shards[1], crc32c="00000000")
    assert loaded.fingerprint != replace(loaded, shards=[loaded.shards[0], other]).fingerprint


def test_shard_that_is_a_link_out_of_the_folder(folder):
    shard = folder / "shard-0.tfrecord"
    outside = folder.parent / "outside.tfrecord"
    shard.rename(outside)
    shard.symlink_to(outside)
    with pytest.raises(InputError, match="expected shards in its folder, found a link 'shard-0"):
        manifest.load(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "recursion"),
        ('{"a": 1, "a": 2}', "a key is given twice"),
        ('{"a": NaN}', "NaN is no number"),
    ],
)
def test_json_that_is_not_to_be_trusted(folder, text, message):
    (folder / manifest.FILE_NAME).write_text(text)
    with pytest.raises(InputError, match=f"not valid JSON: .*{message}"):
        manifest.load(folder)
