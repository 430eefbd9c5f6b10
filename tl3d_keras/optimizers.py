"""Optimizers by name, with their learning rates."""

from typing import Any

import tensorflow as tf

from tl3d_keras.errors import InputError

LEARNING_RATE_FLOOR = 0.01


def make_optimizer(name: str, learning_rate: float, steps: int, precision: str) -> Any:
    """An optimizer whose learning rate falls along a cosine to a hundredth over `steps`.

    Args:
        name: any name registered with Keras.
        learning_rate: at the first step.
        steps: until the end.
        precision: a Keras policy; float16 gets loss scaling.

    Raises:
        InputError: Keras knows no such optimizer.
    """
    rate = tf.keras.optimizers.schedules.CosineDecay(
        learning_rate, steps, alpha=LEARNING_RATE_FLOOR
    )
    try:
        default = tf.keras.optimizers.get(name)
    except (ValueError, TypeError) as error:
        raise InputError(
            f"expected an optimizer that Keras knows, such as adam, found {name!r}"
        ) from error
    rule = type(default).from_config({**default.get_config(), "learning_rate": rate})
    if precision == "mixed_float16":
        rule = tf.keras.mixed_precision.LossScaleOptimizer(rule)
    return rule
