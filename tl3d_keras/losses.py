"""Losses over annotated voxels alone, exact for sparse, partial and empty annotation.

Each loss is a function of sums over the voxels of the global batch. The sums are added up over the
replicas of a `tf.distribute` strategy before that function is applied, so that replicas with many
and with few annotated voxels together give the gradient of one device.

The marginal form for partially labelled cases follows Shi et al. 2021 (arXiv 2007.03868): a voxel
labelled 0 is background or any structure that was not annotated in its case.
"""

from typing import Any

import tensorflow as tf

_EPSILON = 1e-7


class _MaskedLoss(tf.keras.losses.Loss):
    """What the losses share; see `value` for shapes.

    Args:
        from_logits: whether predictions are logits rather than probabilities.
    """

    def __init__(self, from_logits: bool = False, name: str | None = None, **kwargs: Any) -> None:
        kwargs.setdefault("reduction", "sum")
        super().__init__(name=name, **kwargs)
        self.from_logits = from_logits

    def call(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
        """This replica's share of the loss of fully labelled cases, for `compile` and `fit`."""
        return self.value(y_true, y_pred) / _num_replicas()

    def value(
        self, labels: tf.Tensor, prediction: tf.Tensor, annotated: tf.Tensor | None = None
    ) -> tf.Tensor:
        """The loss of the global batch, equal on every replica.

        For gradients that are summed over replicas, divide it by their number, as `call` does.

        Args:
            labels: [B, z, y, x] or [B, z, y, x, 1], 0..K or IGNORE.
            prediction: [B, z, y, x, K + 1], of any float type; computed with in float32.
            annotated: [B, K + 1], true (or 1) for the structures annotated in each case; None: all.

        Returns:
            A float32 scalar, 0 where nothing is annotated.
        """
        labels, prediction = tf.convert_to_tensor(labels), tf.convert_to_tensor(prediction)
        if labels.shape.rank == prediction.shape.rank:
            labels = tf.squeeze(labels, -1)
        classes = prediction.shape[-1]
        # IGNORE is no class, so its row is all zeros: no value, no gradient.
        truth = tf.one_hot(tf.cast(labels, tf.int32), classes, dtype=tf.float32)
        log_probabilities = _log_probabilities(prediction, self.from_logits)
        if annotated is None:
            annotated = tf.ones([tf.shape(labels)[0], classes], tf.bool)
        else:
            annotated = tf.cast(annotated, tf.bool)
            log_probabilities = _marginal(log_probabilities, annotated)
        return self.combine(_all_reduce(self.sums(truth, log_probabilities, annotated)))

    def sums(
        self, truth: tf.Tensor, log_probabilities: tf.Tensor, annotated: tf.Tensor
    ) -> list[tf.Tensor]:
        """Sums over this replica's voxels that `combine` needs."""
        raise NotImplementedError

    def combine(self, sums: list[tf.Tensor]) -> tf.Tensor:
        """The loss from the sums over all voxels."""
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "from_logits": self.from_logits}


@tf.keras.utils.register_keras_serializable("tl3d_keras")
class MaskedCrossEntropy(_MaskedLoss):
    """Cross-entropy, averaged over the annotated voxels of the global batch."""

    def sums(
        self, truth: tf.Tensor, log_probabilities: tf.Tensor, annotated: tf.Tensor
    ) -> list[tf.Tensor]:
        return [-tf.reduce_sum(truth * log_probabilities), tf.reduce_sum(truth)]

    def combine(self, sums: list[tf.Tensor]) -> tf.Tensor:
        total, voxels = sums
        return tf.math.divide_no_nan(total, voxels)


