"""Raw intensities to what the network sees, in TensorFlow ops, by one configuration."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import inf
from typing import Any

import numpy as np
import tensorflow as tf

from tl3d_keras.errors import InputError

MODES = ("window", "zscore")


@dataclass(frozen=True)
class Intensity:
    """How raw intensities are normalised.

    `window` clips each channel to [low, high] and maps that to [-1, 1], for modalities with units
    such as CT. `zscore` subtracts the mean of a volume's channel and divides by its standard
    deviation, for modalities without, such as MRI.

    Attributes:
        mode: "window" or "zscore".
        low: lower end of the window, one a channel, in raw units; empty for zscore.
        high: upper end.
    """

    mode: str
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise InputError(
                f"expected an intensity mode of {', '.join(MODES)}, found {self.mode!r}"
            )
        ordered = all(-inf < a < b < inf for a, b in zip(self.low, self.high, strict=False))
        if self.mode == "window" and not (self.low and len(self.low) == len(self.high) and ordered):
            raise InputError(
                f"expected a finite window low < high for each channel, found low {self.low} "
                f"and high {self.high}"
            )

    def normalise(self, image: tf.Tensor) -> tf.Tensor:
        """Normalises a volume [..., Z, Y, X, C] in raw units, of any numbers, to float32."""
        image = tf.cast(image, tf.float32)
        scale, shift = self.coefficients(image)
        return self.apply(image, scale, shift)

    def coefficients(self, image: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """`scale` and `shift` [..., 1, 1, 1, C] of a whole volume, for `apply` on its parts."""
        if self.mode == "window":
            low, high = tf.constant(self.low), tf.constant(self.high)
            return 2.0 / (high - low), -(high + low) / (high - low)
        mean, variance = tf.nn.moments(image, axes=[-4, -3, -2], keepdims=True)
        # A constant channel becomes 0, not NaN, nor the rounding of its mean over itself.
        varies = tf.reduce_max(image, [-4, -3, -2], True) > tf.reduce_min(image, [-4, -3, -2], True)
        varies &= variance > 0
        # TFLite cannot run divide_no_nan in five dimensions.
        deviation = tf.sqrt(tf.maximum(variance, np.finfo(np.float32).tiny))
        scale = tf.cast(varies, tf.float32) / deviation
        return scale, -mean * scale

    def coefficients_of(
        self, statistics: Sequence[Mapping[str, float]]
    ) -> tuple[np.ndarray, np.ndarray]:
        """`coefficients` [C] of a volume from its channels' mean, std, minimum and maximum."""
        if self.mode == "window":
            lower, upper = np.array(self.low, np.float32), np.array(self.high, np.float32)
            return 2 / (upper - lower), -(upper + lower) / (upper - lower)
        mean, std, low, high = (
            np.array([s[key] for s in statistics]) for key in ("mean", "std", "minimum", "maximum")
        )
        varies = (high > low) & (std > 0)
        scale = np.where(varies, 1 / np.where(varies, std, 1), 0)
        return scale.astype(np.float32), (-mean * scale).astype(np.float32)

    def apply(self, image: tf.Tensor, scale: tf.Tensor, shift: tf.Tensor) -> tf.Tensor:
        """Normalises a part of a volume with the coefficients of the whole."""
        if self.mode == "window":
            image = tf.clip_by_value(image, self.low, self.high)
        return image * scale + shift

    def to_json(self) -> dict[str, Any]:
        """The configuration as JSON values."""
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in asdict(self).items()
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Intensity":
        """The inverse of `to_json`."""
        return cls(content["mode"], tuple(content["low"]), tuple(content["high"]))
