"""Flips and changes of intensity of a patch, each a pure function of its seed, in TensorFlow ops.

Every change takes the patch, float32 [Z, Y, X, C] in normalised intensities, and an int [2] seed.
"""

import functools
import math
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from tl3d_keras.augmentation import Augmentation, Draw

# A window of the table of noise begins at one of so many places; windows that begin at multiples of
# 16 numbers are taken without being copied.
_PLACES, _STEP = 1 << 16, 16


def augment(
    patch: dict[str, tf.Tensor],
    seed: tf.Tensor,
    settings: Augmentation,
    spacing: Sequence[float],
    mirrored: Sequence[int],
) -> dict[str, tf.Tensor]:
    """Flips a patch and changes its intensities; `spatial` does the rest when it is cut out.

    Args:
        patch: "image" float32 [Z, Y, X, C], normalised; "labels" uint8 [z, y, x], concentric with
            the image; "annotated" uint8 [K + 1].
        seed: int [2].
        settings: what to draw.
        spacing: (z, y, x) in mm.
        mirrored: see `flip`.
    """
    seeds = tf.unstack(tf.random.experimental.stateless_split(seed, 8))
    patch = flip(patch, seeds[0], settings.flip_axes, mirrored)
    # In the order of a scan: what is scanned, the scanner's resolution, its noise.
    image = curve(patch["image"], seeds[7], settings.curve, settings.curve_knots)
    image = gamma(image, seeds[1], settings.gamma)
    image = contrast(image, seeds[2], settings.contrast)
    image = brightness(image, seeds[3], settings.brightness)
    image = low_resolution(image, seeds[4], settings.low_resolution, spacing)
    image = blur(image, seeds[5], settings.blur, spacing)
    return patch | {"image": noise(image, seeds[6], settings.noise)}


def flip(
    patch: dict[str, tf.Tensor], seed: tf.Tensor, axes: Sequence[int], mirrored: Sequence[int]
) -> dict[str, tf.Tensor]:
    """Flips image and labels together along each of `axes` with probability 1/2.

    Args:
        patch: as in `augment`.
        seed: int [2].
        axes: of 0, 1, 2 (z, y, x).
        mirrored: see `mirrors.mirrored_labels`; a flip along x exchanges labels by it.
    """
    if not axes:
        return patch
    coins = tf.gather(tf.random.stateless_uniform([3], seed) < 0.5, list(axes))
    turned = tf.boolean_mask(tf.constant(axes, tf.int32), coins)
    labels, annotated = tf.reverse(patch["labels"], turned), patch["annotated"]
    if 2 in axes and list(mirrored) != sorted(mirrored):
        other = np.arange(256, dtype=np.uint8)
        other[: len(mirrored)] = mirrored
        labels, annotated = tf.cond(
            tf.reduce_any(turned == 2),
            lambda: (
                tf.gather(tf.constant(other), tf.cast(labels, tf.int32)),
                tf.gather(annotated, list(mirrored)),
            ),
            lambda: (labels, annotated),
        )
    image = tf.reverse(patch["image"], turned)
    return patch | {"image": image, "labels": labels, "annotated": annotated}


def curve(image: tf.Tensor, seed: tf.Tensor, draw: Draw, knots: int) -> tf.Tensor:
    """Replaces intensities by those of a random curve, for each channel another.

    The curve connects `knots` points by straight lines: equally spaced between the patch's lowest
    and highest intensity, their values uniform between minus and plus the drawn amount.
    """

    def change(amount: tf.Tensor, knot_seed: tf.Tensor) -> tf.Tensor:
        channels = image.shape[-1]
        values = tf.random.stateless_uniform([channels, knots], knot_seed, -amount, amount)
        low = tf.reduce_min(image, [0, 1, 2])
        span = tf.reduce_max(image, [0, 1, 2]) - low
        place = tf.math.divide_no_nan(image - low, span) * (knots - 1)
        left = tf.minimum(tf.floor(place), knots - 2.0)
        first = tf.cast(left, tf.int32) + knots * tf.range(channels)
        values = tf.reshape(values, [-1])
        start, end = tf.gather(values, first), tf.gather(values, first + 1)
        return start + (place - left) * (end - start)

    return _maybe(image, seed, draw, change)


def gamma(image: tf.Tensor, seed: tf.Tensor, draw: Draw) -> tf.Tensor:
    """Raises intensities, scaled to [0, 1] between lowest and highest, to a drawn power."""

    def change(exponent: tf.Tensor, _: tf.Tensor) -> tf.Tensor:
        low = tf.reduce_min(image, [0, 1, 2])
        span = tf.reduce_max(image, [0, 1, 2]) - low
        return tf.pow(tf.math.divide_no_nan(image - low, span), exponent) * span + low

    return _maybe(image, seed, draw, change, draw.factor)


def contrast(image: tf.Tensor, seed: tf.Tensor, draw: Draw) -> tf.Tensor:
    """Multiplies by one factor."""
    return _maybe(image, seed, draw, lambda factor, _: image * factor)


def brightness(image: tf.Tensor, seed: tf.Tensor, draw: Draw) -> tf.Tensor:
    """Adds one constant."""
    return _maybe(image, seed, draw, lambda shift, _: image + shift)


