"""What lists of texts in flags mean: numbers, spacings, axes."""

from collections.abc import Sequence
from typing import Any

from tl3d_keras.errors import InputError


def numbers(flag: str, values: Sequence[str] | None, kind: Any, count: int) -> tuple | None:
    """The numbers of a flag; None where it is not given.

    Args:
        flag: its name, for messages.
        values: its texts.
        kind: `int` or `float`.
        count: how many there should be.

    Raises:
        InputError: no numbers of that kind, or not as many.
    """
    if values is None:
        return None
    try:
        found = tuple(kind(value) for value in values)
    except ValueError:
        found = ()
    if len(found) != count:
        raise InputError(f"--{flag}: expected {count} numbers, found {','.join(values)}")
    return found


def spacing(flag: str, values: Sequence[str]) -> tuple[float, float, float]:
    """A spacing (z, y, x) in mm; an `InputError` unless it is three positive numbers."""
    try:
        z, y, x = (float(value) for value in values)
    except ValueError:
        z = y = x = 0.0
    if not all(0 < step < float("inf") for step in (z, y, x)):
        raise InputError(
            f"--{flag}: expected three positive numbers z,y,x in mm, found {','.join(values)}"
        )
    return z, y, x


def axes(flag: str, names: Sequence[str]) -> tuple[int, ...]:
    """The axes 0, 1, 2 of their names z, y, x; another name is an `InputError`."""
    unknown = [name for name in names if name not in ("z", "y", "x")]
    if unknown:
        raise InputError(f"--{flag}: expected axes of z,y,x, found {unknown[0]!r}")
    return tuple(sorted({"zyx".index(name) for name in names}))


def options(flag: str, pairs: Sequence[str]) -> dict[str, float]:
    """Numbers by name, of texts NAME=NUMBER; an `InputError` for any other text."""
    found = {}
    for pair in pairs:
        name, _, number = pair.partition("=")
        try:
            found[name] = float(number)
        except ValueError as error:
            raise InputError(f"--{flag}: expected NAME=NUMBER, found {pair!r}") from error
    return found


def rates(flag: str, texts: Sequence[str]) -> tuple[tuple[str, float], ...]:
    """Pairs of a layer pattern and a number, of texts PATTERN=NUMBER, in their order.

    Raises:
        InputError: any other text.
    """
    found = []
    for text in texts:
        pattern, _, number = text.rpartition("=")
        try:
            rate = float(number)
        except ValueError:
            pattern = ""
        if not pattern:
            raise InputError(
                f"--{flag}: expected a layer pattern and a number such as head=2, found {text!r}"
            )
        found.append((pattern, rate))
    return tuple(found)
