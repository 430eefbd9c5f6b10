"""Intensities summed up so that cases can be pooled without their voxels, in NumPy."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Percentiles that a distribution keeps; closer where windows are cut.
KNOTS = (0, 0.5, 1, 2, 5, *range(10, 100, 10), 95, 98, 99, 99.5, 100)


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


def describe(values: np.ndarray) -> Distribution:
    """The distribution of an array that is not empty."""
    return Distribution(
        int(values.size),
        float(values.mean(dtype=np.float64)),
        float(values.std(dtype=np.float64)),
        tuple(float(p) for p in np.percentile(values, KNOTS)),
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
    below = sum(w * _cumulative(part, values) for w, part in zip(weight, parts, strict=True))
    return Distribution(
        int(total),
        mean,
        max(0.0, square - mean**2) ** 0.5,
        tuple(float(v) for v in np.interp(np.array(KNOTS) / 100, below, values)),
    )


def _cumulative(part: Distribution, values: np.ndarray) -> np.ndarray:
    """The share of voxels at or below each of `values`."""
    # Of equal percentiles the last counts: all voxels of that value lie at or below it.
    last = np.append(np.diff(part.percentiles) > 0, True)
    knots = np.array(KNOTS)[last] / 100
    return np.interp(values, np.array(part.percentiles)[last], knots, left=0.0)
