"""What the inspection prints of a small record set, what it finds damaged, and what it draws."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import case_entry, make_manifest, make_shards

from data_tools import inspect, tables
from tl3d_keras import manifest, overlays, slices, thumbnails, volume_io
from tl3d_keras.annotation import IGNORE
from tl3d_keras.errors import InputError
from tl3d_keras.volumes import Volume

ROOT = Path(__file__).resolve().parents[1]


def dataset(folder: Path) -> Path:
    """Two CT cases 4 x 6 x 8: `whole` with a liver, `part` with two annotated slices, no spleen."""
    image = np.arange(192, dtype=np.int16).reshape(4, 6, 8, 1)
    whole = np.zeros((4, 6, 8, 1), np.uint8)
    whole[1:3, 2:4, 3:6] = 1
    part = np.full_like(whole, IGNORE)
    part[1] = 0
    part[2] = 0
    part[2, :2, :2] = 1
    for name, labels in (("whole", whole), ("part", part)):
        volume_io.write(folder / f"images/{name}.nii.gz", Volume(image, (2.0, 1.0, 1.0)))
        volume_io.write(folder / f"labels/{name}.nii.gz", Volume(labels, (2.0, 1.0, 1.0)))
    (folder / "dataset.json").write_text(
        json.dumps(
            {
                "modality": {"0": "CT"},
                "labels": {"0": "background", "1": "liver", "2": "spleen"},
                "training": [
                    {"image": f"images/{n}.nii.gz", "label": f"labels/{n}.nii.gz"}
                    for n in ("whole", "part")
                ],
                "annotated_labels": {"part": ["liver"]},
            }
        )
    )
    return folder


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inspect")
    make_shards(dataset(folder / "data"), folder / "records")
    return folder / "records"


def test_tables(records, command, capsys):
    command(inspect, records_dir=records)
    lines = capsys.readouterr().out.splitlines()
    content = manifest.load(records)
    size = sum(f.stat().st_size for f in records.glob("*.tfrecord")) / 2**20
    assert lines[:3] == [
        "2 cases, 2 structures",
        "channels: CT; spacing 2, 1, 1 mm (z, y, x)",
        f"1 shards, {size:.1f} MiB, fingerprint {content.fingerprint}, "
        f"written by tl3d-keras {content.tool_version}",
    ]
    cells = [line.split("  ") for line in lines[4:7]]
    rows = [[cell.strip() for cell in row if cell.strip()] for row in cells]
    assert rows == [
        ["case", "shape z,y,x", "annotated slices", "voxels", "structures annotated"],
        ["whole", "4 x 6 x 8", "4 of 4", "100.0%", "liver, spleen"],
        ["part", "4 x 6 x 8", "2 of 4", "50.0%", "liver"],
    ]
    assert [line.split() for line in lines[9:11]] == [
        ["liver", "2", "2", "3", "16"],
        ["spleen", "1", "0", "0", "0"],
    ]
    assert len({len(line) for line in lines[8:11]}) == 1
    assert lines[11:] == ["", *content.proposal.reasons]


def test_one_case(records, command, capsys):
    command(inspect, records_dir=records, case="part")
    out = capsys.readouterr().out
    assert "part" in out and "whole" not in out
    assert [line.split() for line in out.splitlines()[-2:]] == [
        ["liver", "1", "1", "1", "4"],
        ["spleen", "0", "0", "0", "0"],
    ]


@pytest.mark.parametrize(
    ("names", "annotated", "expected"),
    [
        ("abcdef", "abcdef", "all 6"),
        ("abcdef", "abcde", "a, b, c, d and 1 more"),
        ("abcdef", "ef", "e, f"),
        ("ab", "ab", "a, b"),
        ("ab", "", "none"),
    ],
)
def test_names_fit_on_a_line(names, annotated, expected):
    coverage = {name: {"slices": 0, "voxels": 0} for name in ("annotated", *names)}
    case = case_entry(annotated_structures=list(annotated), coverage=coverage)
    content = make_manifest(names, [case])
    assert tables.case_table(content, [case])[1].split("%  ")[1] == expected


def test_verify_reads_and_names_the_damaged_shard(records, command, capsys, tmp_path):
    command(inspect, records_dir=records, verify=True)
    assert capsys.readouterr().out.splitlines()[-1] == "1 shards verified"
    for file in records.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    shard = tmp_path / "shard-00000.tfrecord"
    damaged = bytearray(shard.read_bytes())
    damaged[40] ^= 1
    shard.write_bytes(damaged)
    command(inspect, records_dir=tmp_path)
    with pytest.raises(InputError, match=r"shard-00000.tfrecord: expected CRC32C .*: damaged"):
        command(inspect, records_dir=tmp_path, verify=True)
    assert "verified" not in capsys.readouterr().out


def test_verify_names_all_that_is_damaged_with_exit_code_2(records, tmp_path):
    # A shard a case: one damaged, one gone.
    content = json.loads((records / "manifest.json").read_text())
    shard = content["shards"][0]
    content["shards"] = [shard, {**shard, "file": "gone.tfrecord"}]
    content["cases"][1]["shard"] = 1
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    (tmp_path / shard["file"]).write_bytes(bytes(shard["bytes"]))
    done = subprocess.run(
        [sys.executable, "-m", "data_tools.inspect", f"--records_dir={tmp_path}", "--verify"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    damaged, gone = done.stderr.splitlines()
    assert damaged.startswith(f"error: {tmp_path}/shard-00000.tfrecord: expected CRC32C")
    assert damaged.endswith("damaged; cases in it: whole")
    assert gone.startswith(f"error: {tmp_path}/gone.tfrecord: expected ")
    assert gone.endswith("found no such file; cases in it: part")


def test_page(records, command, capsys, tmp_path, monkeypatch):
    drawn = []
    jpeg = thumbnails.jpeg
    monkeypatch.setattr(thumbnails, "jpeg", lambda *a: drawn.append(a) or jpeg(*a))
    path = tmp_path / "new" / "page.html"
    command(inspect, records_dir=records, html=path)
    assert capsys.readouterr().out.splitlines()[-1] == f"2 cases on a page: {path}"
    page = path.read_text()
    assert "<h1>Records: records</h1>" in page
    assert re.findall("<h3>(.*?)</h3>", page) == ["part", "whole"]
    assert page.count("data:image/jpeg;base64,/9j/") == 2
    (image, labels, spacing, window), (_, sparse, _, _) = drawn
    np.testing.assert_array_equal(image, np.arange(192).reshape(4, 6, 8))
    assert (labels != IGNORE).all() and (sparse[0] == IGNORE).all()
    assert (spacing, window) == ((2, 1, 1), slices.CT_WINDOW)


def test_draws_the_case_with_its_labels(records, command, capsys, tmp_path, monkeypatch):
    drawn = []
    overlay = overlays.overlay
    monkeypatch.setattr(overlays, "overlay", lambda *a: drawn.append(a) or overlay(*a))
    path = tmp_path / "part.png"
    command(inspect, records_dir=records, case="part", png=path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out.splitlines()[-1] == f"part: {path}"
    [(image, labels, spacing, structures, title, window)] = drawn
    # The files are in LPS already, so the arrays come back as they were written.
    np.testing.assert_array_equal(image, np.arange(192).reshape(4, 6, 8))
    assert np.unique(labels, return_counts=True)[1].tolist() == [92, 4, 96]
    assert labels[2, 0, 0] == 1 and (labels[0] == IGNORE).all()
    assert (spacing, structures, window) == ((2, 1, 1), ["liver", "spleen"], slices.CT_WINDOW)
    assert title == "part (CT)"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"png": "a.png"}, "--png: expected --case"),
        ({"case": "other", "png": "a.png"}, "expected case names of the records .*, found other"),
        ({"case": "part", "png": "a.gif"}, "expected a file name that ends in .png, found a.gif"),
        ({"html": "page"}, "--html: expected a file name that ends in .html, found page"),
    ],
)
def test_wrong_flags(records, command, flags, message):
    with pytest.raises(InputError, match=message):
        command(inspect, records_dir=records, **flags)


@pytest.mark.parametrize("name", ["html", "png"])
def test_a_place_that_cannot_be_written_is_known_before(records, command, capsys, tmp_path, name):
    (tmp_path / "file").touch()
    path = tmp_path / "file" / f"a.{name}"
    with pytest.raises(InputError, match=f"a.{name}: cannot write: Not a directory"):
        command(inspect, records_dir=records, case="part", **{name: path})
    assert not capsys.readouterr().out


def test_exit_code_and_no_tensorflow_for_tables(records, tmp_path):
    code = (
        "import sys; from data_tools import inspect, tables; "
        f"sys.argv = ['inspect', '--records_dir={records}', '--verify']\n"
        "try: inspect.cli()\nfinally: print('tensorflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-2:] == ["1 shards verified", "False"]
    done = subprocess.run(
        [sys.executable, "-m", "data_tools.inspect", f"--records_dir={tmp_path}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {tmp_path}/manifest.json: cannot read")
    assert len(done.stderr.splitlines()) == 1
