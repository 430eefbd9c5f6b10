"""Shards on their way: each appears with its part of the manifest when whole, and is then kept."""

import json
import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from data_tools.command import load_tensorflow
from data_tools.plan import PlannedShard
from data_tools.prepare import PreparedCase, SkippedCase
from tl3d_keras import manifest
from tl3d_keras.errors import InputError
from tl3d_keras.manifest import CaseEntry, ShardEntry
from tl3d_keras.manifest_check import FRAME_AFTER, FRAME_BEFORE
from tl3d_keras.whole_folder import write_file

_PART_SUFFIX = ".part.json"


@dataclass(frozen=True)
class Part:
    """A shard's part of the manifest.

    Attributes:
        shard: the file, or None if all of its cases were skipped.
        key: that of the plan.
        cases: in order; their `shard` is 0.
        skipped: the cases that could not be read.
    """

    shard: ShardEntry | None
    key: str
    cases: list[CaseEntry]
    skipped: list[SkippedCase]


def find_part(folder: Path, planned: PlannedShard) -> Part | None:
    """The part of a shard that is whole and made from what the plan says; None if there is none."""
    try:
        part = TypeAdapter(Part).validate_json(_part_path(folder, planned).read_bytes())
    except (OSError, ValidationError):
        return None
    return part if part.key == planned.key and _is_whole(folder, part) else None


def write_shard(
    folder: Path, planned: PlannedShard, cases: Iterable[PreparedCase | SkippedCase]
) -> Part:
    """Writes a shard and its part, both of which appear when whole.

    Raises:
        InputError: the folder cannot be written, or its disk is full.
    """
    load_tensorflow()
    import tensorflow as tf

    from tl3d_keras import records

    temporary = folder / f".{planned.file}.writing"
    entries: list[CaseEntry] = []
    skipped: list[SkippedCase] = []
    position = 0
    try:
        with tf.io.TFRecordWriter(str(temporary)) as writer:
            for case in cases:
                if isinstance(case, SkippedCase):
                    skipped.append(case)
                    continue
                data = records.serialize(case.fields)
                writer.write(data)
                position += FRAME_BEFORE
                entries.append(CaseEntry(shard=0, offset=position, bytes=len(data), **case.entry))
                position += len(data) + FRAME_AFTER
        shard = _finish(temporary, folder / planned.file, planned.key) if entries else None
    except (OSError, tf.errors.OpError) as error:
        reason = error.strerror if isinstance(error, OSError) else error.message
        raise InputError(f"{folder / planned.file}: cannot write: {reason}") from error
    finally:
        temporary.unlink(missing_ok=True)
    part = Part(shard, planned.key, entries, skipped)
    write_part(folder, planned, part)
    return part


def write_part(folder: Path, planned: PlannedShard, part: Part) -> None:
    """Writes a shard's part of the manifest."""
    write_file(_part_path(folder, planned), json.dumps(asdict(part)).encode())


def whole_parts(former: Path, plan: Sequence[PlannedShard]) -> dict[str, Part] | None:
    """The whole shards of a folder of records, by file name, if all of it was made by this plan.

    Returns:
        None if there are no records, or records of another plan.
    """
    try:
        content = manifest.load(former, check_shards=False)
    except InputError:
        return None
    skipped = {case["case_id"]: SkippedCase(**case) for case in content.skipped}
    expected = {
        planned.file: planned.key
        for planned in plan
        if any(case.source.case_id not in skipped for case in planned.cases)
    }
    if {shard.file: shard.key for shard in content.shards} != expected:
        return None
    parts = {}
    for planned in plan:
        index = next((i for i, s in enumerate(content.shards) if s.file == planned.file), None)
        part = Part(
            None if index is None else content.shards[index],
            planned.key,
            [replace(case, shard=0) for case in content.cases if case.shard == index],
            [skipped[i] for i in (c.source.case_id for c in planned.cases) if i in skipped],
        )
        if _is_whole(former, part):
            parts[planned.file] = part
    return parts


def adopt(folder: Path, former: Path, planned: PlannedShard, part: Part) -> None:
    """Takes a whole shard of a former folder over.

    Raises:
        InputError: there is no room for it.
    """
    if part.shard:
        second_name(former / part.shard.file, folder / part.shard.file)
    write_part(folder, planned, part)


def second_name(source: Path, target: Path) -> None:
    """A second name of a shard, or a copy where the file system has none.

    Raises:
        InputError: there is no room for it.
    """
    try:
        target.unlink(missing_ok=True)
        try:
            os.link(source, target)
        except OSError:
            shutil.copyfile(source, target)
    except OSError as error:
        raise InputError(f"{target}: cannot write: {error.strerror}") from error


def remove_strangers(folder: Path, plan: Sequence[PlannedShard]) -> None:
    """Removes all that is not of this plan, such as the shards of another."""
    names = {name for p in plan for name in (p.file, _part_path(folder, p).name)}
    for path in folder.iterdir():
        if path.name not in names:
            path.unlink()


def remove_parts(folder: Path) -> None:
    """Removes what only a folder in the making has."""
    for path in folder.glob("*" + _PART_SUFFIX):
        path.unlink()


def _part_path(folder: Path, planned: PlannedShard) -> Path:
    return folder / (planned.file + _PART_SUFFIX)


def _is_whole(folder: Path, part: Part) -> bool:
    if not part.shard:
        return True
    file = folder / part.shard.file
    return file.is_file() and manifest.file_crc32c(file) == part.shard.crc32c


def _finish(temporary: Path, path: Path, key: str) -> ShardEntry:
    entry = ShardEntry(path.name, temporary.stat().st_size, manifest.file_crc32c(temporary), key)
    with open(temporary, "rb") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)
    return entry
