"""Masked Dice as a Keras metric: sums over annotated voxels, whatever the batches and replicas."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tl3d_keras.annotation import IGNORE
from tl3d_keras.errors import InputError
from tl3d_keras.label_tensors import check_classes, without_channel


@tf.keras.utils.register_keras_serializable("tl3d_keras")
class MaskedDiceMetric(tf.keras.metrics.Metric):
    """Dice of the most probable class over all annotated voxels since the last reset.

    A structure counts in the cases where it was annotated. `result()` is the mean over structures
    that were predicted or annotated, or that of one structure; `per_structure()` gives each.

    Args:
        num_classes: K + 1, at most 255.
        structure: 1..K, of which `result()` is then the Dice; None: the mean.

    Raises:
        InputError: too many classes, or `structure` is none of them.
    """

    def __init__(
        self, num_classes: int, structure: int | None = None, name: str = "dice", **kwargs: Any
    ) -> None:
        super().__init__(name=name, **kwargs)
        check_classes(num_classes, name)
        if structure is not None and not 1 <= structure < num_classes:
            raise InputError(
                f"{name}: expected a structure of 1 to {num_classes - 1}, found {structure}"
            )
        self.num_classes = num_classes
        self.structure = structure
        shape = (num_classes - 1,)
        self._overlap = self.add_weight(name="overlap", shape=shape, initializer="zeros")
        self._sizes = self.add_weight(name="sizes", shape=shape, initializer="zeros")

    # Keras 2 would else turn what it raises into an error of TensorFlow's.
    @tf.autograph.experimental.do_not_convert
    def update_state(
        self,
        y_true: tf.Tensor,
        y_pred: tf.Tensor,
        sample_weight: None = None,
        annotated: tf.Tensor | None = None,
    ) -> None:
        """Adds a batch; shapes as in `losses`, predictions as logits or probabilities.

        Raises:
            InputError: `sample_weight` is given: a voxel counts, or is labelled 255; or the shapes
                belong neither together nor to `num_classes`.
        """
        if sample_weight is not None:
            raise InputError(
                f"{self.name}: expected no sample_weight, found one; "
                "unannotated voxels are those labelled 255"
            )
        y_true, y_pred = tf.convert_to_tensor(y_true), tf.convert_to_tensor(y_pred)
        y_true = without_channel(y_true, y_pred, self.name)
        if y_pred.shape[-1] not in (None, self.num_classes):
            raise InputError(
                f"{self.name}: expected num_classes={y_pred.shape[-1]} as the prediction has, "
                f"background included, found {self.num_classes}"
            )
        labels = tf.cast(y_true, tf.int32)
        predicted = tf.argmax(y_pred, -1, output_type=tf.int32)
        predicted = tf.where(labels == IGNORE, IGNORE, predicted)
        true, guess = (tf.one_hot(v, self.num_classes)[..., 1:] for v in (labels, predicted))
        weight = 1.0 if annotated is None else tf.cast(annotated[:, 1:], tf.float32)
        for variable, voxels in ((self._overlap, true * guess), (self._sizes, true + guess)):
            per_case = tf.reduce_sum(voxels, [1, 2, 3])
            variable.assign_add(tf.reduce_sum(per_case * weight, 0))

    def reset_state(self) -> None:
        """Forgets all batches."""
        for variable in self.variables:
            # Keras 2 would assign a scalar.
            variable.assign(tf.zeros(variable.shape))

    def per_structure(self) -> tf.Tensor:
        """Float32 [K]; NaN for a structure neither predicted nor annotated."""
        sizes = tf.convert_to_tensor(self._sizes)
        return 2 * tf.convert_to_tensor(self._overlap) / sizes

    def result(self) -> tf.Tensor:
        """The mean over the structures seen, or the Dice of one; 0 if there is none."""
        sizes = tf.convert_to_tensor(self._sizes)
        dice = tf.math.divide_no_nan(2 * tf.convert_to_tensor(self._overlap), sizes)
        if self.structure is not None:
            return dice[self.structure - 1]
        seen = tf.cast(sizes > 0, tf.float32)
        return tf.math.divide_no_nan(tf.reduce_sum(dice * seen), tf.reduce_sum(seen))

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        config = {"num_classes": self.num_classes, "structure": self.structure}
        return {**super().get_config(), **config}


class DiceSums:
    """Dice per structure over whole cases, in NumPy.

    Args:
        num_structures: K.
    """

    def __init__(self, num_structures: int) -> None:
        self._overlap = np.zeros(num_structures)
        self._sizes = np.zeros(num_structures)

    def add(self, labels: np.ndarray, predicted: np.ndarray, annotated: Sequence[int]) -> None:
        """Adds a case: uint8 [Z, Y, X] twice, and the structures (1..K) annotated in it."""
        classes = len(self._sizes) + 1
        pairs = np.zeros((classes, classes), np.int64)
        # Slice by slice, for bincount makes int64 of what it counts.
        for true, guess in zip(labels, predicted, strict=True):
            seen = true != IGNORE
            number = true[seen].astype(np.int64) * classes + guess[seen]
            pairs += np.bincount(number, minlength=classes**2).reshape(pairs.shape)
        known = np.asarray(annotated, np.int64)
        self._overlap[known - 1] += np.diag(pairs)[known]
        self._sizes[known - 1] += (pairs.sum(axis=0) + pairs.sum(axis=1))[known]

    def dice(self) -> list[float | None]:
        """One value a structure, None where it was neither predicted nor annotated."""
        return [
            float(2 * o / s) if s else None for o, s in zip(self._overlap, self._sizes, strict=True)
        ]
