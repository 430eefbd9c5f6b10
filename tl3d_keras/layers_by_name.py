"""Layers by name: patterns and ranges of levels, and what is set for the layers they match."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

import tensorflow as tf

from tl3d_keras.errors import InputError

ALL = "all"
_RANGE = ":"


def matching(network: tf.keras.Model, patterns: Sequence[str] | str) -> list[str]:
    """The layers with weights that any pattern matches, in the network's order.

    Args:
        network: whose layers are meant.
        patterns: one or several. Each is the name of a layer; the beginning of names up to a `_`,
            such as `decoder` or `encoder_0`; a pattern as in a shell: `*_conv_0`,
            `decoder_[01]_*`; `all`; or a range of two of these, such as `encoder_0:encoder_2`: the
            layers of both and all between them.

    Raises:
        InputError: a pattern, or an end of a range, matches no layer with weights; the message
            lists their names.
    """
    names = [layer.name for layer in network.layers if layer.weights]
    patterns = (patterns,) if isinstance(patterns, str) else patterns
    found = {name for pattern in patterns for name in _range(names, pattern)}
    return [name for name in names if name in found]


def freeze(network: tf.keras.Model, patterns: Sequence[str] | str) -> list[str]:
    """Freezes the layers that any pattern matches, and unfreezes all others.

    Args:
        network: whose layers are set; compile it afterwards.
        patterns: see `matching`.

    Returns:
        The names of the frozen layers.

    Raises:
        InputError: a pattern matches no layer with weights; the message lists their names.
    """
    frozen = matching(network, patterns)
    for name in matching(network, (ALL,)):
        network.get_layer(name).trainable = name not in frozen
    return frozen


def match_rates(network: tf.keras.Model, rates: Sequence[tuple[str, float]]) -> dict[str, float]:
    """Multipliers by layer name from those by pattern; the last pattern that matches counts.

    Args:
        network: whose layers are meant.
        rates: pairs of a pattern, see `matching`, and a number.

    Raises:
        InputError: a pattern matches no layer with weights; the message lists their names.
    """
    return {name: rate for pattern, rate in rates for name in matching(network, (pattern,))}


def _range(names: list[str], pattern: str) -> list[str]:
    first, colon, last = pattern.partition(_RANGE)
    if not colon:
        return _one(names, pattern)
    ends = [names.index(name) for end in (first, last) for name in _one(names, end)]
    return names[min(ends) : max(ends) + 1]


def _one(names: list[str], pattern: str) -> list[str]:
    if pattern in names:
        return [pattern]
    found = [
        name
        for name in names
        if pattern == ALL or fnmatchcase(name, pattern) or name.startswith(f"{pattern}_")
    ]
    if not found:
        raise InputError(
            f"expected a pattern that matches a layer, found {pattern!r}; the "
            f"layers are {', '.join(names)}"
        )
    return found
