"""Whatever stops it, sharding goes on with what is missing and ends in the same bytes."""

import csv
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import make_shards, write_dataset

from data_tools import case_pool, case_reader, layouts, prepare, tables
from data_tools.plan import make_plan, read_header
from data_tools.reading import ReadOptions
from data_tools.sharding import ShardOptions, shard_dataset
from tl3d_keras import manifest, stored_case, volume_io
from tl3d_keras.errors import InputError, ServerError
from tl3d_keras.volumes import Volume
from tl3d_keras.whole_folder import whole_folder

ROOT = Path(__file__).resolve().parents[1]
ONE_CASE_A_SHARD = {"shard_bytes": 1}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def dataset_dir(tmp_path_factory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("sharding") / "set", 5)


@pytest.fixture(scope="module")
def expected(dataset_dir) -> dict[str, bytes]:
    """The records of an uninterrupted run, one case a shard."""
    out = dataset_dir.parent / "expected"
    make_shards(dataset_dir, out, **ONE_CASE_A_SHARD)
    return contents(out)


@pytest.fixture
def own_dataset_dir(tmp_path) -> Path:
    """A data set that a test may spoil."""
    return write_dataset(tmp_path / "own" / "set", 4)


def spoil(dataset_dir: Path, case: str) -> bytes:
    path = dataset_dir / "labelsTr" / f"{case}.nii.gz"
    good = path.read_bytes()
    path.write_bytes(b"")
    return good


class Killed(BaseException):
    """Stops a run where a signal would."""


def run_until(case: str, dataset_dir: Path, out: Path) -> None:
    def say(line: str) -> None:
        if line.startswith(case):
            raise Killed

    options = ShardOptions(**ONE_CASE_A_SHARD)
    with pytest.raises(Killed):
        shard_dataset(layouts.read_layout(dataset_dir), out, options, say)


