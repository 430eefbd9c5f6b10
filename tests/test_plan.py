"""Headers say what reading finds, and shards are dealt by them."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from data_tools.layouts import CaseSource, DataSet
from data_tools.plan import Header, make_plan, read_header
from data_tools.prepare import Settings
from data_tools.reading import ReadOptions
from tl3d_keras import resampling, volume_io
from tl3d_keras.errors import InputError
from tl3d_keras.volumes import Volume

SHAPE, SPACING = (4, 5, 6), (3.0, 1.0, 2.0)
GRID = (1.0, 1.0, 1.0)
ORIENTATIONS = [
    np.diag(signs)[list(order)]
    for order in itertools.permutations(range(3))
    for signs in itertools.product((1.0, -1.0), repeat=3)
]


def source(path: Path, name: str = "a") -> CaseSource:
    return CaseSource(name, (path,), None, ())


def settings(**changes) -> Settings:
    given = {"dataset": DataSet(("liver",), ("CT",), {0: 0, 1: 1}, ()), "spacing": GRID}
    return Settings(**given | {"options": ReadOptions(), "encoding": "raw"} | changes)


@pytest.mark.parametrize("direction", ORIENTATIONS, ids=lambda d: str(d.argmax(0)))
def test_header_of_every_orientation(tmp_path, direction):
    volume = Volume(
        np.zeros((*SHAPE, 1), np.int16), SPACING, direction=tuple(direction.ravel().tolist())
    )
    volume_io.write(tmp_path / "a.nrrd", volume)
    header = read_header(source(tmp_path / "a.nrrd"), ReadOptions(), 1)
    upright = resampling.canonical(volume)
    assert header == Header(upright.spacing, upright.shape)


def test_header_of_an_oblique_volume_covers_it(tmp_path):
    c, s = np.cos(0.3), np.sin(0.3)
    volume = Volume(
        np.zeros((20, 30, 40, 1), np.int16),
        (1.0, 1.0, 1.0),
        direction=(c, -s, 0.0, s, c, 0.0, 0.0, 0.0, 1.0),
    )
    volume_io.write(tmp_path / "a.nrrd", volume)
    header = read_header(source(tmp_path / "a.nrrd"), ReadOptions(), 1)
    found = resampling.to_grid(volume, header.spacing)
    assert np.abs(np.subtract(found.shape, header.shape)).max() <= 1
    assert header.shape[1] > 30 and header.shape[2] > 40


def test_header_of_no_image(tmp_path):
    (tmp_path / "a.nrrd").write_text("no image")
    with pytest.raises(InputError, match="a.nrrd: "):
        read_header(source(tmp_path / "a.nrrd"), ReadOptions(), 1)


@pytest.fixture
def files(tmp_path) -> list[Path]:
    paths = [tmp_path / f"{name}.nrrd" for name in "abc"]
    for path in paths:
        path.write_bytes(b"x")
    return paths


def keys(files: list[Path], shard_bytes: int = 1, **changes) -> list[str]:
    chosen = settings(**changes)
    cases = [(source(path, path.stem), Header(GRID, SHAPE)) for path in files]
    return [shard.key for shard in make_plan(cases, 1, chosen.spacing, shard_bytes, chosen)]


def test_cases_are_dealt_in_order(files):
    # 120 voxels of 5 bytes each, and 4096 bytes beside.
    cases = [(source(path, path.stem), Header(GRID, SHAPE)) for path in files]
    for limit, expected in ((1, ["a", "b", "c"]), (4696 * 2, ["ab", "c"]), (1 << 20, ["abc"])):
        plan = make_plan(cases, 1, GRID, limit, settings())
        assert ["".join(c.source.case_id for c in shard.cases) for shard in plan] == expected
        assert [shard.file for shard in plan] == [
            f"shard-0000{i}.tfrecord" for i in range(len(expected))
        ]
    finer = make_plan(cases[:1], 1, (0.5, 1.0, 1.0), 1, settings())
    assert finer[0].cases[0].shape == (8, 5, 6)


def test_keys_follow_files_and_settings(files):
    before = keys(files)
    assert len(set(before)) == 3 and before == keys(files)
    files[1].write_bytes(b"longer")
    after = keys(files)
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, False, True]
    for changes in (
        {"encoding": "zlib"},
        {"spacing": (1.0, 1.0, 2.0)},
        {"options": ReadOptions(partial_labels=True)},
        {"dataset": DataSet(("spleen",), ("CT",), {0: 0, 1: 1}, ())},
    ):
        assert not set(keys(files, **changes)) & set(after), changes
