"""Losses of how prediction and annotation of a structure overlap: Dice and Tversky."""

from typing import Any

import tensorflow as tf

from tl3d_keras.errors import InputError
from tl3d_keras.losses.masked_loss import MaskedLoss


@tf.keras.utils.register_keras_serializable("tl3d_keras")
class MaskedDice(MaskedLoss):
    """One minus the soft Dice of Milletari et al. 2016 (arXiv 1606.04797), without squares.

    The Dice of a structure is that of all annotated voxels of the global batch in cases where the
    structure was annotated. The loss is the mean over the structures that the batch contains;
    background is none of them.
    """

    def sums(
        self, truth: tf.Tensor, log_probabilities: tf.Tensor, annotated: tf.Tensor
    ) -> list[tf.Tensor]:
        return [tf.reduce_sum(s, 0) for s in _case_sums(truth, log_probabilities, annotated)]

    def combine(self, sums: list[tf.Tensor]) -> tf.Tensor:
        return tf.math.divide_no_nan(*self.total(*sums))

    def score(self, overlap: tf.Tensor, predicted: tf.Tensor, true: tf.Tensor) -> tf.Tensor:
        """The overlap score, 0..1, of sums of equal shape."""
        return tf.math.divide_no_nan(2 * overlap, predicted + true)

    def total(
        self, overlap: tf.Tensor, predicted: tf.Tensor, true: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The sum of one minus the score where there is a structure, and how often there is one."""
        present = tf.cast(true > 0, tf.float32)
        missed = present * (1 - self.score(overlap, predicted, true))
        return tf.reduce_sum(missed), tf.reduce_sum(present)


@tf.keras.utils.register_keras_serializable("tl3d_keras")
class MaskedCaseDice(MaskedDice):
    """One minus the soft Dice of each case, averaged over all cases and structures present.

    A small structure in one case weighs as much as a large one in another. See `MaskedDice`.
    """

    def sums(
        self, truth: tf.Tensor, log_probabilities: tf.Tensor, annotated: tf.Tensor
    ) -> list[tf.Tensor]:
        return [*self.total(*_case_sums(truth, log_probabilities, annotated))]

    def combine(self, sums: list[tf.Tensor]) -> tf.Tensor:
        return tf.math.divide_no_nan(*sums)


@tf.keras.utils.register_keras_serializable("tl3d_keras")
class MaskedTversky(MaskedDice):
    """One minus the soft Tversky index of Salehi et al. 2017 (arXiv 1706.05721).

    The sums are those of `MaskedDice`, which is the case alpha = beta = 0.5.

    Args:
        from_logits: whether predictions are logits rather than probabilities.
        alpha: above 0, the weight of what was predicted and is not there.
        beta: above 0, the weight of what is there and was not predicted.

    Raises:
        InputError: a weight out of its range.
    """

    def __init__(
        self,
        from_logits: bool = False,
        alpha: float = 0.3,
        beta: float = 0.7,
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(from_logits, name, **kwargs)
        for what, weight in (("alpha", alpha), ("beta", beta)):
            if not 0 < weight < float("inf"):
                raise InputError(f"{self.name}: expected {what} above 0, found {weight}")
        self.alpha, self.beta = float(alpha), float(beta)

    def score(self, overlap: tf.Tensor, predicted: tf.Tensor, true: tf.Tensor) -> tf.Tensor:
        """The Tversky index."""
        wrong = self.alpha * (predicted - overlap) + self.beta * (true - overlap)
        return tf.math.divide_no_nan(overlap, overlap + wrong)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "alpha": self.alpha, "beta": self.beta}


def _case_sums(
    truth: tf.Tensor, log_probabilities: tf.Tensor, annotated: tf.Tensor
) -> list[tf.Tensor]:
    """Overlap, predicted and true voxels, each [B, K]; 0 where a case has no such annotation."""
    counted = tf.reduce_sum(truth, -1, keepdims=True)
    probabilities = tf.exp(log_probabilities) * counted
    in_case = tf.cast(annotated[:, 1:], tf.float32)
    # Background goes last, when there is little left to copy.
    return [
        tf.reduce_sum(voxels, [1, 2, 3])[:, 1:] * in_case
        for voxels in (truth * probabilities, probabilities, truth)
    ]
