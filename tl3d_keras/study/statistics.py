"""Intervals and tests over cases that were scored twice."""

from collections.abc import Sequence

import numpy as np
from scipy import stats

RESAMPLES = 10_000
_LEVEL = 95.0


def mean_interval(values: Sequence[float], seed: int = 0) -> tuple[float, float] | None:
    """The 95 % percentile bootstrap interval of the mean (Efron 1979), over cases.

    Args:
        values: one a case.
        seed: of the resampling.

    Returns:
        Its ends, or None for fewer than two cases.
    """
    if len(values) < 2:
        return None
    drawn = np.random.default_rng(seed).integers(len(values), size=(RESAMPLES, len(values)))
    means = np.asarray(values, float)[drawn].mean(axis=1)
    low, high = np.percentile(means, [(100 - _LEVEL) / 2, (100 + _LEVEL) / 2])
    return float(low), float(high)


def paired_p(differences: Sequence[float]) -> float | None:
    """The two-sided p of Wilcoxon's signed-rank test that the differences are around 0.

    Args:
        differences: one a case; cases without any are left out, as Wilcoxon (1945) does.

    Returns:
        None without cases; 1 where none differs.
    """
    if not len(differences):
        return None
    differing = np.asarray(differences, float)
    differing = differing[differing != 0]
    return float(stats.wilcoxon(differing).pvalue) if len(differing) else 1.0


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down correction (Holm 1979) for all tests together; None stays and counts not."""
    known = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for rank, (p, index) in enumerate(known):
        highest = max(highest, min(1.0, (len(known) - rank) * p))
        corrected[index] = highest
    return corrected