@tf.keras.utils.register_keras_serializable("tl3d_keras")
class MaskedDice(_MaskedLoss):
    """One minus the soft Dice of Milletari et al. 2016 (arXiv 1606.04797), without squares.

    The Dice of a structure is that of all annotated voxels of the global batch in cases where the
    structure was annotated. The loss is the mean over the structures that the batch contains;
    background is none of them.
    """

    def sums(
        self, truth: tf.Tensor, log_probabilities: tf.Tensor, annotated: tf.Tensor
    ) -> list[tf.Tensor]:
        counted = tf.reduce_sum(truth, -1, keepdims=True)
        probabilities = tf.exp(log_probabilities[..., 1:]) * counted
        truth = truth[..., 1:]
        in_case = tf.cast(annotated[:, 1:], tf.float32)

        def per_structure(voxels: tf.Tensor) -> tf.Tensor:
            return tf.reduce_sum(tf.reduce_sum(voxels, [1, 2, 3]) * in_case, 0)

        return [
            per_structure(truth * probabilities),
            per_structure(probabilities),
            per_structure(truth),
        ]

    def combine(self, sums: list[tf.Tensor]) -> tf.Tensor:
        overlap, predicted, true = sums
        present = tf.cast(true > 0, tf.float32)
        dice = tf.math.divide_no_nan(2 * overlap, predicted + true)
        return tf.math.divide_no_nan(tf.reduce_sum(present * (1 - dice)), tf.reduce_sum(present))


@tf.keras.utils.register_keras_serializable("tl3d_keras")
class MaskedCrossEntropyDice(_MaskedLoss):
    """The sum of `MaskedCrossEntropy` and `MaskedDice`."""

    def __init__(self, from_logits: bool = False, name: str | None = None, **kwargs: Any) -> None:
        super().__init__(from_logits, name, **kwargs)
        self._cross_entropy = MaskedCrossEntropy(from_logits)
        self._dice = MaskedDice(from_logits)

    def sums(
        self, truth: tf.Tensor, log_probabilities: tf.Tensor, annotated: tf.Tensor
    ) -> list[tf.Tensor]:
        return [
            *self._cross_entropy.sums(truth, log_probabilities, annotated),
            *self._dice.sums(truth, log_probabilities, annotated),
        ]

    def combine(self, sums: list[tf.Tensor]) -> tf.Tensor:
        return self._cross_entropy.combine(sums[:2]) + self._dice.combine(sums[2:])


LOSSES = {
    "cross_entropy": MaskedCrossEntropy,
    "dice": MaskedDice,
    "cross_entropy_dice": MaskedCrossEntropyDice,
}


def _log_probabilities(prediction: tf.Tensor, from_logits: bool) -> tf.Tensor:
    prediction = tf.cast(prediction, tf.float32)
    if from_logits:
        return tf.nn.log_softmax(prediction)
    return tf.math.log(tf.clip_by_value(prediction, _EPSILON, 1.0))


def _marginal(log_probabilities: tf.Tensor, annotated: tf.Tensor) -> tf.Tensor:
    """Puts the probability of every structure not annotated in a case into its background."""
    annotated = annotated[:, tf.newaxis, tf.newaxis, tf.newaxis, :]
    is_background = tf.concat([tf.ones_like(annotated[..., :1]), ~annotated[..., 1:]], -1)
    background = tf.reduce_logsumexp(
        tf.where(is_background, log_probabilities, log_probabilities.dtype.min), -1, keepdims=True
    )
    return tf.concat([background, log_probabilities[..., 1:]], -1)


def _num_replicas() -> int:
    context = tf.distribute.get_replica_context()
    return context.num_replicas_in_sync if context else 1


def _all_reduce(sums: list[tf.Tensor]) -> list[tf.Tensor]:
    context = tf.distribute.get_replica_context()
    if not context or context.num_replicas_in_sync == 1:
        return sums
    # One vector, so that replicas wait for each other once.
    flat = tf.concat([tf.reshape(s, [-1]) for s in sums], 0)
    total = context.all_reduce(tf.distribute.ReduceOp.SUM, flat)
    parts = tf.split(total, [s.shape.num_elements() for s in sums])
    return [tf.reshape(part, s.shape) for part, s in zip(parts, sums, strict=True)]
