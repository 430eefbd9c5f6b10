"""JSON from files that nobody vouches for."""

import json
from pathlib import Path
from typing import Any

from tl3d_keras.errors import InputError


def read(path: Path, expected: str) -> Any:
    """Reads a JSON file.

    Args:
        path: the file.
        expected: what the file belongs to, for the message where it cannot be read.

    Raises:
        InputError: no such file, no JSON, a key given twice in an object, a NaN or an infinity.
    """
    try:
        return json.loads(
            path.read_text(encoding="utf-8"),
            object_pairs_hook=_without_repeats,
            parse_constant=_refuse_constant,
        )
    except OSError as error:
        raise InputError(f"{path}: cannot read; expected {expected}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON: {error}") from error


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError("a key is given twice in one object")
    return content


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")
