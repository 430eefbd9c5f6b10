"""Whether a scan can be what a model was made for: its channels, its spacing, its modality."""

import os
from collections.abc import Sequence

import numpy as np

from tl3d_keras.artifact import ModelInfo
from tl3d_keras.errors import InputError
from tl3d_keras.manifest import CaseEntry
from tl3d_keras.volumes import MAX_SPACING, MIN_SPACING, Volume

# Fat lies at -120 to -90 HU, lung and air below it; muscle, blood and organs above.
_FAT, _DARKEST, _SOFT = -50.0, -1100.0, 200.0
# In the CT scans that this was tried on, at least 47 % of the voxels lie below _FAT, and none below
# _DARKEST but for one padding value; in 264 MRI scans none lies below _FAT, and where a cropped
# brain was scaled to mean 0, 11 % and more lie below _DARKEST.
_LEAST_BELOW_FAT, _MOST_TOO_DARK = 0.001, 0.05
# The noise alone spans more; a scan that was scaled to -1 .. 1 or by its deviation does not.
_LEAST_SPAN = 20.0
# Where all is soft tissue, a crop this thin can be of CT: a liver has no fat in it.
_CROP_MM, _LEAST_SOFT = 40.0, 0.8

LOWEST_KEY = "lowest_intensities"
# Hounsfield units tell themselves by air and water: in the CT scans at least 6 % and 31 % of the
# voxels lie in these ranges, in the MRI scans at most 0.9 % in the first.
_AIR, _WATER, _LEAST_OF_EACH = (-1100.0, -850.0), (-150.0, 150.0), 0.05
_MOST_BELOW_AIR = 0.001
# A model whose training scans went lower may know them.
_NEVER_BELOW = -200.0
# Scores in thousandths may lie where air does, but their mean is 0, in standard deviations.
_MEAN_OF_SCORES = 0.1


def check(
    volume: Volume, info: ModelInfo, path: str | os.PathLike, any_modality: bool = False
) -> list[str]:
    """Checks a scan before it is segmented.

    Args:
        volume: the scan in its own units.
        info: of the model.
        path: of the scan, for the lines.
        any_modality: only doubt what cannot be of the model's modality.

    Returns:
        Doubts, a line each.

    Raises:
        InputError: another number of channels, a spacing outside `MIN_SPACING` to `MAX_SPACING` mm,
            values that cannot be Hounsfield units where the model's channel is CT, or values that
            are where it is another and was trained on scans without any below -200.
    """
    found, expected = volume.array.shape[-1], len(info.channels)
    if found != expected:
        raise InputError(
            f"{path}: expected {expected} channel{'s' * (expected > 1)} "
            f"({', '.join(info.channels)}), found {found}"
        )
    if not all(MIN_SPACING <= s <= MAX_SPACING for s in volume.spacing):
        raise InputError(
            f"{path}: expected a spacing of {MIN_SPACING:g} to {MAX_SPACING:g} mm, found "
            f"{', '.join(f'{s:g}' for s in volume.spacing)} (z, y, x)"
        )
    doubts = []
    if min(volume.shape) == 1:
        doubts.append(f"{path}: expected a volume, found a single slice: {volume.shape} (z, y, x)")
    extent = min(np.multiply(volume.shape, volume.spacing))
    lowest = _lowest(info)
    for index, name in enumerate(info.channels):
        channel = volume.array[..., index]
        if channel.min() == channel.max():
            doubts.append(f"{path}: expected a scan, found {channel.min():g} everywhere in {name}")
            continue
        if name.upper() == "CT":
            low = info.intensity.low[index] if info.intensity.low else -np.inf
            wanted = "CT in Hounsfield units"
            problem, certain = _not_hounsfield(channel, extent, low)
        else:
            wanted = name
            problem, certain = _hounsfield(channel, lowest[index])
        if problem and certain and not any_modality:
            raise InputError(
                f"{path}: expected {wanted}, found {problem}; --any_modality segments it all the "
                "same"
            )
        if problem:
            doubts.append(f"{path}: expected {wanted}, found {problem}")
    return doubts


def lowest_intensities(cases: Sequence[CaseEntry]) -> list[float]:
    """The lowest value of each channel over a training set, for a model's provenance."""
    channels = zip(*(case.intensity for case in cases), strict=True)
    return [min(c["minimum"] for c in channel) for channel in channels]


def _lowest(info: ModelInfo) -> list[float | None]:
    """`lowest_intensities` of a model's training; None where it does not say."""
    known = info.provenance.get(LOWEST_KEY)
    if isinstance(known, list) and len(known) == len(info.channels):
        return [v if isinstance(v, int | float) else None for v in known]
    return [None] * len(info.channels)


def _not_hounsfield(channel: np.ndarray, extent: float, low: float) -> tuple[str, bool]:
    """What speaks against Hounsfield units, or nothing, and whether there is no doubt left.

    Args:
        channel: [Z, Y, X].
        extent: the shortest side in mm.
        low: the lower end of the model's window; -inf without one.
    """
    least, most = float(channel.min()), float(channel.max())
    span = f"values of {least:g} to {most:g}"
    if most - least < _LEAST_SPAN:
        return f"{span}, which is too narrow for CT", True
    if _share(channel < _FAT) < _LEAST_BELOW_FAT:
        soft = _share(channel <= _SOFT) >= _LEAST_SOFT
        # A model whose window starts above fat may be made for scans without any.
        certain = low < _FAT and not (soft and extent <= _CROP_MM)
        return f"{span}, with neither air nor fat (below {_FAT:g})", certain
    # The lowest value may be a padding that stands for nothing.
    seen = channel != least
    dark = _share((channel < _DARKEST) & seen) / max(_share(seen), 1e-9)
    if dark > _MOST_TOO_DARK:
        return f"{span}, {dark:.0%} of them darker than air ({_DARKEST:g})", True
    return "", False


def _hounsfield(channel: np.ndarray, lowest: float | None) -> tuple[str, bool]:
    """As `_not_hounsfield`, of what speaks for Hounsfield units where none are expected.

    Args:
        channel: [Z, Y, X].
        lowest: of the training scans.
    """
    if lowest is not None and lowest < _NEVER_BELOW:
        return "", False
    air, water = (_share((channel >= a) & (channel <= b)) for a, b in (_AIR, _WATER))
    below = _share((channel < _AIR[0]) & (channel != channel.min()))
    if min(air, water) < _LEAST_OF_EACH or below > _MOST_BELOW_AIR:
        return "", False
    scores = abs(channel.mean(dtype=np.float64)) <= _MEAN_OF_SCORES * channel.std(dtype=np.float64)
    found = f"what looks like CT in Hounsfield units, {air:.0%} of it air"
    if lowest is None:
        return found, False
    return f"{found}, where no training scan goes below {lowest:g}", not scores


def _share(mask: np.ndarray) -> float:
    return np.count_nonzero(mask) / mask.size
