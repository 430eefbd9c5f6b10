"""The volumes that structures had in training, against which those of a new scan stand out."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tl3d_keras.errors import InputError
from tl3d_keras.manifest import CaseEntry

PROVENANCE_KEY = "structure_volumes_ml"

# Of fewer cases, the next one too is outside more often than in two of six.
_LEAST_CASES = 5
_PERCENTILES = (1, 99)


@dataclass(frozen=True)
class VolumeRange:
    """Between which volumes a structure lay.

    Attributes:
        low: 1st percentile, in ml.
        high: 99th percentile, in ml.
        cases: how many that is of.
    """

    low: float
    high: float
    cases: int

    def verdict(self, volume_ml: float) -> str:
        """`missing`, `low`, `high`, or nothing where the volume is in the range."""
        if volume_ml == 0:
            return "missing"
        return "low" if volume_ml < self.low else "high" if volume_ml > self.high else ""


def measure(
    structures: Sequence[str], cases: Sequence[CaseEntry], spacing: Sequence[float]
) -> dict[str, dict[str, float]]:
    """Ranges over the cases in which every voxel is annotated, the structure with them.

    Args:
        structures: names.
        cases: of the training set.
        spacing: (z, y, x) in mm of the records.

    Returns:
        Structure -> `VolumeRange` as JSON values, for those that at least five cases show whole.
    """
    voxel_ml = float(np.prod(spacing)) / 1000
    whole = [
        case
        for case in cases
        if case.coverage["annotated"]["voxels"] == int(np.prod(case.shape[:3]))
    ]
    ranges = {}
    for name in structures:
        known = [c.coverage[name]["voxels"] for c in whole if name in c.annotated_structures]
        volumes = voxel_ml * np.array([voxels for voxels in known if voxels])
        if len(volumes) >= _LEAST_CASES:
            low, high = (round(float(v), 4) for v in np.percentile(volumes, _PERCENTILES))
            ranges[name] = asdict(VolumeRange(low, high, len(volumes)))
    return ranges


def of_model(provenance: Mapping[str, Any], path: str | os.PathLike) -> dict[str, VolumeRange]:
    """The ranges that a model's provenance holds; none where it is of a former version.

    Raises:
        InputError: they are no ranges.
    """
    content = provenance.get(PROVENANCE_KEY, {})
    try:
        ranges = {
            name: VolumeRange(float(v["low"]), float(v["high"]), int(v["cases"]))
            for name, v in content.items()
        }
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: expected ranges as {PROVENANCE_KEY}, found {content}") from error
    return ranges