@pytest.mark.parametrize("case", ["case_0", "case_2", "case_4"])
def test_goes_on_with_what_is_missing(dataset_dir, expected, tmp_path, capsys, case):
    run_until(case, dataset_dir, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    make_shards(dataset_dir, tmp_path / "out", **ONE_CASE_A_SHARD)
    done = int(case[-1])
    printed = capsys.readouterr().out
    assert (f"{done} of 5 shards are there already" in printed) == (done > 0)
    assert printed.count(": annotated ") == 5 - done
    assert contents(tmp_path / "out") == expected
    assert names(tmp_path) == ["out"]


def test_killed_by_the_system(dataset_dir, expected, tmp_path):
    flags = [f"--dataset_dir={dataset_dir}", f"--output_dir={tmp_path / 'out'}"]
    script = (
        "import time; from data_tools import shard, sharding, prepare, case_pool\n"
        "import functools; whole = sharding.ShardOptions\n"
        "shard.ShardOptions = lambda spacing, size, *rest: whole(spacing, 1, *rest)\n"
        "slow = case_pool.prepare\n"
        "case_pool.prepare = lambda *a, **k: (time.sleep(0.3), slow(*a, **k))[1]\n"
        "shard.cli()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, *flags], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("case_2"):
            break
    time.sleep(0.1)
    process.kill()
    process.stdout.close()
    assert process.wait() == -signal.SIGKILL
    left = names(tmp_path / ".out.building")
    assert "shard-00001.tfrecord" in left and "manifest.json" not in left
    make_shards(dataset_dir, tmp_path / "out", **ONE_CASE_A_SHARD)
    assert contents(tmp_path / "out") == expected


def test_shards_of_other_settings_are_made_anew(dataset_dir, tmp_path, capsys):
    run_until("case_3", dataset_dir, tmp_path / "out")
    make_shards(dataset_dir, tmp_path / "out", encoding="zlib", **ONE_CASE_A_SHARD)
    printed = capsys.readouterr().out
    assert printed.count(": annotated ") == 5 and "are there already" not in printed
    for entry in manifest.load(tmp_path / "out").shards:
        assert b"zlib" in (tmp_path / "out" / entry.file).read_bytes()


def test_a_changed_file_is_read_again(own_dataset_dir, tmp_path, capsys):
    run_until("case_2", own_dataset_dir, tmp_path / "out")
    label = own_dataset_dir / "labelsTr" / "case_0.nii.gz"
    volume = volume_io.read_labels(label)
    volume_io.write(label, volume.with_array(np.zeros_like(volume.array)))
    capsys.readouterr()
    written = make_shards(own_dataset_dir, tmp_path / "out", **ONE_CASE_A_SHARD)
    assert "1 of 4 shards are there already" in capsys.readouterr().out
    assert written.cases[0].coverage["liver"]["voxels"] == 0
    assert written.cases[1].coverage["liver"]["voxels"] > 0


def test_a_doubt_outlives_the_run_that_had_it(own_dataset_dir, tmp_path, capsys):
    label = own_dataset_dir / "labelsTr" / "case_0.nii.gz"
    volume = volume_io.read_labels(label)
    volume_io.write(label, volume.with_array(np.full_like(volume.array, 255)))
    run_until("case_2", own_dataset_dir, tmp_path / "out")
    doubt = "case_0: nothing of its label counts as annotated"
    for _ in ("resumed", "there already"):
        capsys.readouterr()
        written = make_shards(own_dataset_dir, tmp_path / "out", **ONE_CASE_A_SHARD)
        assert f"warning: {doubt}" in capsys.readouterr().out
        assert doubt in written.cases[0].warnings
    assert doubt in tables.notes(manifest.load(tmp_path / "out"))


def test_damaged_parts_are_made_anew(dataset_dir, expected, tmp_path):
    run_until("case_4", dataset_dir, tmp_path / "out")
    building = tmp_path / ".out.building"
    flipped = bytearray((building / "shard-00000.tfrecord").read_bytes())
    flipped[99] ^= 1
    (building / "shard-00000.tfrecord").write_bytes(flipped)
    (building / "shard-00001.tfrecord.part.json").write_text("{}")
    (building / "shard-00002.tfrecord").unlink()
    make_shards(dataset_dir, tmp_path / "out", **ONE_CASE_A_SHARD)
    assert contents(tmp_path / "out") == expected


def test_a_bad_case_keeps_the_shards_before_it(own_dataset_dir, tmp_path, capsys):
    good = spoil(own_dataset_dir, "case_2")
    with pytest.raises(InputError, match="case_2.nii.gz: expected a medical image"):
        make_shards(own_dataset_dir, tmp_path / "out", **ONE_CASE_A_SHARD)
    assert not (tmp_path / "out").exists()
    (own_dataset_dir / "labelsTr" / "case_2.nii.gz").write_bytes(good)
    capsys.readouterr()
    make_shards(own_dataset_dir, tmp_path / "out", **ONE_CASE_A_SHARD)
    assert "2 of 4 shards are there already" in capsys.readouterr().out


@pytest.mark.parametrize("shard_bytes", [1, 1 << 20])
def test_skipping(own_dataset_dir, tmp_path, capsys, shard_bytes):
    spoil(own_dataset_dir, "case_1")
    (own_dataset_dir / "imagesTr" / "case_3.nii.gz").write_bytes(b"no image")
    out = tmp_path / "out"
    written = make_shards(own_dataset_dir, out, on_error="skip", shard_bytes=shard_bytes)
    assert [case.case_id for case in written.cases] == ["case_0", "case_2"]
    cases = [stored_case.read(out, written, case) for case in written.cases]
    assert [case.case_id for case in cases] == ["case_0", "case_2"]
    with open(out / "skipped.csv", newline="") as file:
        rows = {row["case_id"]: row["reason"] for row in csv.DictReader(file)}
    assert "labelsTr/case_1.nii.gz: expected a medical image, found an empty file" in rows["case_1"]
    assert "imagesTr/case_3.nii.gz: cannot read" in rows["case_3"]
    assert written.skipped == [{"case_id": c, "reason": r} for c, r in sorted(rows.items())[::-1]]
    assert "case_1: skipped: " in capsys.readouterr().out
    # Again: complete, with nothing to do.
    former = contents(out)
    make_shards(own_dataset_dir, out, on_error="skip", shard_bytes=shard_bytes)
    assert "these records are complete" in capsys.readouterr().out
    assert contents(out) == former


def test_nothing_left_after_skipping(own_dataset_dir, tmp_path):
    for number in range(4):
        spoil(own_dataset_dir, f"case_{number}")
    with pytest.raises(InputError, match="expected cases that can be read, found none: .*case_0"):
        make_shards(own_dataset_dir, tmp_path / "out", on_error="skip")
    assert not (tmp_path / "out").exists()


def test_complete_records_are_left_as_they_are(dataset_dir, expected, tmp_path, capsys):
    out = tmp_path / "out"
    make_shards(dataset_dir, out, **ONE_CASE_A_SHARD)
    times = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    again = make_shards(dataset_dir, out, **ONE_CASE_A_SHARD)
    assert "these records are complete" in capsys.readouterr().out
    assert again == manifest.load(out)
    assert times == {path: path.stat().st_mtime_ns for path in out.iterdir()}


def test_lost_and_damaged_shards_are_made_anew(dataset_dir, expected, tmp_path, capsys):
    out = tmp_path / "out"
    make_shards(dataset_dir, out, **ONE_CASE_A_SHARD)
    (out / "shard-00001.tfrecord").unlink()
    damaged = bytearray((out / "shard-00003.tfrecord").read_bytes())
    damaged[50] ^= 4
    (out / "shard-00003.tfrecord").write_bytes(damaged)
    capsys.readouterr()
    make_shards(dataset_dir, out, **ONE_CASE_A_SHARD)
    assert "3 of 5 shards are there already" in capsys.readouterr().out
    assert contents(out) == expected
    assert names(tmp_path) == ["out"]


def test_records_of_other_settings_are_not_replaced_unasked(dataset_dir, tmp_path):
    out = tmp_path / "out"
    make_shards(dataset_dir, out)
    former = contents(out)
    with pytest.raises(InputError, match="expected a new or empty folder"):
        make_shards(dataset_dir, out, encoding="zlib")
    assert contents(out) == former


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MemoryError(), "case_1.nii.gz: expected memory for this case, found too little"),
        (OSError(5, "Input/output error", "disk/file"), "disk/file: Input/output error"),
    ],
)
def test_what_the_machine_lacks_stops_one_case(
    dataset_dir, tmp_path, monkeypatch, capsys, error, reason
):
    read = case_reader.read_case

    def fail_once(source, *others):
        if source.case_id == "case_1":
            raise error
        return read(source, *others)

    monkeypatch.setattr(case_reader, "read_case", fail_once)
    with pytest.raises(InputError, match=reason):
        make_shards(dataset_dir, tmp_path / "out")
    assert len(make_shards(dataset_dir, tmp_path / "out", on_error="skip").cases) == 4
    assert reason in capsys.readouterr().out


