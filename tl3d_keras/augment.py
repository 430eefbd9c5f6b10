"""Random changes of a patch, each a pure function of its seed, in TensorFlow ops."""

from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf


class Augmentation(NamedTuple):
    """What is drawn for every patch.

    Attributes:
        flip_axes: axes 0, 1, 2 (z, y, x) that may be flipped, each with probability 1/2.
        scaling: intensities are multiplied by a factor in [1 - scaling, 1 + scaling].
        shift: a constant in [-shift, shift] is added, in normalised units.
        noise: the standard deviation of added Gaussian noise is drawn from [0, noise].
    """

    flip_axes: tuple[int, ...] = ()
    scaling: float = 0.15
    shift: float = 0.15
    noise: float = 0.1


NONE = Augmentation((), 0.0, 0.0, 0.0)


def augment(
    image: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor, settings: Augmentation
) -> tuple[tf.Tensor, tf.Tensor]:
    """Applies all of `settings`.

    Args:
        image: float32 [Z, Y, X, C], normalised.
        labels: uint8 [z, y, x], concentric with the image.
        seed: int [2].
        settings: what to draw.
    """
    seeds = tf.random.experimental.stateless_split(seed, 4)
    image, labels = flip(image, labels, seeds[0], settings.flip_axes)
    image = scale(image, seeds[1], settings.scaling)
    image = shift(image, seeds[2], settings.shift)
    return noise(image, seeds[3], settings.noise), labels


def flip(
    image: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor, axes: Sequence[int]
) -> tuple[tf.Tensor, tf.Tensor]:
    """Flips image and labels together along each of `axes` with probability 1/2."""
    coins = tf.random.stateless_uniform([3], seed) < 0.5
    for axis in axes:
        image = tf.where(coins[axis], tf.reverse(image, [axis]), image)
        labels = tf.where(coins[axis], tf.reverse(labels, [axis]), labels)
    return image, labels


def scale(image: tf.Tensor, seed: tf.Tensor, amount: float) -> tf.Tensor:
    """Multiplies by one factor in [1 - amount, 1 + amount]."""
    return image * tf.random.stateless_uniform([], seed, 1 - amount, 1 + amount)


def shift(image: tf.Tensor, seed: tf.Tensor, amount: float) -> tf.Tensor:
    """Adds one constant in [-amount, amount]."""
    return image + tf.random.stateless_uniform([], seed, -amount, amount)


def noise(image: tf.Tensor, seed: tf.Tensor, amount: float) -> tf.Tensor:
    """Adds Gaussian noise whose standard deviation is drawn from [0, amount]."""
    if not amount:
        return image
    level_seed, noise_seed = tf.unstack(tf.random.experimental.stateless_split(seed, 2))
    level = tf.random.stateless_uniform([], level_seed, 0, amount)
    return image + level * tf.random.stateless_normal(tf.shape(image), noise_seed)