def noise(image: tf.Tensor, seed: tf.Tensor, draw: Draw) -> tf.Tensor:
    """Adds Gaussian noise of a drawn standard deviation.

    Two drawn windows of a table of normal numbers, weighted by the sine and cosine of a drawn
    angle, sum to normal numbers again. To generate as many anew takes ten times as long, more than
    all else that makes a patch.
    """

    def change(level: tf.Tensor, noise_seed: tf.Tensor) -> tf.Tensor:
        count = image.shape.num_elements()
        # Each window has a half of the table, so that no number meets itself elsewhere in a patch.
        half = -(-count // _STEP) * _STEP + _PLACES * _STEP
        table = _normal_numbers(2 * half)
        *places, turn = tf.unstack(tf.random.stateless_uniform([3], noise_seed))
        angle = 2 * math.pi * turn
        changed = image
        for place, begin, weight in zip(
            places, (0, half), (tf.cos(angle), tf.sin(angle)), strict=True
        ):
            first = begin + _STEP * tf.cast(place * _PLACES, tf.int32)
            window = tf.reshape(tf.slice(table, [first], [count]), image.shape)
            changed += level * weight * window
        return changed

    return _maybe(image, seed, draw, change)


@functools.cache
def _normal_numbers(count: int) -> tf.Tensor:
    with tf.init_scope(), tf.device("CPU:0"):
        return tf.random.stateless_normal([count], (0, 0))


def blur(image: tf.Tensor, seed: tf.Tensor, draw: Draw, spacing: Sequence[float]) -> tf.Tensor:
    """Blurs by a Gaussian of a drawn standard deviation in mm.

    At the border the weights of the voxels that there are sum to 1.
    """

    def weights(size: int, sigma: tf.Tensor, step: float) -> tf.Tensor:
        distance = tf.range(size, dtype=tf.float32) * step
        far = (distance[:, tf.newaxis] - distance) / tf.maximum(sigma, 1e-3 * step)
        return tf.nn.softmax(-0.5 * far**2)

    return _maybe(image, seed, draw, lambda sigma, _: _along_axes(image, weights, sigma, spacing))


def low_resolution(
    image: tf.Tensor, seed: tf.Tensor, draw: Draw, spacing: Sequence[float]
) -> tf.Tensor:
    """Averages over voxels of a drawn edge in mm and interpolates back, linearly.

    Axes whose voxels are larger than that stay as they are.
    """

    def weights(size: int, edge: tf.Tensor, step: float) -> tf.Tensor:
        ratio = tf.maximum(edge / step, 1.0)
        voxels = tf.range(size, dtype=tf.float32)
        centres = ((voxels + 0.5) * ratio - 0.5)[:, tf.newaxis]
        overlap = tf.minimum(centres + ratio / 2, voxels + 0.5) - tf.maximum(
            centres - ratio / 2, voxels - 0.5
        )
        average = tf.maximum(overlap, 0.0)
        covered = tf.reduce_sum(average, 1, keepdims=True)
        average = tf.math.divide_no_nan(average, covered)
        # Large voxels that lie beyond the patch take no part.
        linear = tf.maximum(1 - tf.abs(voxels - centres) / ratio, 0.0) * tf.sign(covered)
        # The outermost voxels lie beyond the last centre.
        linear = linear / tf.reduce_sum(linear, 0)
        return tf.matmul(linear, average, transpose_a=True)

    return _maybe(image, seed, draw, lambda edge, _: _along_axes(image, weights, edge, spacing))


def _along_axes(
    image: tf.Tensor,
    weights: Callable[[int, tf.Tensor, float], tf.Tensor],
    amount: tf.Tensor,
    spacing: Sequence[float],
) -> tf.Tensor:
    """Multiplies each axis by its matrix `weights(size, amount, step)`, [out, in].

    A product of 132 x 132 is faster on a processor than a convolution of one channel.
    """
    image = tf.transpose(image, [3, 0, 1, 2])
    shape = tf.shape(image)
    for axis in range(2):
        matrix = weights(shape[axis + 1], amount, spacing[axis])
        flat = tf.reshape(image, [-1, shape[axis + 1], tf.reduce_prod(shape[axis + 2 :])])
        image = tf.reshape(tf.matmul(matrix, flat), shape)
    matrix = weights(shape[3], amount, spacing[2])
    image = tf.reshape(
        tf.matmul(tf.reshape(image, [-1, shape[3]]), matrix, transpose_b=True), shape
    )
    return tf.transpose(image, [1, 2, 3, 0])


def _maybe(
    image: tf.Tensor,
    seed: tf.Tensor,
    draw: Draw,
    change: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
    amount_of: Callable[[tf.Tensor], tf.Tensor] | None = None,
) -> tf.Tensor:
    """`change(amount, seed)` with the draw's probability, else the image."""
    if not draw.probability:
        return image
    coin_seed, amount_seed, change_seed = tf.unstack(
        tf.random.experimental.stateless_split(seed, 3)
    )
    amount = (amount_of or draw.amount)(amount_seed)
    if draw.probability == 1:
        changed = change(amount, change_seed)
    else:
        changed = tf.cond(
            draw.happens(coin_seed), lambda: change(amount, change_seed), lambda: image
        )
    return tf.ensure_shape(changed, image.shape)
