"""Empty files in the places where data sets have theirs."""

from pathlib import Path


def linked(tmp_path: Path, folder: Path, *names: str) -> None:
    """Moves files or folders out of `folder` and leaves links to them."""
    (tmp_path / "elsewhere").mkdir()
    for number, name in enumerate(names):
        moved = (folder / name).rename(tmp_path / f"elsewhere/{number}")
        (folder / name).symlink_to(moved)


def total(folder: Path, *files: str) -> Path:
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder
