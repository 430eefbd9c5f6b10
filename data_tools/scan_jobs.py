"""Which files are scans to segment, which belong together, and where their labels go."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tl3d_keras import volume_io
from tl3d_keras.errors import InputError

_NAMES_SHOWN = 3


class Job(NamedTuple):
    """A scan to segment.

    Attributes:
        name: of the scan, which is that of its reference too.
        files: of its channels; a folder is a DICOM series.
        output: the label file.
    """

    name: str
    files: tuple[Path, ...]
    output: Path


class Found(NamedTuple):
    """What `find_jobs` found.

    Attributes:
        jobs: the scans.
        skipped: what lies beside them in the folder and is none.
    """

    jobs: list[Job]
    skipped: list[Path]


def find_jobs(inputs: Sequence[Path], output: Path) -> Found:
    """Finds the scans of the input; a folder without image files is a DICOM series.

    Raises:
        InputError: an input that does not exist, two files of one name, or an output of the wrong
            kind or that cannot be written.
    """
    _check_exist(inputs)
    beside = (
        sorted(p for p in inputs[0].iterdir() if not p.name.startswith("."))
        if len(inputs) == 1 and inputs[0].is_dir()
        else []
    )
    files = [p for p in beside if volume_io.has_known_suffix(p) and not p.is_dir()]
    if not files:
        check_scan(inputs, output)
        return Found([Job(volume_io.case_name(inputs[0]), tuple(inputs), output)], [])
    if volume_io.has_known_suffix(output) or output.is_file():
        raise InputError(
            f"{output}: expected a folder, for --input is a folder of {len(files)} files"
        )
    if output.resolve() == inputs[0].resolve():
        raise InputError(f"{output}: expected another folder than that of --input")
    outputs: dict[Path, Path] = {}
    for file in files:
        first = outputs.setdefault(output / f"{volume_io.case_name(file)}.nii.gz", file)
        if first != file:
            raise InputError(f"{file}: expected one file a scan, found {first.name} too")
    volume_io.check_writable(next(iter(outputs)))
    # Of a link to itself, `Path.resolve` makes an error.
    own = os.path.realpath(output)
    skipped = [p for p in beside if p not in files and os.path.realpath(p) != own]
    jobs = [Job(volume_io.case_name(f), (f,), target) for target, f in outputs.items()]
    return Found(jobs, skipped)


def check_scan(inputs: Sequence[Path], output: Path) -> None:
    """Checks the files of one scan and the place of its labels before any work.

    Raises:
        InputError: an input that does not exist, or an output that is an input or that cannot be
            written.
    """
    _check_exist(inputs)
    volume_io.check_writable(output)
    for path in inputs:
        if output.exists() and output.samefile(path):
            raise InputError(f"{output}: expected another file than that of --input")


def _check_exist(inputs: Sequence[Path]) -> None:
    for path in inputs:
        if not path.exists():
            raise InputError(f"{path}: no such file or folder")


def group_channels(jobs: Sequence[Job], num_channels: int) -> list[Job]:
    """Joins the `_0000`, `_0001`, ... files of a folder into scans, whole or not."""
    # Of one channel, `_0001` is the number of a case.
    suffix = re.compile(r"_\d{4}$" if num_channels > 1 else r"_0000$")
    if len(jobs) == 1 or not all(suffix.search(job.name) for job in jobs):
        return list(jobs)
    scans: dict[str, list[Path]] = {}
    for job in jobs:
        scans.setdefault(suffix.sub("", job.name), []).extend(job.files)
    folder = jobs[0].output.parent
    return [Job(name, tuple(f), folder / f"{name}.nii.gz") for name, f in scans.items()]


def skipped_line(skipped: Sequence[Path]) -> str:
    """A line that names what was left out."""
    shown = ", ".join(path.name for path in skipped[:_NAMES_SHOWN])
    more = f" and {len(skipped) - _NAMES_SHOWN} more" if len(skipped) > _NAMES_SHOWN else ""
    return (
        f"{skipped[0].parent}: skipped {len(skipped)} that are no scans "
        f"({', '.join(volume_io.SUFFIXES)}): {shown}{more}"
    )
