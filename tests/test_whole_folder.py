"""A folder is there in whole or not at all, whatever stops the work."""

import os
import tempfile
from pathlib import Path

import pytest

from tl3d_keras.errors import InputError
from tl3d_keras.whole_folder import check_free, passing_folder, whole_folder


def tree(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def former(tmp_path) -> Path:
    """A folder that an earlier run wrote."""
    path = tmp_path / "out"
    path.mkdir()
    (path / "a").write_text("former")
    return path


def test_appears_when_the_block_ends(tmp_path):
    path = tmp_path / "new" / "out"
    with whole_folder(path) as folder:
        (folder / "a").write_text("1")
        assert not path.exists()
        assert folder.parent == path.parent
    assert tree(tmp_path) == {"new/out/a": "1"}


def test_an_empty_folder_may_be_there(tmp_path):
    (tmp_path / "out").mkdir()
    with whole_folder(tmp_path / "out") as folder:
        (folder / "a").write_text("1")
    assert tree(tmp_path) == {"out/a": "1"}


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("overwrite", [False, True])
def test_failure_leaves_nothing(tmp_path, error, overwrite):
    with pytest.raises(error), whole_folder(tmp_path / "out", overwrite) as folder:
        (folder / "a").write_text("1")
        raise error
    assert not list(tmp_path.iterdir())


def test_files_are_not_replaced_unasked(former):
    with pytest.raises(InputError, match="/out: expected a new or empty folder, found files in it"):
        with whole_folder(former):
            pytest.fail("the block ran")
    assert tree(former.parent) == {"out/a": "former"}


def test_overwrite_replaces_everything(former):
    with whole_folder(former, overwrite=True) as folder:
        (folder / "b").write_text("new")
        assert tree(former) == {"a": "former"}
    assert [p.name for p in former.parent.iterdir()] == ["out"]
    assert tree(former) == {"b": "new"}


def test_overwrite_that_fails_keeps_the_former(former):
    with pytest.raises(RuntimeError), whole_folder(former, overwrite=True) as folder:
        (folder / "b").write_text("half")
        raise RuntimeError
    assert [p.name for p in former.parent.iterdir()] == ["out"]
    assert tree(former) == {"a": "former"}


@pytest.mark.parametrize("times", [1, 2])
def test_what_a_link_leads_to_is_replaced_and_the_link_stays(former, times):
    link = former.parent / "link"
    link.symlink_to("out")
    for _ in range(times):
        with whole_folder(link, overwrite=True) as folder:
            (folder / "b").write_text("new")
    assert link.is_symlink() and tree(former) == {"b": "new"}
    assert sorted(p.name for p in former.parent.iterdir()) == ["link", "out"]


def test_the_present_folder_by_its_short_name(former, monkeypatch):
    monkeypatch.chdir(former)
    with whole_folder(".", overwrite=True) as folder:
        (folder / "b").write_text("new")
    assert tree(former.parent) == {"out/b": "new"}


def test_killed_while_building(former):
    left = former.parent / ".out.building"
    left.mkdir()
    (left / "half").write_text("half")
    with whole_folder(former, overwrite=True) as folder:
        (folder / "b").write_text("new")
    assert tree(former.parent) == {"out/b": "new"}


def test_killed_between_the_renames(former):
    former.rename(former.parent / ".out.former")
    with pytest.raises(RuntimeError), whole_folder(former, overwrite=True):
        raise RuntimeError
    assert tree(former.parent) == {"out/a": "former"}


@pytest.mark.parametrize("overwrite", [False, True])
def test_place_is_a_file(tmp_path, overwrite):
    (tmp_path / "out").touch()
    with pytest.raises(InputError, match="/out: expected a folder, found a file"):
        check_free(tmp_path / "out", overwrite)


def test_a_mounted_folder_is_refused_before_the_work(former, monkeypatch):
    monkeypatch.setattr(os.path, "ismount", lambda path: path == former)
    with pytest.raises(InputError, match="/out: expected a folder that can be replaced, found a "):
        with whole_folder(former, overwrite=True):
            pytest.fail("the block ran")
    assert tree(former.parent) == {"out/a": "former"}


def test_place_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="/out: cannot write there: "):
        with whole_folder(tmp_path / "file" / "out"):
            pytest.fail("the block ran")


def test_a_passing_folder_ends_with_its_block(tmp_path):
    with pytest.raises(RuntimeError), passing_folder(tmp_path) as folder:
        (folder / "a").write_text("half")
        raise RuntimeError
    assert not list(tmp_path.iterdir())


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path):
    abandoned = tmp_path / ".writing-abandoned"
    abandoned.mkdir()
    (abandoned / "volume.nii.gz").touch()
    with passing_folder(tmp_path) as first, passing_folder(tmp_path) as second:
        assert sorted(tmp_path.iterdir()) == sorted([first, second])


def test_a_passing_folder_that_is_lost_before_it_is_locked(tmp_path, monkeypatch):
    made, mkdtemp = [], tempfile.mkdtemp

    def lost_once(**arguments):
        made.append(Path(mkdtemp(**arguments)))
        if len(made) == 1:
            made[0].rmdir()
        return str(made[-1])

    monkeypatch.setattr(tempfile, "mkdtemp", lost_once)
    with passing_folder(tmp_path) as folder:
        assert len(made) == 2 and folder == made[1]