def test_two_at_once(dataset_dir, tmp_path):
    with whole_folder(tmp_path / "out", resume=True):
        with pytest.raises(InputError, match="/out: another process is writing it"):
            make_shards(dataset_dir, tmp_path / "out")


def test_disk_full(tmp_path):
    # A limit on the size of files, for the disk itself cannot be filled.
    dataset_dir = write_dataset(tmp_path / "set", 2)
    for number in range(2):
        volume = Volume(np.random.default_rng(0).integers(0, 99, (40, 99, 99, 1)), (1.0,) * 3)
        path = dataset_dir / "imagesTr" / f"case_{number}.nii.gz"
        volume_io.write(path, volume.with_array(volume.array.astype(np.int16)))
        labels = np.zeros((40, 99, 99, 1), np.uint8)
        volume_io.write(dataset_dir / "labelsTr" / path.name, volume.with_array(labels))
    script = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n"
        "from data_tools import shard; shard.cli()"
    )
    result = subprocess.run(
        [
            *(sys.executable, "-c", script),
            *(f"--dataset_dir={dataset_dir}", f"--output_dir={tmp_path / 'out'}"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert "shard-00000.tfrecord: cannot write: " in line and "File too large" in line
    assert names(tmp_path) == ["set"]


def test_no_permission(dataset_dir, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file/out: cannot write there: "):
        make_shards(dataset_dir, tmp_path / "file" / "out")


def test_a_case_beyond_the_memory(dataset_dir, tmp_path):
    with pytest.raises(InputError, match=r"case_2.nii.gz: expected a case that fits --memory_gib="):
        make_shards(dataset_dir, tmp_path / "out", memory_bytes=case_pool.PARENT_BYTES)


def die(*_, **__) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_is_killed(dataset_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(case_pool, "_MIN_VOXELS_FOR_POOL", 0)
    monkeypatch.setattr(case_pool, "prepare", die)
    with pytest.raises(InputError, match="a worker was killed, most likely for lack of memory"):
        make_shards(dataset_dir, tmp_path / "out", workers=2)


def test_what_waits_stays_within_the_memory(dataset_dir, monkeypatch):
    dataset = layouts.read_layout(dataset_dir)
    settings = prepare.Settings(dataset, (1.0, 1.0, 1.0), ReadOptions(), "raw")
    headers = [(case, read_header(case, settings.options, 1)) for case in dataset.cases]
    cases = make_plan(headers, 1, (1.0, 1.0, 1.0), 1 << 30, settings)[0].cases
    size = max(case_pool.case_memory(case, 1) for case in cases)
    budget = case_pool.PARENT_BYTES + 2 * case_pool.WORKER_BYTES + 2 * size
    started: list = []

    class Pool:
        def __init__(self, workers):
            assert workers == 2

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def submit(self, work, case):
            started.append(case)
            return type("Done", (), {"result": lambda _: case})()

        def shutdown(self, cancel_futures):
            return None

    monkeypatch.setattr(case_pool, "_MIN_VOXELS_FOR_POOL", 0)
    monkeypatch.setattr(case_pool, "SpawnedPool", Pool)
    given = case_pool.prepare_all(cases, settings, 9, budget)
    for number, case in enumerate(given, start=1):
        assert case is cases[number - 1]
        assert len(started) - number <= 1
    assert len(started) == len(cases)


@pytest.mark.cluster
def test_beam(dataset_dir, expected, tmp_path):
    pytest.importorskip("apache_beam", reason="needs the cluster extra")
    make_shards(dataset_dir, tmp_path / "out", runner="beam", **ONE_CASE_A_SHARD)
    assert contents(tmp_path / "out") == expected
    whole = make_shards(dataset_dir, tmp_path / "whole")
    beam = make_shards(dataset_dir, tmp_path / "beam", runner="beam")
    assert replace(beam, tool_version="") == replace(whole, tool_version="")


@pytest.mark.cluster
def test_beam_tells_the_bad_case(own_dataset_dir, tmp_path):
    pytest.importorskip("apache_beam", reason="needs the cluster extra")
    spoil(own_dataset_dir, "case_1")
    with pytest.raises(InputError, match="case_1.nii.gz: expected a medical image"):
        make_shards(own_dataset_dir, tmp_path / "out", runner="beam")


@pytest.mark.cluster
@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--runner=NoSuchRunner", "NoSuchRunner: .*NoSuchRunner"),
        ("--runner=no.such.Runner", "no.such.Runner: No module named .no"),
        ("--direct_num_workers=x", "argument --direct_num_workers: invalid int value: 'x'"),
    ],
)
def test_arguments_that_beam_does_not_take(dataset_dir, tmp_path, argument, message):
    pytest.importorskip("apache_beam", reason="needs the cluster extra")
    with pytest.raises(InputError, match=f"--beam_argument: .*{message}") as caught:
        make_shards(dataset_dir, tmp_path / "out", runner="beam", beam_arguments=(argument,))
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


@pytest.mark.cluster
def test_a_runner_that_cannot_be_reached_is_one_line(dataset_dir, tmp_path):
    pytest.importorskip("apache_beam", reason="needs the cluster extra")
    # Nobody listens there.
    flags = ("--runner=PortableRunner", "--job_endpoint=127.0.0.1:9", "--job_server_timeout=1")
    with pytest.raises(ServerError, match="--runner=beam: PortableRunner failed: .") as caught:
        make_shards(dataset_dir, tmp_path / "out", runner="beam", beam_arguments=flags)
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())


def test_beam_is_not_there(dataset_dir, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(InputError, match=r"--runner=beam: .*pip install .tl3d-keras\[cluster\]"):
        make_shards(dataset_dir, tmp_path / "out", runner="beam")
