"""Losses that are sums of others."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tl3d_keras.errors import InputError
from tl3d_keras.losses.masked_loss import MaskedLoss
from tl3d_keras.losses.overlap import MaskedDice
from tl3d_keras.losses.voxelwise import MaskedCrossEntropy


@tf.keras.utils.register_keras_serializable("tl3d_keras")
class MaskedSum(MaskedLoss):
    """The sum of masked losses.

    Args:
        losses: at least one; all from logits, or none.

    Raises:
        InputError: there is none, or some are from logits and some not.
    """

    def __init__(
        self, losses: Sequence[MaskedLoss], name: str | None = None, **kwargs: Any
    ) -> None:
        kinds = {loss.from_logits for loss in losses}
        if len(kinds) != 1:
            found = ", ".join(f"{loss.name} from_logits={loss.from_logits}" for loss in losses)
            raise InputError(
                f"expected losses that are all from logits or none, found {found or 'no loss'}"
            )
        super().__init__(kinds.pop(), name, **kwargs)
        self.losses = list(losses)

    def sums(
        self, truth: tf.Tensor, log_probabilities: tf.Tensor, annotated: tf.Tensor
    ) -> list[Any]:
        return [loss.sums(truth, log_probabilities, annotated) for loss in self.losses]

    def combine(self, sums: list[Any]) -> tf.Tensor:
        return tf.add_n([loss.combine(s) for loss, s in zip(self.losses, sums, strict=True)])

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        config = super().get_config()
        del config["from_logits"]
        return {**config, "losses": [tf.keras.losses.serialize(loss) for loss in self.losses]}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "MaskedSum":
        """The inverse of `get_config`."""
        losses = [tf.keras.losses.deserialize(loss) for loss in config["losses"]]
        return cls(**{**config, "losses": losses})


@tf.keras.utils.register_keras_serializable("tl3d_keras")
class MaskedCrossEntropyDice(MaskedSum):
    """The sum of `MaskedCrossEntropy` and `MaskedDice`, whose arguments it takes."""

    def __init__(
        self,
        from_logits: bool = False,
        class_weights: Sequence[float] | None = None,
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        parts = [MaskedCrossEntropy(from_logits, class_weights), MaskedDice(from_logits)]
        super().__init__(parts, name, **kwargs)
        self.class_weights = parts[0].class_weights

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        config = MaskedLoss.get_config(self)
        return {**config, "class_weights": self.class_weights}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "MaskedCrossEntropyDice":
        """The inverse of `get_config`."""
        return cls(**config)
