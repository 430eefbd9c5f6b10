"""Which structures change places in a mirror, told by their names."""

import re
from collections import defaultdict
from collections.abc import Sequence

from tl3d_keras.errors import InputError

_WORDS = re.compile(r"[^\W_]+")
_CAMEL_CASE = re.compile(r"(?<=[a-z])(?=[A-Z])")
_SIDES = {"left": "left", "lt": "left", "l": "left", "right": "right", "rt": "right", "r": "right"}


def mirrored_labels(structures: Sequence[str]) -> list[int]:
    """The label of each label's mirror image, left and right of one name changing places.

    A side is the word left or right, or a word that starts with it, anywhere in a name, or L, R,
    Lt, Rt at its start or end: `left_kidney`, `kidney right`, `Lung-L`, `KidneyLeft`. A name with
    both sides or none is its own mirror image.

    Args:
        structures: names of labels 1..K.

    Returns:
        K + 1 labels, from background on.

    Raises:
        InputError: a structure of one side has not exactly one partner on the other.
    """
    by_rest: dict[tuple[str, ...], dict[str, list[int]]] = defaultdict(
        lambda: {"left": [], "right": []}
    )
    for label, name in enumerate(structures, start=1):
        sides, rest = _split(name)
        if len(sides) == 1:
            by_rest[rest][sides.pop()].append(label)
    mirrored = list(range(len(structures) + 1))
    for pair in by_rest.values():
        if (len(pair["left"]), len(pair["right"])) != (1, 1):
            found = (pair["left"] + pair["right"])[0]
            raise InputError(
                "expected no flip along x, or each structure of a left or right side with exactly "
                f"one partner on the other, found {structures[found - 1]!r} without"
            )
        left, right = pair["left"][0], pair["right"][0]
        mirrored[left], mirrored[right] = right, left
    return mirrored


def _split(name: str) -> tuple[set[str], tuple[str, ...]]:
    """The sides that a name holds, and its other words."""
    words = [word.lower() for part in _WORDS.findall(name) for word in _CAMEL_CASE.split(part)]
    sides, rest = set(), []
    for index, word in enumerate(words):
        at_end = len(words) > 1 and index in (0, len(words) - 1)
        joined = re.match("(left|right)(.*)", word)
        if joined:
            sides.add(joined[1])
            rest += [joined[2]] if joined[2] else []
        elif word in _SIDES and at_end:
            sides.add(_SIDES[word])
        else:
            rest.append(word)
    return sides, tuple(rest)
