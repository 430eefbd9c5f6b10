"""What every layout becomes: a data set of cases and their files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tl3d_keras.annotation import IGNORE, MAX_STRUCTURES
from tl3d_keras.errors import InputError
from tl3d_keras.named_file import named_file


@dataclass(frozen=True)
class CaseSource:
    """The files of one case.

    Attributes:
        case_id: the case's name.
        images: one file a channel, or one with all; a folder is a DICOM series.
        label: its label file, or None for an unlabelled case.
        annotated: names of the structures annotated in it; None where the label file itself names
            them (DICOM).
        masks: (structure, binary file) pairs in place of `label`.
        annotated_mask: a file that is not 0 where a voxel was annotated.
        label_offset: (z, y, x) of the first voxel of a label that covers a box of the image's grid,
            instead of what its header says.
    """

    case_id: str
    images: tuple[Path, ...]
    label: Path | None
    annotated: tuple[str, ...] | None
    masks: tuple[tuple[str, Path], ...] = ()
    annotated_mask: Path | None = None
    label_offset: tuple[int, int, int] | None = None


@dataclass(frozen=True)
class DataSet:
    """A data set before it is read.

    Attributes:
        structures: names of labels 1..K, in order.
        channels: names of the image channels, in order.
        file_values: label value in the files -> label 0..K or IGNORE.
        cases: in the data set's order.
    """

    structures: tuple[str, ...]
    channels: tuple[str, ...]
    file_values: Mapping[int, int]
    cases: tuple[CaseSource, ...]


def numbered(structures: Sequence[str]) -> dict[int, int]:
    """The `file_values` of label files whose values are 0, 1..K and IGNORE already."""
    return {**{value: value for value in range(len(structures) + 1)}, IGNORE: IGNORE}


def check_structures(names: Sequence[str], where: str | Path) -> tuple[str, ...]:
    """Returns the names, or raises an `InputError` unless they are 1 to 254 different texts."""
    if not 0 < len(names) <= MAX_STRUCTURES:
        raise InputError(f"{where}: expected 1 to {MAX_STRUCTURES} structures, found {len(names)}")
    for name in names:
        check_name(name, "structure", where)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"{where}: expected structures of different names, found {twice[0]} twice")
    return tuple(names)


def check_name(name: Any, what: str, where: str | Path) -> str:
    """Returns the name, or raises an `InputError` unless it is a text of one line."""
    if not isinstance(name, str) or not name.strip() or not name.isprintable():
        raise InputError(f"{where}: expected the name of a {what}, found {name!r}")
    return name


def check_case_ids(names: Sequence[str], where: str | Path) -> None:
    """Raises an `InputError` unless every case has a name of its own."""
    seen: set[str] = set()
    for name in names:
        if "/" in check_name(name, "case", where):
            raise InputError(f"{where}: expected the name of a case without /, found {name!r}")
        if name in seen:
            raise InputError(f"{where}: the case {name} is listed twice")
        seen.add(name)


def check_annotated(
    names: Sequence[str], structures: Sequence[str], case_id: str, where: str | Path
) -> tuple[str, ...]:
    """Returns the annotated structures of a case; an unknown name is an `InputError`."""
    unknown = [name for name in names if name not in structures]
    if unknown:
        raise InputError(
            f'{where}: "annotated_labels" of {case_id} names {unknown[0]!r}; the structures are '
            f"{', '.join(structures)}"
        )
    return tuple(dict.fromkeys(names))


def inside(folder: Path, name: str, listed_in: Path) -> Path:
    """The file `name` of `folder`; links are followed.

    Raises:
        InputError: there is no such file, or the name leads elsewhere by `..` or as an absolute
            path.
    """
    file = named_file(folder, check_name(name, "file", listed_in))
    if file is None:
        raise InputError(
            f"{listed_in}: expected files inside {folder.resolve()} (links there are followed), "
            f"found {name!r}"
        )
    try:
        if not file.exists():
            found = f"a link to {file.readlink()}" if file.is_symlink() else "no such file"
            raise InputError(f"{file}: {found}, though {listed_in} lists it")
    except OSError as error:
        raise InputError(f"{file}: cannot read: {error.strerror}") from error
    return file
