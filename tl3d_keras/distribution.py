"""Intensities summed up so that cases can be pooled without their voxels, in NumPy."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Percentiles that a distribution keeps; closer where windows are cut.
KNOTS = (0, 0.5, 1, 2, 5, *range(10, 100, 10), 95, 98, 99, 99.5, 100)
_SAMPLES = 1_000_000


@dataclass(frozen=True)
class Distribution:
    """A set of intensities.

    Attributes:
        voxels: how many there are.
        mean: their mean.
        std: their standard deviation.
        percentiles: at `KNOTS`.
    """

    voxels: int
    mean: float
    std: float
    percentiles: tuple[float, ...]

    def percentile(self, percent: float) -> float:
        """The percentile (0 to 100), linear between the knots."""
        return float(np.interp(percent, KNOTS, self.percentiles))


def summaries(image: np.ndarray) -> list[dict[str, float]]:
    """Mean, std, minimum and maximum of each channel of an image [Z, Y, X, C]."""
    return [_summary(image[..., c]) for c in range(image.shape[-1])]


def _summary(channel: np.ndarray) -> dict[str, float]:
    mean = float(channel.mean(dtype=np.float64))
    # Slice by slice, for the differences of a whole scan would take four times its memory.
    squares = sum(float(np.square(plane.astype(np.float64) - mean).sum()) for plane in channel)
    return {
        "mean": mean,
        "std": (squares / channel.size) ** 0.5,
        "minimum": float(channel.min()),
        "maximum": float(channel.max()),
    }


def describe(values: np.ndarray) -> Distribution:
    """The distribution of an array that is not empty, from a million of its values at most."""
    sample = values.ravel()[:: -(-values.size // _SAMPLES)].astype(np.float64)
    return Distribution(
        int(values.size),
        float(sample.mean()),
        float(sample.std()),
        tuple(float(p) for p in np.percentile(sample, KNOTS)),
    )


def pool(parts: Sequence[Distribution]) -> Distribution:
    """The distribution of the voxels of one part or more together.

    Mean and standard deviation are exact; percentiles are those of the mixture of the parts'
    cumulative distributions, each linear between its knots.
    """
    if len(parts) == 1:
        return parts[0]
    weight = np.array([part.voxels for part in parts], np.float64)
    total = weight.sum()
    weight /= total
    mean = float(weight @ [part.mean for part in parts])
    square = float(weight @ [part.std**2 + part.mean**2 for part in parts])
    values = np.unique(np.concatenate([part.percentiles for part in parts]))
    # Many voxels of one value make a step, whose lower and upper end both count.
    below = sum(w * _cumulative(part, values) for w, part in zip(weight, parts, strict=True))
    return Distribution(
        int(total),
        mean,
        max(0.0, square - mean**2) ** 0.5,
        tuple(float(v) for v in np.interp(np.array(KNOTS) / 100, below.ravel(), values.repeat(2))),
    )


def _cumulative(part: Distribution, values: np.ndarray) -> np.ndarray:
    """The shares of voxels below, and at or below, each of `values`: [N, 2]."""
    percentiles, shares = np.array(part.percentiles), np.array(KNOTS) / 100
    differs = np.diff(percentiles) > 0
    first, last = np.append(True, differs), np.append(differs, True)
    return np.stack(
        [
            np.interp(values, percentiles[first], shares[first], right=1.0),
            np.interp(values, percentiles[last], shares[last], left=0.0),
        ],
        axis=1,
    )
