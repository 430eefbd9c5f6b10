"""The lengths that a DICOM file's elements claim, checked before GDCM allocates them on trust.

An element is a tag, in most files a type of two letters, a length, and that many bytes (DICOM
PS3.5, section 7.1). Items and sequences hold elements, so the check goes into them.
"""

import mmap
from pathlib import Path

from tl3d_keras.errors import InputError

_START = 132
_UNDEFINED = 0xFFFFFFFF
# Types whose length takes four bytes, after two that are reserved.
_LONG = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
_ITEMS = 0xFFFE
_PIXELS, _STORAGE_CLASS, _SYNTAX = (0x7FE0, 0x0010), (0x0002, 0x0002), (0x0002, 0x0010)
_IMPLICIT = b"1.2.840.10008.1.2"
# Big endian and deflated, which nothing writes any more.
_RARE = (b"1.2.840.10008.1.2.2", b"1.2.840.10008.1.2.1.99")


def storage_class(path: Path) -> str | None:
    """Checks a DICOM file.

    Returns:
        Its MediaStorageSOPClassUID, or None for a file that is not DICOM.

    Raises:
        InputError: the file cannot be read, an element claims more than it holds, or the transfer
            syntax is not read.
    """
    try:
        if not path.is_file() or path.stat().st_size <= _START:
            return None
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            if data[_START - 4 : _START] != b"DICM":
                return None
            found = _walk(path, data)
    except OSError as error:
        raise InputError(f"{path}: cannot read: {error.strerror}") from error
    return found.get(_STORAGE_CLASS, b"").decode("ascii", "replace")


def _walk(path: Path, data: mmap.mmap) -> dict[tuple[int, int], bytes]:
    """Goes from element to element, and returns the values of the file's meta information."""
    meta: dict[tuple[int, int], bytes] = {}
    place, in_pixels = _START, False
    while place + 8 <= len(data):
        tag = _number(data, place, 2), _number(data, place + 2, 2)
        syntax = meta.get(_SYNTAX, b"")
        if syntax in _RARE:
            raise InputError(f"{path}: expected another transfer syntax than {syntax.decode()}")
        kind, start, length = _head(data, place, tag[0] == 2 or syntax != _IMPLICIT)
        if tag == _PIXELS:
            in_pixels = True
        if length == _UNDEFINED:
            length = 0
        if start + length > len(data):
            raise InputError(
                f"{path}: expected elements within the {len(data)} bytes of the file, found one "
                f"that claims {length}: the file is cut short or damaged"
            )
        if tag[0] == 2:
            meta[tag] = data[start : start + length].rstrip(b"\0 ")
        # The items of compressed pixels hold no elements.
        holds_elements = kind == b"SQ" or (tag[0] == _ITEMS and not in_pixels)
        place = start if holds_elements else start + length
    return meta


def _head(data: mmap.mmap, place: int, explicit: bool) -> tuple[bytes, int, int]:
    """The type, the start of the value and the length of the element at `place`."""
    kind = data[place + 4 : place + 6]
    # Unknown sequences hold elements without a type, whatever is around them.
    if not (explicit and kind.isalpha() and kind.isupper()) or _number(data, place, 2) == _ITEMS:
        return b"", place + 8, _number(data, place + 4, 4)
    if kind in _LONG:
        return kind, place + 12, _number(data, place + 8, 4)
    return kind, place + 8, _number(data, place + 6, 2)


def _number(data: mmap.mmap, place: int, size: int) -> int:
    return int.from_bytes(data[place : place + size], "little")
