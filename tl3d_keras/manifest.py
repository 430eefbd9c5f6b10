"""`manifest.json`: what a folder of shards holds, where each case lies in it, and its checks."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import google_crc32c
from pydantic import ConfigDict

from tl3d_keras import json_file, manifest_check
from tl3d_keras.distribution import Distribution
from tl3d_keras.errors import InputError
from tl3d_keras.whole_folder import write_file

FILE_NAME = "manifest.json"
SCHEMA_VERSION = 2
# More cases than these make a line nobody reads.
_MAX_NAMES = 8


@dataclass(frozen=True)
class ShardEntry:
    """A shard file.

    Attributes:
        file: its name.
        bytes: its size.
        crc32c: its CRC32C, hexadecimal.
        key: CRC32C of what it was made from; equal keys, equal shards.
    """

    file: str
    bytes: int
    crc32c: str
    key: str


@dataclass(frozen=True)
class StructureStatistics:
    """A structure in one case.

    Attributes:
        annotated_ml: volume of its annotated voxels.
        intensity: one entry a channel: its intensities.
    """

    annotated_ml: float
    intensity: list[Distribution]


@dataclass(frozen=True)
class Proposal:
    """Settings that follow from the data.

    Attributes:
        spacing: (z, y, x) in mm.
        window: (low, high) a channel, in raw units, or None for z-scores.
        patch_size: (Z, Y, X) of the image patches of a network with same padding.
        reasons: why, in words: a line for each.
    """

    spacing: tuple[float, ...]
    window: list[tuple[float, float]] | None
    patch_size: tuple[int, ...]
    reasons: list[str]


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
        source_spacing: (z, y, x) in mm of its files, in LPS orientation.
        source_shape: (Z, Y, X) of its files, in LPS orientation.
        body: one entry a channel: intensities of the body without the air around and in it.
        foreground: one entry a channel: intensities of all its annotated structures; empty
            without any.
        structures: structure present -> its statistics.
        warnings: what looks as if it was meant otherwise, a line each that names the case.
    """

    case_id: str
    shard: int
    offset: int
    bytes: int
    shape: tuple[int, ...]
    annotated_structures: list[str]
    coverage: dict[str, dict[str, int]]
    intensity: list[dict[str, float]]
    source_spacing: tuple[float, ...]
    source_shape: tuple[int, ...]
    body: list[Distribution]
    foreground: list[Distribution]
    structures: dict[str, StructureStatistics]
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Manifest:
    """The whole of `manifest.json`.

    Attributes:
        structures: names of labels 1..K, in order.
        channels: names of the image channels, in order.
        spacing: (z, y, x) in mm of every case.
        proposal: settings that follow from the data.
        skipped: cases that could not be read: their name and the reason.
        shards: the files.
        cases: the cases, in record order.
        tool_version: version of tl3d-keras that wrote the shards.
        schema_version: version of the record schema.
    """

    structures: list[str]
    channels: list[str]
    spacing: tuple[float, ...]
    proposal: Proposal
    skipped: list[dict[str, str]]
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


def save(manifest: Manifest, folder: str | os.PathLike) -> None:
    """Writes `folder/manifest.json`; it appears when whole."""
    text = json.dumps(asdict(manifest), indent=1)
    write_file(Path(folder) / FILE_NAME, f"{text}\n".encode())


def load(folder: str | os.PathLike, check_shards: bool = True) -> Manifest:
    """Reads `folder/manifest.json` and checks that every shard is there in its full size.

    Args:
        folder: of the shards.
        check_shards: off where `verify` follows, which names all that are damaged.

    Raises:
        InputError: no manifest, one of another schema, or a shard missing or of another size.
    """
    path = Path(folder) / FILE_NAME
    content = json_file.read_object(path, "a folder that data_tools.shard has written")
    manifest = _from_json(content, path)
    for shard in manifest.shards if check_shards else ():
        if damage := _wrong_size(Path(folder) / shard.file, shard):
            raise InputError(damage)
    return manifest


def verify(manifest: Manifest, folder: str | os.PathLike) -> None:
    """Reads every shard and compares its CRC32C.

    Raises:
        InputError: a line for each shard that is missing, cut or damaged, with its cases.
    """
    lines = []
    for index, shard in enumerate(manifest.shards):
        file = Path(folder) / shard.file
        if damage := _wrong_size(file, shard) or _wrong_checksum(file, shard):
            cases = [case.case_id for case in manifest.cases if case.shard == index]
            lines.append(f"{damage}; cases in it: {_listed(cases)}")
    if lines:
        raise InputError("\n".join(lines))


def _wrong_size(file: Path, shard: ShardEntry) -> str | None:
    size = file.stat().st_size if file.is_file() else None
    if size == shard.bytes:
        return None
    found = "no such file" if size is None else f"{size} bytes"
    return f"{file}: expected {shard.bytes} bytes, found {found}"


def _wrong_checksum(file: Path, shard: ShardEntry) -> str | None:
    try:
        found = file_crc32c(file)
    except OSError as error:
        return f"{file}: cannot read: {error.strerror}"
    if found == shard.crc32c:
        return None
    return f"{file}: expected CRC32C {shard.crc32c}, found {found}: damaged"


def _listed(names: Sequence[str]) -> str:
    if len(names) <= _MAX_NAMES:
        return ", ".join(names) or "none"
    return f"{len(names)}, {names[0]} to {names[-1]} in the manifest's order"


def _from_json(content: dict[str, Any], path: Path) -> Manifest:
    version = content.get("schema_version")
    if version != SCHEMA_VERSION:
        raise InputError(f"{path}: expected schema_version {SCHEMA_VERSION}, found {version}")
    manifest = json_file.typed(content, Manifest, f"{path}: not a manifest of this schema")
    manifest_check.check(manifest, path)
    return manifest
