"""JSON files that hold one object."""

import json
import os
from pathlib import Path
from typing import Any

from tl3d_keras.errors import InputError


def read_object(path: str | os.PathLike, expected: str) -> dict[str, Any]:
    """The object in a JSON file.

    Args:
        path: the file.
        expected: what the user should have given, for the message where there is no such file.

    Raises:
        InputError: the file cannot be read, is no JSON, or holds something else than an object.
    """
    try:
        content = json.loads(Path(path).read_text())
    except OSError as error:
        raise InputError(f"{path}: cannot read; expected {expected}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content
