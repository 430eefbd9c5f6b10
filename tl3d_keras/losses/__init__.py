"""Losses over annotated voxels alone, exact for sparse, partial and empty annotation.

Each loss is a function of sums over the voxels of the global batch. The sums are added up over the
replicas of a `tf.distribute` strategy before that function is applied, so that replicas with many
and with few annotated voxels together give the gradient of one device.

The marginal form for partially labelled cases follows Shi et al. 2021 (arXiv 2007.03868): a voxel
labelled 0 is background or any structure that was not annotated in its case.

Where every voxel of one device's batch is annotated, Keras's own losses give the same numbers. They
cannot take the place of these: they average each replica by itself, know no marginal form, and only
its sparse cross-entropy leaves out voxels of one label.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tl3d_keras.errors import InputError
from tl3d_keras.losses.masked_loss import MaskedLoss
from tl3d_keras.losses.masked_sum import MaskedCrossEntropyDice, MaskedSum
from tl3d_keras.losses.overlap import MaskedCaseDice, MaskedDice, MaskedTversky
from tl3d_keras.losses.voxelwise import MaskedCrossEntropy, MaskedFocal

__all__ = [
    "LOSSES",
    "MaskedCaseDice",
    "MaskedCrossEntropy",
    "MaskedCrossEntropyDice",
    "MaskedDice",
    "MaskedFocal",
    "MaskedLoss",
    "MaskedSum",
    "MaskedTversky",
    "focal_dice",
    "make",
]


def focal_dice(
    from_logits: bool = False,
    gamma: float = 2.0,
    alpha: float | None = None,
    class_weights: Sequence[float] | None = None,
) -> MaskedSum:
    """The sum of `MaskedFocal` and `MaskedDice`, whose arguments it takes."""
    focal = MaskedFocal(from_logits, gamma, alpha, class_weights)
    return MaskedSum([focal, MaskedDice(from_logits)], name="focal_dice")


LOSSES: dict[str, Callable[..., MaskedLoss]] = {
    "cross_entropy": MaskedCrossEntropy,
    "dice": MaskedDice,
    "case_dice": MaskedCaseDice,
    "cross_entropy_dice": MaskedCrossEntropyDice,
    "focal": MaskedFocal,
    "focal_dice": focal_dice,
    "tversky": MaskedTversky,
}
_NOT_OPTIONS = ("from_logits", "class_weights", "name", "kwargs")


def make(
    name: str,
    from_logits: bool = False,
    options: Mapping[str, float] | None = None,
    class_weights: Sequence[float] | None = None,
) -> MaskedLoss:
    """A loss by its name.

    Args:
        name: a key of `LOSSES`.
        from_logits: whether predictions are logits rather than probabilities.
        options: numbers that the loss takes by name, such as gamma.
        class_weights: [K + 1], for the losses that take them.

    Raises:
        InputError: no such loss, or it does not take an option or class weights.
    """
    if name not in LOSSES:
        raise InputError(f"expected a loss of {', '.join(LOSSES)}, found {name!r}")
    taken = inspect.signature(LOSSES[name]).parameters
    numbers = [option for option in taken if option not in _NOT_OPTIONS]
    arguments: dict[str, Any] = dict(options or {})
    for option in arguments:
        if option not in numbers:
            raise InputError(
                f"the loss {name}: expected options of {', '.join(numbers) or 'none'}, "
                f"found {option!r}"
            )
    if class_weights is not None:
        if "class_weights" not in taken:
            raise InputError(f"the loss {name}: expected no class weights, found some")
        arguments["class_weights"] = class_weights
    return LOSSES[name](from_logits=from_logits, **arguments)
