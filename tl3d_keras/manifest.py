"""`manifest.json`: what a folder of shards holds, where each case lies in it, and its checks."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import google_crc32c
from pydantic import ConfigDict, TypeAdapter, ValidationError

from tl3d_keras import json_file, manifest_check
from tl3d_keras.errors import InputError

FILE_NAME = "manifest.json"
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class ShardEntry:
    """A shard file: its name, size in bytes and CRC32C (hexadecimal)."""

    file: str
    bytes: int
    crc32c: str


@dataclass(frozen=True)
class CaseEntry:
    """A case and where its record lies.

    Attributes:
        case_id: the case's name.
        shard: index of its shard.
        offset: byte at which the record's data start in the shard.
        bytes: length of the record's data.
        shape: (Z, Y, X, C).
        annotated_structures: names of the structures annotated in this case.
        coverage: `annotation.coverage` of its labels.
        intensity: one entry a channel: mean, std, minimum, maximum of the whole volume.
    """

    case_id: str
    shard: int
    offset: int
    bytes: int
    shape: tuple[int, ...]
    annotated_structures: list[str]
    coverage: dict[str, dict[str, int]]
    intensity: list[dict[str, float]]


@dataclass(frozen=True)
class Manifest:
    """The whole of `manifest.json`.

    Attributes:
        structures: names of labels 1..K, in order.
        channels: names of the image channels, in order.
        spacing: (z, y, x) in mm of every case.
        intensity: one entry a channel: percentiles over the annotated structures of all cases.
        shards: the files.
        cases: the cases, in record order.
        tool_version: version of tl3d-keras that wrote the shards.
        schema_version: version of the record schema.
    """

    structures: list[str]
    channels: list[str]
    spacing: tuple[float, ...]
    intensity: list[dict[str, float]]
    shards: list[ShardEntry]
    cases: list[CaseEntry]
    tool_version: str
    schema_version: int = SCHEMA_VERSION
    __pydantic_config__ = ConfigDict(extra="forbid")

    @property
    def fingerprint(self) -> str:
        """A CRC32C over the shards' own: equal data, equal fingerprint."""
        return crc32c("".join(shard.crc32c for shard in self.shards).encode())

    def select(self, case_ids: Sequence[str]) -> list[CaseEntry]:
        """The cases of these names, in the order given; an unknown name is an `InputError`."""
        by_name = {case.case_id: case for case in self.cases}
        unknown = [name for name in case_ids if name not in by_name]
        if unknown:
            raise InputError(
                f"expected case names of the records ({len(by_name)} cases, from "
                f"{self.cases[0].case_id} on), found {', '.join(unknown[:5])}"
            )
        return [by_name[name] for name in case_ids]

    def is_fully_labelled(self, case: CaseEntry) -> bool:
        """Whether every structure was annotated in the case."""
        return set(case.annotated_structures) == set(self.structures)


def crc32c(data: bytes) -> str:
    """CRC32C of `data` as eight hexadecimal digits."""
    return f"{google_crc32c.value(data):08x}"


def file_crc32c(path: str | os.PathLike) -> str:
    """CRC32C of a file, read in pieces."""
    checksum = google_crc32c.Checksum()
    with open(path, "rb") as file:
        for _ in checksum.consume(file, 1 << 20):
            pass
    return checksum.digest().hex()


def first_problem(error: ValidationError) -> str:
    """The first of pydantic's errors in one line: where it is, and what."""
    problem = error.errors()[0]
    place = ".".join(str(step) for step in problem["loc"])
    return f"{place if place.isprintable() else repr(place)}: {problem['msg']}"


def save(manifest: Manifest, folder: str | os.PathLike) -> None:
    """Writes `folder/manifest.json`."""
    text = json.dumps(asdict(manifest), indent=1)
    (Path(folder) / FILE_NAME).write_text(text + "\n")


def load(folder: str | os.PathLike) -> Manifest:
    """Reads `folder/manifest.json` and checks that every shard is there in its full size.

    Raises:
        InputError: no manifest, one of another schema, or a shard missing or of another size.
    """
    path = Path(folder) / FILE_NAME
    content = json_file.read(path, "a folder that data_tools.shard has written")
    manifest = _from_json(content, path)
    for shard in manifest.shards:
        file = Path(folder) / shard.file
        size = file.stat().st_size if file.is_file() else None
        if size != shard.bytes:
            found = "no such file" if size is None else f"{size} bytes"
            raise InputError(f"{file}: expected {shard.bytes} bytes, found {found}")
    return manifest


def verify(manifest: Manifest, folder: str | os.PathLike) -> None:
    """Reads every shard and raises an `InputError` that names the first whose CRC32C differs."""
    for shard in manifest.shards:
        file = Path(folder) / shard.file
        found = file_crc32c(file)
        if found != shard.crc32c:
            raise InputError(f"{file}: expected CRC32C {shard.crc32c}, found {found}: damaged")


def _from_json(content: Any, path: Path) -> Manifest:
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version != SCHEMA_VERSION:
        raise InputError(f"{path}: expected schema_version {SCHEMA_VERSION}, found {version}")
    try:
        manifest = TypeAdapter(Manifest).validate_python(content)
    except ValidationError as error:
        raise InputError(f"{path}: not a manifest of this schema: {first_problem(error)}") from None
    manifest_check.check(manifest, path)
    return manifest
