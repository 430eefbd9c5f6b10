"""NRRD and MetaImage headers, which are words: where the voxels are, and whether they are whole."""

import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tl3d_keras.errors import InputError
from tl3d_keras.named_file import named_file

# What encodings are called that zlib decodes.
DEFLATED = ("true", "gz", "gzip")

_MAX_HEADER = 2**20
_CHUNK = 2**20
_END = {
    "MetaImageIO": rb"^[ \t]*ElementDataFile[^\n]*\n?",
    "NrrdImageIO": rb"^\r?\n",
}
_FILE = {"MetaImageIO": "elementdatafile", "NrrdImageIO": "datafile"}
_ENCODING = {"MetaImageIO": "compresseddata", "NrrdImageIO": "encoding"}
_NOT_ENCODED = ("", "raw", "false")
# ITK takes 1 mm where none of them is there.
_SPACING = {
    "MetaImageIO": ("elementspacing", "elementsize"),
    "NrrdImageIO": ("spacings", "spacedirections"),
}
_SKIPS = ("headersize", "lineskip", "byteskip")
_METAIMAGE_LINE = re.compile(r"[\w ]{1,64}=[\t\x20-\x7e\x80-\xff]{0,1000}")
_NUMBER = re.compile(r"[-+]?[\d.]{1,40}(e[-+]?\d{1,4})?", re.IGNORECASE)
# How many numbers a field has, as a power of the dimensions.
_METAIMAGE_LISTS = {
    "ndims": 0,
    "elementnumberofchannels": 0,
    "compresseddatasize": 0,
    "headersize": 0,
    "dimsize": 1,
    "elementspacing": 1,
    "elementsize": 1,
    "offset": 1,
    "position": 1,
    "origin": 1,
    "centerofrotation": 1,
    "transformmatrix": 2,
    "rotation": 2,
    "orientation": 2,
}


@dataclass(frozen=True)
class Data:
    """Where the voxels are.

    Attributes:
        file: that holds them.
        start: their first byte.
        encoding: as the header calls it, in lower case; empty for none.
        has_spacing: whether the header gives one.
    """

    file: Path
    start: int
    encoding: str
    has_spacing: bool


def locate(path: Path, image_io: str) -> Data:
    """Finds the voxels of a header.

    Args:
        path: the header's file.
        image_io: `NrrdImageIO` or `MetaImageIO`.

    Raises:
        InputError: the header is malformed, or points outside its folder or to several files.
    """
    with open(path, "rb") as file:
        start = file.read(_MAX_HEADER)
    end = re.search(_END[image_io], start, re.MULTILINE | re.IGNORECASE)
    if end is None and len(start) == _MAX_HEADER:
        raise InputError(f"{path}: cannot read: expected a header of at most {_MAX_HEADER} bytes")
    header = start[: end.end()] if end else start
    lines = header.decode("latin-1").splitlines()
    fields: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition("=" if image_io == "MetaImageIO" else ":")
        fields.setdefault("".join(name.lower().split()), value.strip())
    if image_io == "MetaImageIO":
        _check_metaimage(path, lines, fields)
    has_spacing = any(fields.get(name) for name in _SPACING[image_io])
    encoding = fields.get(_ENCODING[image_io], "").lower()
    if encoding in _NOT_ENCODED:
        encoding = ""
    elif any(fields.get(skip, "0") != "0" for skip in _SKIPS):
        raise InputError(f"{path}: expected encoded voxels without anything before them")
    name = fields.get(_FILE[image_io], "LOCAL")
    if name.upper() == "LOCAL":
        return Data(path, len(header), encoding, has_spacing)
    data = None if "\0" in name else named_file(path.parent, name)
    if data is None:
        raise InputError(f"{path}: expected its data file inside {path.parent}, found {name!r}")
    if not data.is_file():
        raise InputError(f"{path}: expected one data file, found {name!r}")
    return Data(data, 0, encoding, has_spacing)


def check_stream(path: Path, data: Data, expected: int) -> None:
    """Raises an `InputError` unless zlib finds `expected` bytes and their checksum.

    The formats' own libraries give out what they have, and leave a warning at most.
    """
    # Both of zlib's headers, its own and that of gzip.
    stream = zlib.decompressobj(zlib.MAX_WBITS | 32)
    found = 0
    try:
        with open(data.file, "rb") as file:
            file.seek(data.start)
            packed = file.read(_CHUNK)
            while packed and not stream.eof and found <= expected:
                found += len(stream.decompress(packed, _CHUNK))
                packed = stream.unconsumed_tail or file.read(_CHUNK)
    except zlib.error as error:
        raise InputError(f"{path}: cannot read: {error}") from error
    if found < expected or not stream.eof:
        raise InputError(
            f"{path}: cannot read: expected {expected} bytes of voxels and their checksum, found "
            f"{found}; the file is cut short or damaged"
        )


def _check_metaimage(path: Path, lines: Sequence[str], fields: Mapping[str, str]) -> None:
    """Keeps from MetaImage's library what it writes beyond its buffers for."""
    names = [line.partition("=")[0].strip() for line in lines if line.strip()]
    wrong = [line for line in lines if line.strip() and not _METAIMAGE_LINE.fullmatch(line)]
    if wrong or len(set(names)) < len(names):
        raise InputError(f"{path}: cannot read: expected a MetaImage header of lines NAME = VALUE")
    dimensions = fields.get("ndims", "")
    if dimensions not in ("2", "3", "4"):
        raise InputError(f"{path}: expected a 3D volume, found NDims = {dimensions!r}")
    for name, power in _METAIMAGE_LISTS.items():
        found, expected = fields.get(name, "").split(), int(dimensions) ** power
        if name in fields and not (len(found) == expected and all(map(_NUMBER.fullmatch, found))):
            raise InputError(
                f"{path}: expected {expected} numbers as {name}, found {fields[name][:80]!r}"
            )
