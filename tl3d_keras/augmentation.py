"""What augmentation draws: settings in mm, degrees and normalised intensities."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import tensorflow as tf

from tl3d_keras.errors import InputError

PRESETS = ("none", "light", "full", "any_contrast")

# Cubic B-splines with displacements below this share of the control points' distance do not fold:
# Choi and Lee, Injectivity conditions of 2D and 3D uniform cubic B-spline functions, 2000.
_FOLDING_SHARE = 0.4


class Draw(NamedTuple):
    """An amount drawn from [low, high], with this probability; otherwise nothing changes."""

    low: float
    high: float
    probability: float = 1.0

    def happens(self, seed: tf.Tensor) -> tf.Tensor:
        """Whether it does, a boolean scalar."""
        return tf.random.stateless_uniform([], seed) < self.probability

    def amount(self, seed: tf.Tensor, shape: Sequence[int] = ()) -> tf.Tensor:
        """Uniform amounts, float32 of `shape`."""
        return tf.random.stateless_uniform(shape, seed, self.low, self.high)

    def factor(self, seed: tf.Tensor) -> tf.Tensor:
        """An amount whose logarithm is uniform, so that twice is as likely as half."""
        low, high = math.log(self.low), math.log(self.high)
        return tf.exp(tf.random.stateless_uniform([], seed, low, high))


OFF = Draw(0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Augmentation:
    """What is drawn for every patch.

    Attributes:
        flip_axes: axes 0, 1, 2 (z, y, x) that are flipped, each with probability 1/2.
        rotation: degrees about each of `rotation_axes`, drawn for each of them; about z a positive
            angle turns y towards x, about y x towards z, about x z towards y.
        rotation_axes: axes 0, 1, 2 (z, y, x).
        scaling: factor of sizes, larger above 1; its logarithm is uniform.
        elastic: mm, the largest displacement of a control point along an axis.
        elastic_grid: mm between the control points of the cubic B-spline.
        curve: how far from 0 the values of a random curve go that replaces the intensities, which
            makes a patch of another contrast, as another modality would see it.
        curve_knots: points between the patch's lowest and highest intensity that the curve
            connects by straight lines.
        gamma: exponent of the intensities between the patch's lowest and highest; its logarithm is
            uniform.
        contrast: factor of normalised intensities, which are 0 at a volume's mean or in the middle
            of a window.
        brightness: added to normalised intensities.
        low_resolution: mm, edge of the voxels that the patch is averaged to; axes with larger
            voxels stay.
        blur: mm, standard deviation of a Gaussian.
        noise: standard deviation of Gaussian noise, in normalised intensities.
    """

    flip_axes: tuple[int, ...] = ()
    rotation: Draw = OFF
    rotation_axes: tuple[int, ...] = (0, 1, 2)
    scaling: Draw = OFF
    elastic: Draw = OFF
    elastic_grid: float = 32.0
    curve: Draw = OFF
    curve_knots: int = 12
    gamma: Draw = OFF
    contrast: Draw = OFF
    brightness: Draw = OFF
    low_resolution: Draw = OFF
    blur: Draw = OFF
    noise: Draw = OFF

    def __post_init__(self) -> None:
        for field in fields(self):
            draw = getattr(self, field.name)
            if isinstance(draw, Draw) and not (
                draw.low <= draw.high and 0 <= draw.probability <= 1
            ):
                raise InputError(
                    f"{field.name}: expected low <= high, a probability from 0 to 1, found {draw}"
                )
        for name in ("scaling", "gamma", "low_resolution"):
            draw = getattr(self, name)
            if draw.probability and draw.low <= 0:
                raise InputError(f"{name}: expected positive amounts, found {draw}")
        for name in ("elastic", "curve", "blur", "noise"):
            if getattr(self, name).low < 0:
                raise InputError(f"{name}: expected amounts from 0 on, found {getattr(self, name)}")
        if self.elastic.probability and self.elastic.high > _FOLDING_SHARE * self.elastic_grid:
            raise InputError(
                f"elastic: expected at most {_FOLDING_SHARE} of the control points' distance of "
                f"{self.elastic_grid} mm, beyond which space may fold, found {self.elastic.high} mm"
            )

    @property
    def is_spatial(self) -> bool:
        """Whether patches may be rotated, scaled or deformed."""
        return any(draw.probability for draw in (self.rotation, self.scaling, self.elastic))


NONE = Augmentation()


def preset(name: str, spacing: Sequence[float], flip_axes: Sequence[int] = ()) -> Augmentation:
    """The augmentation of a name, for volumes of one spacing.

    "light" changes intensities alone, in every patch. "full" has nnU-Net 2.8's amounts and
    probabilities, its voxels taken as mm along the finest axis, and TorchIO 0.20's 7.5 mm of
    elastic deformation, which nnU-Net leaves off. "any_contrast" replaces most patches' contrast
    by a random one and scales more: for bases whose weights are to serve other modalities.

    Args:
        name: one of `PRESETS`; "none" still flips.
        spacing: (z, y, x) in mm.
        flip_axes: axes 0, 1, 2 (z, y, x).

    Raises:
        InputError: an unknown name.
    """
    flips, finest = tuple(flip_axes), float(min(spacing))
    if name == "none":
        return Augmentation(flips)
    if name == "light":
        return Augmentation(
            flips,
            contrast=Draw(0.85, 1.15),
            brightness=Draw(-0.15, 0.15),
            noise=Draw(0.0, 0.1),
        )
    if name == "full":
        return Augmentation(
            flips,
            rotation=Draw(-30.0, 30.0, 0.2),
            scaling=Draw(0.7, 1.4, 0.2),
            elastic=Draw(0.0, 7.5, 0.1),
            gamma=Draw(0.7, 1.5, 0.3),
            contrast=Draw(0.75, 1.25, 0.15),
            brightness=Draw(-0.25, 0.25, 0.15),
            low_resolution=Draw(finest, 2 * finest, 0.25),
            blur=Draw(0.5 * finest, finest, 0.2),
            noise=Draw(0.0, 0.3, 0.1),
        )
    if name == "any_contrast":
        return replace(
            preset("full", spacing, flips),
            rotation=Draw(-30.0, 30.0, 0.3),
            scaling=Draw(0.6, 1.6, 0.5),
            curve=Draw(0.5, 2.0, 0.8),
        )
    raise InputError(f"expected an augmentation of {', '.join(PRESETS)}, found {name!r}")
