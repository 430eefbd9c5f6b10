"""The stages of a training run: which layers are trained, for how long and at which rate."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import tensorflow as tf

from tl3d_keras.errors import InputError
from tl3d_keras.layers_by_name import ALL, matching

_TEXT = re.compile(r"(?P<layers>[^@]+?)(:(?P<steps>\d+))?(@(?P<rate>[^@]+))?")
_AND = "+"


@dataclass(frozen=True)
class Stage:
    """A part of a training run.

    Attributes:
        name: for logs.
        steps: batches.
        learning_rate: its highest, after the warm-up.
        frozen: layers that stay as they are, as `layers_by_name.matching` takes them.
        trained: the layers of which all others stay as they are too.
    """

    name: str
    steps: int
    learning_rate: float
    frozen: tuple[str, ...] = ()
    trained: tuple[str, ...] = (ALL,)


def frozen_layers(network: tf.keras.Model, stage: Stage) -> list[str]:
    """The names of the layers that a stage leaves as they are, in the network's order.

    Raises:
        InputError: a pattern matches no layer, or nothing is left to train.
    """
    trained, frozen = matching(network, stage.trained), matching(network, stage.frozen)
    names = matching(network, (ALL,))
    kept = [name for name in names if name not in trained or name in frozen]
    if kept == names:
        raise InputError(f"stage {stage.name}: expected a layer to train, found all of them frozen")
    return kept


def parse(texts: Sequence[str], steps: int, learning_rate: float) -> list[Stage]:
    """Stages from `LAYERS[:STEPS][@RATE]`, such as `head:300@1e-3` or `decoder_*+head:200`.

    Args:
        texts: one a stage. Several patterns of layers are joined by `+`; without a rate a stage has
            `learning_rate`; the last stage may leave out its steps, and gets what is left.
        steps: of the whole run.
        learning_rate: of stages without one.

    Raises:
        InputError: a text of another form, or steps that do not add up.
    """
    stages: list[Stage] = []
    for text in texts:
        left = steps - sum(stage.steps for stage in stages)
        stages.append(_parse_one(text, left if len(stages) + 1 == len(texts) else 0, learning_rate))
    found = sum(stage.steps for stage in stages)
    if found != steps or min(stage.steps for stage in stages) < 1:
        raise InputError(
            f"--stages: expected 1 step or more each and --steps={steps} together, found "
            f"{' + '.join(str(stage.steps) for stage in stages)}"
        )
    return stages


def _parse_one(text: str, default_steps: int, default_rate: float) -> Stage:
    match = _TEXT.fullmatch(text)
    patterns = tuple(match["layers"].split(_AND)) if match else ()
    try:
        rate = float(match["rate"] or default_rate) if match else -1.0
    except ValueError:
        rate = -1.0
    if not match or not all(patterns) or not 0 <= rate < float("inf"):
        raise InputError(
            f"--stages: expected LAYERS[:STEPS][@RATE] such as head:300@1e-3, found {text!r}"
        )
    return Stage(match["layers"], int(match["steps"] or default_steps), rate, trained=patterns)
