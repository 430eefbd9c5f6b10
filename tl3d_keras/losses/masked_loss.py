"""What the masked losses share: labels and predictions in, sums over the global batch out."""

from typing import Any

import tensorflow as tf

from tl3d_keras.annotation import IGNORE
from tl3d_keras.errors import InputError
from tl3d_keras.label_tensors import check_classes, without_channel

EPSILON = 1e-7


class MaskedLoss(tf.keras.losses.Loss):
    """A loss of annotated voxels alone; see `value` for shapes.

    Args:
        from_logits: whether predictions are logits rather than probabilities.
    """

    def __init__(self, from_logits: bool = False, name: str | None = None, **kwargs: Any) -> None:
        kwargs.setdefault("reduction", "sum")
        super().__init__(name=name, **kwargs)
        self.from_logits = from_logits

    def __call__(
        self, y_true: tf.Tensor, y_pred: tf.Tensor, sample_weight: None = None
    ) -> tf.Tensor:
        """As `call`; there are no sample weights.

        Raises:
            InputError: `sample_weight` is given, which Keras would multiply the whole loss by.
        """
        if sample_weight is not None:
            raise InputError(
                f"{self.name}: expected no sample_weight, found one; "
                "unannotated voxels are those labelled 255"
            )
        return super().__call__(y_true, y_pred)

    def call(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
        """This replica's share of the loss of fully labelled cases, for `compile` and `fit`.

        Raises:
            tf.errors.InvalidArgumentError: a label is none of 0..K and not IGNORE.
        """
        classes = y_pred.shape[-1]
        labels = tf.cast(y_true, tf.int32)
        known = tf.where(labels == IGNORE, 0, labels)
        # An unknown label would count as unannotated. What records hold has been checked before.
        expected = f"{self.name}: expected labels 0 to {classes - 1}, or {IGNORE} (unannotated)"
        tf.debugging.assert_less(known, classes, expected)
        tf.debugging.assert_non_negative(known, expected)
        return self.value(y_true, y_pred) / _num_replicas()

    def value(
        self, labels: tf.Tensor, prediction: tf.Tensor, annotated: tf.Tensor | None = None
    ) -> tf.Tensor:
        """The loss of the global batch, equal on every replica.

        For gradients that are summed over replicas, divide it by their number, as `call` does.

        Args:
            labels: [B, z, y, x] or [B, z, y, x, 1], 0..K or IGNORE.
            prediction: [B, z, y, x, K + 1], of any float type; computed with in float32. K + 1 is
                static, and at most 255.
            annotated: [B, K + 1], true (or 1) for the structures annotated in each case; None: all.

        Returns:
            A float32 scalar, 0 where nothing is annotated.

        Raises:
            InputError: shapes that do not belong together; more classes, of which one would have
                the label of unannotated voxels.
        """
        labels, prediction = tf.convert_to_tensor(labels), tf.convert_to_tensor(prediction)
        labels = without_channel(labels, prediction, self.name)
        classes = prediction.shape[-1]
        check_classes(classes, self.name)
        # IGNORE is no class, so its row is all zeros: no value, no gradient.
        truth = tf.one_hot(tf.cast(labels, tf.int32), classes, dtype=tf.float32)
        log_probabilities = _log_probabilities(prediction, self.from_logits)
        if annotated is None:
            annotated = tf.ones([tf.shape(labels)[0], classes], tf.bool)
        else:
            annotated = tf.cast(annotated, tf.bool)
            log_probabilities = tf.cond(
                tf.reduce_all(annotated),
                lambda: log_probabilities,
                lambda: _marginal(log_probabilities, annotated),
            )
        return self.combine(_all_reduce(self.sums(truth, log_probabilities, annotated)))

    def sums(
        self, truth: tf.Tensor, log_probabilities: tf.Tensor, annotated: tf.Tensor
    ) -> list[Any]:
        """Sums over this replica's voxels that `combine` needs.

        Args:
            truth: float32 [B, z, y, x, K + 1], one-hot; all zeros where unannotated.
            log_probabilities: of that shape; background holds what a label 0 may be in the case.
            annotated: bool [B, K + 1].
        """
        raise NotImplementedError

    def combine(self, sums: list[Any]) -> tf.Tensor:
        """The loss from the sums over all voxels."""
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "from_logits": self.from_logits}


def _log_probabilities(prediction: tf.Tensor, from_logits: bool) -> tf.Tensor:
    prediction = tf.cast(prediction, tf.float32)
    if from_logits:
        return tf.nn.log_softmax(prediction)
    return tf.math.log(tf.clip_by_value(prediction, EPSILON, 1.0))


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


def _all_reduce(sums: list[Any]) -> list[Any]:
    context = tf.distribute.get_replica_context()
    if not context or context.num_replicas_in_sync == 1:
        return sums
    # One vector, so that replicas wait for each other once.
    parts = tf.nest.flatten(sums)
    flat = tf.concat([tf.reshape(s, [-1]) for s in parts], 0)
    total = context.all_reduce(tf.distribute.ReduceOp.SUM, flat)
    totals = tf.split(total, [s.shape.num_elements() for s in parts])
    shaped = [tf.reshape(total, s.shape) for total, s in zip(totals, parts, strict=True)]
    return tf.nest.pack_sequence_as(sums, shaped)
