"""Losses that are a mean over annotated voxels: cross-entropy and focal loss."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tl3d_keras.errors import InputError
from tl3d_keras.losses.masked_loss import EPSILON, MaskedLoss


@tf.keras.utils.register_keras_serializable("tl3d_keras")
class MaskedCrossEntropy(MaskedLoss):
    """Cross-entropy, averaged over the annotated voxels of the global batch.

    Args:
        from_logits: whether predictions are logits rather than probabilities.
        class_weights: [K + 1], what a voxel counts by its label; the sum is still divided by the
            number of voxels, as Keras does with sample weights. None: 1 each.
    """

    def __init__(
        self,
        from_logits: bool = False,
        class_weights: Sequence[float] | None = None,
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(from_logits, name, **kwargs)
        self.class_weights = None if class_weights is None else [float(w) for w in class_weights]

    def sums(
        self, truth: tf.Tensor, log_probabilities: tf.Tensor, annotated: tf.Tensor
    ) -> list[tf.Tensor]:
        # An unannotated voxel gets log 1, so it adds nothing.
        losses = self.of_voxels(tf.reduce_sum(truth * log_probabilities, -1))
        weights = self.weights(truth.shape[-1])
        if weights is not None:
            losses *= tf.linalg.matvec(truth, tf.constant(weights, tf.float32))
        return [tf.reduce_sum(losses), tf.reduce_sum(truth)]

    def of_voxels(self, log_probability: tf.Tensor) -> tf.Tensor:
        """The loss of each voxel from the log-probability of its label."""
        return -log_probability

    def weights(self, classes: int) -> list[float] | None:
        """What a voxel counts by its label."""
        if self.class_weights is not None and len(self.class_weights) != classes:
            raise InputError(
                f"{self.name}: expected {classes} class weights, background first, "
                f"found {len(self.class_weights)}"
            )
        return self.class_weights

    def combine(self, sums: list[tf.Tensor]) -> tf.Tensor:
        total, voxels = sums
        return tf.math.divide_no_nan(total, voxels)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "class_weights": self.class_weights}


@tf.keras.utils.register_keras_serializable("tl3d_keras")
class MaskedFocal(MaskedCrossEntropy):
    """The focal loss of Lin et al. 2017 (arXiv 1708.02002), averaged over annotated voxels.

    A voxel whose label has probability p counts -(1 - p)^gamma log p.

    Args:
        from_logits: whether predictions are logits rather than probabilities.
        gamma: 0 or more; 0 is cross-entropy.
        alpha: 0..1, the weight of the structures' voxels, background's being 1 - alpha; None: 1
            each.
        class_weights: in place of alpha, see `MaskedCrossEntropy`.

    Raises:
        InputError: a value out of its range, or both alpha and class weights.
    """

    def __init__(
        self,
        from_logits: bool = False,
        gamma: float = 2.0,
        alpha: float | None = None,
        class_weights: Sequence[float] | None = None,
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(from_logits, class_weights, name, **kwargs)
        if not 0 <= gamma < float("inf"):
            raise InputError(f"{self.name}: expected gamma of 0 or more, found {gamma}")
        if alpha is not None and not 0 <= alpha <= 1:
            raise InputError(f"{self.name}: expected alpha of 0 to 1, found {alpha}")
        if alpha is not None and class_weights is not None:
            raise InputError(f"{self.name}: expected alpha or class weights, found both")
        self.gamma = float(gamma)
        self.alpha = alpha

    def of_voxels(self, log_probability: tf.Tensor) -> tf.Tensor:
        # At p = 1 the derivative of a power below 1 would be infinite.
        missed = tf.maximum(-tf.math.expm1(log_probability), EPSILON)
        return -(missed**self.gamma) * log_probability

    def weights(self, classes: int) -> list[float] | None:
        if self.alpha is None:
            return super().weights(classes)
        return [1 - self.alpha] + [self.alpha] * (classes - 1)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "gamma": self.gamma, "alpha": self.alpha}
