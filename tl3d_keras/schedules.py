"""Learning rates over a training run: a linear warm-up, then a schedule of Keras's own."""

from typing import Any

import tensorflow as tf

SCHEDULES = ("cosine", "polynomial", "constant")

_COSINE_FLOOR = 0.01
# The power of nnU-Net (Isensee et al. 2021, doi:10.1038/s41592-020-01008-z).
_POWER = 0.9


@tf.keras.utils.register_keras_serializable("tl3d_keras")
class WarmUp(tf.keras.optimizers.schedules.LearningRateSchedule):
    """Rises in equal steps to the first rate of another schedule, which follows.

    Step s of the warm-up, counted from 0, has (s + 1) / (warmup_steps + 1) of that rate.

    Args:
        schedule: begins after the warm-up.
        warmup_steps: 0 or more.
    """

    def __init__(
        self, schedule: tf.keras.optimizers.schedules.LearningRateSchedule, warmup_steps: int
    ) -> None:
        super().__init__()
        self.schedule = schedule
        self.warmup_steps = warmup_steps

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        """The rate at a step, counted from 0."""
        step = tf.cast(step, tf.float32)
        share = tf.minimum((step + 1) / (self.warmup_steps + 1), 1.0)
        return share * self.schedule(tf.maximum(step - self.warmup_steps, 0.0))

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, serialised."""
        return {
            "schedule": tf.keras.optimizers.schedules.serialize(self.schedule),
            "warmup_steps": self.warmup_steps,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "WarmUp":
        """The schedule of `get_config`."""
        inner = tf.keras.optimizers.schedules.deserialize(config["schedule"])
        return cls(inner, config["warmup_steps"])


def make_schedule(kind: str, learning_rate: float, steps: int, warmup_steps: int = 0) -> WarmUp:
    """A schedule over `steps` steps.

    Args:
        kind: "cosine" falls to a hundredth, "polynomial" to 0 by (1 - progress)^0.9.
        learning_rate: the highest, reached after the warm-up.
        steps: in all, the warm-up included; more than `warmup_steps`.
        warmup_steps: of the linear rise.
    """
    schedules = tf.keras.optimizers.schedules
    left = steps - warmup_steps
    if kind == "cosine":
        rate = schedules.CosineDecay(learning_rate, left, alpha=_COSINE_FLOOR)
    else:
        # A constant is a polynomial that ends where it starts.
        end = learning_rate if kind == "constant" else 0.0
        rate = schedules.PolynomialDecay(learning_rate, left, end_learning_rate=end, power=_POWER)
    return WarmUp(rate, warmup_steps)
