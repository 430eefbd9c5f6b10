"""Settings that follow from a data set: spacing, window and patch size, each with its reason."""

from collections.abc import Mapping, Sequence

import numpy as np

from data_tools.plan import Header
from data_tools.prepare import CT_AIR, is_ct
from tl3d_keras.distribution import KNOTS, Distribution, pool
from tl3d_keras.manifest import CaseEntry, Proposal

# One axis this much coarser than the others takes a low percentile of its spacings instead of the
# median, as nnU-Net does (Isensee et al. 2021), lest fine cases lose their detail.
_ANISOTROPY, _FINE_PERCENTILE = 3.0, 10
# On either side of the structures' own values, for what surrounds them.
_WINDOW_MARGIN, _MAX_WINDOW_MARGIN = 0.25, 100.0
# Beyond so many interquartile ranges a value is an outlier (Tukey 1977): gas, fat at a border.
_FENCE = 1.5
_PATCH_STRIDE, _MAX_PATCH_SIDE = 8, 64


def propose_spacing(headers: Sequence[Header]) -> tuple[tuple[float, float, float], str]:
    """The spacing (z, y, x) of the records in mm, and why."""
    found = np.array([header.spacing for header in headers])
    spacing = np.median(found, axis=0)
    reason = f"the median of {len(found)} cases"
    coarse = int(np.argmax(spacing))
    if spacing[coarse] > _ANISOTROPY * np.delete(spacing, coarse).max():
        spacing[coarse] = np.percentile(found[:, coarse], _FINE_PERCENTILE)
        reason += (
            f"; along {'zyx'[coarse]}, over {_ANISOTROPY:g} times coarser than the others, "
            f"the {_FINE_PERCENTILE}th percentile"
        )
    z, y, x = (round(float(s), 4) for s in spacing)
    return (z, y, x), reason


def propose(
    spacing: Sequence[float],
    spacing_reason: str,
    channels: Sequence[str],
    structures: Sequence[str],
    cases: Sequence[CaseEntry],
) -> Proposal:
    """All proposals, from what was measured in the cases."""
    window, window_reason = _window(channels, structures, cases)
    patch_size, patch_reason = _patch_size(np.array([case.shape[:3] for case in cases]))
    return Proposal(
        tuple(spacing),
        window,
        patch_size,
        [
            f"spacing {', '.join(f'{s:g}' for s in spacing)} mm (z, y, x): {spacing_reason}",
            window_reason,
            patch_reason,
        ],
    )


def pooled(cases: Sequence[CaseEntry], structure: str) -> list[Distribution]:
    """The intensities of a structure over all cases, one entry a channel, or none at all."""
    found = [case.structures[structure].intensity for case in cases if structure in case.structures]
    return [pool(channel) for channel in zip(*found, strict=True)]


def _window(
    channels: Sequence[str], structures: Sequence[str], cases: Sequence[CaseEntry]
) -> tuple[list[tuple[float, float]] | None, str]:
    if not is_ct(channels):
        others = ", ".join(name for name in channels if not is_ct([name]))
        return None, f"z-scores: no unit that holds across scanners is known for {others}"
    by_name = {name: pooled(cases, name) for name in structures}
    by_name = {name: found for name, found in by_name.items() if found}
    if not by_name:
        return None, "z-scores: nothing is annotated that a window could be made for"
    windows, airy = [], []
    for channel in range(len(channels)):
        chosen, left_out = _without_air({n: f[channel] for n, f in by_name.items()})
        windows.append(_widened(chosen))
        airy += left_out
    text = "; ".join(f"{low:g} to {high:g}" for low, high in windows)
    reason = (
        f"window {text} HU: from the lowest value of any structure that is no outlier such as gas "
        f"to percentile 99.5 of all, and a quarter of their distance, at most "
        f"{_MAX_WINDOW_MARGIN:g} HU, on either side"
    )
    if airy:
        reason += (
            f"; {', '.join(dict.fromkeys(airy))} left out, whose air is black in any such window "
            "and would take the contrast of all others"
        )
    return windows, reason


def _without_air(
    found: Mapping[str, Distribution],
) -> tuple[list[Distribution], list[str]]:
    """The distributions that set the window, and the names of those of air."""
    airy = [name for name, part in found.items() if part.percentile(50) < CT_AIR]
    if len(airy) == len(found):
        airy = []
    return [part for name, part in found.items() if name not in airy], airy


def _widened(parts: Sequence[Distribution]) -> tuple[float, float]:
    low, high = min(_lowest(part) for part in parts), pool(parts).percentile(99.5)
    # A structure of one value has no distance.
    margin = min(max(1.0, _WINDOW_MARGIN * (high - low)), _MAX_WINDOW_MARGIN)
    return float(round(low - margin)), float(round(high + margin))


def _lowest(part: Distribution) -> float:
    """The lowest value of a structure that is no outlier, whatever other structures weigh."""
    # Gas in the bowel is no more to be told apart than that in the lungs.
    gas = np.interp(CT_AIR, part.percentiles, KNOTS) if part.percentile(50) > CT_AIR else 0.0
    lowest, first, third = (part.percentile(gas + (100 - gas) * p) for p in (0.005, 0.25, 0.75))
    return max(lowest, first - _FENCE * (third - first))


def _patch_size(shapes: np.ndarray) -> tuple[tuple[int, int, int], str]:
    median, most = np.median(shapes, axis=0), _MAX_PATCH_SIDE**3
    size = np.ceil(median / _PATCH_STRIDE).astype(int) * _PATCH_STRIDE
    whole = bool(size.prod() <= most)
    while size.prod() > most:
        size[np.argmax(size)] -= _PATCH_STRIDE
    z, y, x = (int(n) for n in size)
    what = (
        "the median case whole"
        if whole
        else f"as much of the median case as {_MAX_PATCH_SIDE}^3 voxels hold"
    )
    shape = " x ".join(f"{n:g}" for n in median)
    return (z, y, x), (
        f"patch {z} x {y} x {x} (same padding): {what}, {shape}, in steps of {_PATCH_STRIDE}"
    )
