"""JSON objects from files that nobody vouches for."""

import json
import math
import os
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from pydantic import TypeAdapter, ValidationError

from tl3d_keras import regular_file
from tl3d_keras.errors import InputError

_Kind = TypeVar("_Kind")


def read_object(path: str | os.PathLike, expected: str) -> dict[str, Any]:
    """The object in a JSON file.

    Args:
        path: the file.
        expected: what the user should have given, for the message where there is no such file.

    Raises:
        InputError: the file cannot be read, is a named pipe or the like, is no JSON, holds
            something else than an object, a key twice in an object, a NaN or an infinity.
    """
    regular_file.check(path)
    try:
        content = json.loads(
            Path(path).read_text(encoding="utf-8"),
            object_pairs_hook=_without_repeats,
            parse_constant=_refuse,
            parse_float=_finite,
        )
    except OSError as error:
        raise InputError(f"{path}: cannot read: {error.strerror}; expected {expected}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content


def typed(content: Any, kind: type[_Kind], refusal: str) -> _Kind:
    """JSON values as the data class that they should be.

    Args:
        content: the values.
        kind: the data class, by pydantic's rules.
        refusal: how the message begins where they are something else.

    Raises:
        InputError: they are; the message ends with where, and what is wrong there.
    """
    try:
        return TypeAdapter(kind).validate_python(content)
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(str(step) for step in problem["loc"])
        place = place if place.isprintable() else repr(place)
        raise InputError(f"{refusal}: {place}: {problem['msg']}") from None


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError("a key is given twice in one object")
    return content


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _refuse(text)


def _refuse(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number")
