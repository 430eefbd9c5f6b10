"""JSON from files that nobody vouches for: an object of the expected types, or one clear line."""

import json
import math
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from tl3d_keras.errors import InputError

_T = TypeVar("_T")


def read_object(path: Path, expected: str) -> dict[str, Any]:
    """Reads a file that holds one JSON object.

    Args:
        path: the file.
        expected: what the file belongs to, for the message where it cannot be read.

    Raises:
        InputError: no such file, no JSON, a key given twice, a number that is not finite, or
            something other than an object.
    """
    try:
        content = json.loads(
            path.read_text(encoding="utf-8"),
            object_pairs_hook=_without_repeats,
            parse_constant=_refuse_constant,
        )
    except OSError as error:
        raise InputError(f"{path}: cannot read; expected {expected}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content


def build(cls: type[_T], content: Any, path: Path) -> _T:
    """Builds the dataclass `cls` from what `path` held, each field of its declared type.

    Raises:
        InputError: a field that is missing, unknown or of another type.
    """
    return _typed(content, cls, path, "")


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError("a key is given twice in one object")
    return content


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")


def _typed(value: Any, hint: Any, path: Path, place: str) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, UnionType):
        (hint,) = (a for a in arguments if a is not type(None))
        return None if value is None else _typed(value, hint, path, place)
    if is_dataclass(hint) and isinstance(value, dict):
        return _typed_object(value, hint, path, place)
    if origin is dict and isinstance(value, dict):
        return {k: _typed(v, arguments[1], path, f"{place}.{k}") for k, v in value.items()}
    if origin in (list, tuple) and isinstance(value, list):
        each = origin is list or arguments[-1] is Ellipsis
        kinds = [arguments[0]] * len(value) if each else list(arguments)
        if len(kinds) == len(value):
            items = enumerate(zip(value, kinds, strict=True))
            return origin(_typed(v, kind, path, f"{place}[{i}]") for i, (v, kind) in items)
    if hint is float and type(value) in (int, float) and -math.inf < value < math.inf:
        return value
    if hint in (int, str, bool) and type(value) is hint:
        return value
    found = repr(value)
    raise InputError(
        f"{path}: expected {_name(hint)} as {place.lstrip('.')!r}, "
        f"found {found if len(found) <= 40 else type(value).__name__}"
    )


def _typed_object(value: dict[str, Any], cls: Any, path: Path, place: str) -> Any:
    hints = get_type_hints(cls)
    required = {f.name for f in fields(cls) if f.default is f.default_factory is MISSING}
    for what, names in (
        ("misses", required - value.keys()),
        ("has the unknown", value.keys() - hints.keys()),
    ):
        if names:
            raise InputError(f"{path}: {place.lstrip('.') or 'it'} {what} {sorted(names)[0]!r}")
    return cls(**{k: _typed(v, hints[k], path, f"{place}.{k}") for k, v in value.items()})


def _name(hint: Any) -> str:
    if is_dataclass(hint) or get_origin(hint) is dict:
        return "an object"
    if get_origin(hint) in (list, tuple):
        return "a list"
    return {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}[hint]
