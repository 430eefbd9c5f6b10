"""Labels beside predictions, as losses and metrics get them from any Keras user."""

import tensorflow as tf

from tl3d_keras.annotation import IGNORE
from tl3d_keras.errors import InputError


def check_classes(number: int, name: str) -> None:
    """Raises an `InputError` for so many classes that one has the label of unannotated voxels.

    Args:
        number: K + 1.
        name: of the loss or metric, for the message.
    """
    if number > IGNORE:
        raise InputError(
            f"{name}: expected at most {IGNORE} classes, for the label {IGNORE} means "
            f"unannotated, found {number}"
        )


def without_channel(labels: tf.Tensor, prediction: tf.Tensor, name: str) -> tf.Tensor:
    """Labels [B, z, y, x] of labels [B, z, y, x] or [B, z, y, x, 1].

    Args:
        labels: 0..K or IGNORE.
        prediction: [B, z, y, x, K + 1].
        name: of the loss or metric, for the message.

    Raises:
        InputError: the shapes, as far as they are known, do not belong together.
    """
    shape = labels.shape
    if shape.rank == prediction.shape.rank and shape[-1:].is_compatible_with([1]):
        labels = tf.squeeze(labels, -1)
    if not labels.shape.is_compatible_with(prediction.shape[:-1]):
        one_hot = shape.is_compatible_with(prediction.shape)
        raise InputError(
            f"{name}: expected labels {prediction.shape[:-1].as_list()} for the prediction "
            f"{prediction.shape.as_list()}, found {shape.as_list()}; "
            + (
                "tf.argmax(labels, -1) makes them of one-hot ones"
                if one_hot
                else "with valid padding they are those of the middle of the image"
            )
        )
    return labels
