"""What must be known of a whole image before its first tile."""

from typing import NamedTuple

import numpy as np

from tl3d_keras.intensity import Intensity
from tl3d_keras.lazy_image import LazyImage, slabs


class Survey(NamedTuple):
    """Of one image.

    Attributes:
        floor: [C], what lies beyond the image, in raw units.
        scale: [C], see `Intensity.coefficients`.
        shift: [C].
    """

    floor: np.ndarray
    scale: np.ndarray
    shift: np.ndarray


def survey(image: LazyImage, intensity: Intensity) -> Survey:
    """Reads as much of an image as it takes.

    For a window the lowest value counts only down to the window's lower end, so that the first
    slices suffice for most scans.
    """
    known = image.statistics() if intensity.mode == "zscore" else None
    if known:
        floor = np.array([channel["minimum"] for channel in known], np.float32)
        return Survey(floor, *intensity.coefficients_of(known))
    count = 0
    sums = np.zeros((2, image.channels))
    low = np.full(image.channels, np.inf)
    high = np.full(image.channels, -np.inf)
    for _, slab in slabs(image):
        low = np.minimum(low, slab.min(axis=(0, 1, 2)))
        if intensity.mode == "window":
            if (low <= intensity.low).all():
                break
            continue
        high = np.maximum(high, slab.max(axis=(0, 1, 2)))
        flat = slab.reshape(-1, image.channels)
        # One channel at a time, in float64: a mean of 10^9 voxels needs its digits.
        part = [flat[:, c].astype(np.float64) for c in range(image.channels)]
        count += len(flat)
        sums += [[p.sum() for p in part], [np.square(p).sum() for p in part]]
    statistics: list[dict[str, float]] = []
    if intensity.mode == "zscore":
        mean = sums[0] / count
        std = np.sqrt(np.maximum(sums[1] / count - mean**2, 0))
        statistics = [
            {"mean": m, "std": s, "minimum": a, "maximum": b}
            for m, s, a, b in zip(mean, std, low, high, strict=True)
        ]
    scale, shift = intensity.coefficients_of(statistics)
    return Survey(low.astype(np.float32), scale, shift)
