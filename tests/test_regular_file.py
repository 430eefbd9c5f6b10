"""Named pipes, sockets and devices among the files: a line for each, and nothing waits for them."""

import json
import os
import signal
import stat
from pathlib import Path

import helpers
import numpy as np
import pytest
from dicom_files import SHAPE, write_series

from data_tools import label_files, layouts
from data_tools.sharding import ShardOptions, shard_dataset
from experiments import segment
from tl3d_keras import artifact, dicom_series, volume_io
from tl3d_keras.errors import InputError
from tl3d_keras.volumes import Volume

FOUND = {"pipe": "a named pipe", "socket": "a socket", "device": "a device"}


def make(path: Path, kind: str) -> Path:
    """Puts a file of another kind there, instead of what is there."""
    path.unlink(missing_ok=True)
    if kind == "device":
        path.symlink_to("/dev/zero")
    else:
        os.mknod(path, stat.S_IFIFO if kind == "pipe" else stat.S_IFSOCK)
    return path


@pytest.fixture(autouse=True)
def _in_time():
    """To open a pipe takes for ever."""

    def late(*_):
        raise TimeoutError

    former = signal.signal(signal.SIGALRM, late)
    signal.alarm(30)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, former)


@pytest.fixture
def scan(rng):
    def write(path: Path) -> Path:
        image = rng.normal(size=(6, 7, 8, 1)).astype(np.float32) * 300
        volume_io.write(path, Volume(image, (2.0, 1.0, 1.0)))
        return path

    return write


def test_the_others_of_a_folder_are_segmented(tmp_path, scan, command, capsys):
    artifact.save(helpers.network(), helpers.info(), tmp_path / "model")
    scans = tmp_path / "scans"
    scan(scans / "whole.nii.gz")
    for number, kind in enumerate(FOUND):
        make(scans / f"{number}{kind}.nii.gz", kind)
    make(scans / "other", "pipe")
    (scans / "loop").symlink_to("loop")
    (scans / "3gone.nrrd").symlink_to("nowhere.nrrd")
    with pytest.raises(SystemExit) as ended:
        command(segment, model=tmp_path / "model", input=scans, output=tmp_path / "labels")
    assert ended.value.code == 2
    printed = capsys.readouterr()
    assert printed.err.splitlines()[1:] == [
        *(
            f"error: {scans}/{number}{kind}.nii.gz: expected a file, found {what}"
            for number, (kind, what) in enumerate(FOUND.items())
        ),
        f"error: {scans}/3gone.nrrd: no such file",
        "error: 4 of 5 scans failed",
    ]
    assert printed.out.splitlines()[-1] == "1 of 5 scans segmented, 4 failed, 2 other files skipped"


@pytest.mark.parametrize("kind", FOUND)
@pytest.mark.parametrize("name", ["imagesTr/case_1.nii.gz", "labelsTr/case_0.nii.gz"])
def test_a_case_of_a_data_set(tmp_path, name, kind):
    folder = helpers.write_dataset(tmp_path / "set", 2)
    path = make(folder / name, kind)
    with pytest.raises(InputError, match=f"{path}: expected a file, found {FOUND[kind]}"):
        helpers.make_shards(folder, tmp_path / "records")
    assert not (tmp_path / "records").exists()
    dataset = layouts.read_layout(folder)
    written = shard_dataset(dataset, tmp_path / "records", ShardOptions(on_error="skip"))
    assert len(written.cases) == 1 and FOUND[kind] in written.skipped[0]["reason"]


def test_what_lists_the_cases(tmp_path):
    for name in ("dataset.json", "cases.csv"):
        path = make(tmp_path / name, "pipe")
        with pytest.raises(InputError, match=f"{path}: expected a file, found a named pipe"):
            layouts.read_layout(tmp_path)
        path.unlink()
    content = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1}}
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    for folder, name in (("imagesTr", "a_0000.nii.gz"), ("labelsTr", "a.nii.gz")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).touch()
    path = make(tmp_path / "labelsTr" / "a.nii.gz", "pipe")
    with pytest.raises(InputError, match=f"{path}: expected a file, found a named pipe"):
        layouts.read_layout(tmp_path)


def test_label_files_to_score(tmp_path, scan):
    for name in ("a", "b"):
        scan(tmp_path / "labels" / f"{name}.nii.gz")
    path = make(tmp_path / "labels" / "b.nii.gz", "pipe")
    # Left out, it would be missing from the scores without a word.
    for files in (path.parent, path):
        with pytest.raises(InputError, match=f"{path}: expected a file, found a named pipe"):
            label_files.find_files(files)


def test_among_dicom_slices(tmp_path, rng):
    write_series(tmp_path, rng.integers(0, 3000, SHAPE).astype(np.uint16))
    for kind in FOUND:
        make(tmp_path / kind, kind)
    assert dicom_series.read(tmp_path).GetSize() == SHAPE[::-1]
