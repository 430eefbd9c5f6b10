"""How a scanner sees the phantoms: HU of tissues by contrast phase, smooth fields, noise."""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage
from scipy.interpolate import make_interp_spline

PHASES = ("native", "arterial", "portal")

# Mean HU in the three phases, and the standard deviation from case to case.
_TISSUES: dict[str, tuple[float, float, float, float]] = {
    "fat": (-102, -102, -102, 6),
    "skin": (10, 15, 20, 8),
    "muscle": (52, 60, 67, 5),
    "arterial_blood": (42, 290, 155, 12),
    "heart_blood": (42, 215, 150, 12),
    "myocardium": (44, 95, 108, 7),
    "caval_blood": (40, 90, 138, 10),
    "portal_blood": (41, 95, 165, 9),
    "liver": (56, 70, 102, 11),
    "spleen": (48, 118, 118, 8),
    "renal_cortex": (33, 165, 175, 12),
    "renal_medulla": (30, 75, 160, 12),
    "pancreas": (40, 92, 92, 8),
    "adrenal": (24, 68, 66, 8),
    "bile": (8, 9, 10, 5),
    "urine": (5, 6, 9, 4),
    "gut_wall": (42, 76, 86, 7),
    "gut_fluid": (14, 14, 14, 8),
    "stool": (20, 20, 20, 20),
    "cord": (36, 40, 44, 4),
    "cerebrospinal_fluid": (9, 10, 12, 4),
    "cartilage": (95, 95, 100, 12),
    "disc": (82, 84, 86, 8),
    "spongy_bone": (175, 185, 195, 40),
    "cortical_bone": (520, 530, 540, 70),
    "lung": (-810, -805, -800, 50),
    "gas": (-985, -985, -985, 15),
    "air": (-1000, -1000, -1000, 2),
    "foam": (-800, -800, -800, 50),
}


def draw_tissues(rng: np.random.Generator) -> dict[str, float]:
    """One case's HU by tissue: a contrast phase, its timing, the spread between patients."""
    phase = rng.choice(len(PHASES), p=[0.25, 0.25, 0.5])
    timing = rng.uniform(0.7, 1.25)
    tissues = {}
    for name, row in _TISSUES.items():
        enhancement = (row[phase] - row[0]) * timing
        tissues[name] = row[0] + enhancement + row[3] * float(np.clip(rng.normal(), -2, 2))
    return tissues


def smooth_field(
    rng: np.random.Generator, shape: Sequence[int], spacing: Sequence[float], wavelength: float
) -> np.ndarray:
    """A smooth random field of about unit variance.

    Args:
        rng: source of randomness.
        shape: (Z, Y, X) in voxels.
        spacing: (z, y, x) in mm.
        wavelength: mm between independent values; white noise on grids coarser than that.

    Returns:
        float32 [Z, Y, X].
    """
    steps = [max(wavelength / s, 1.0) for s in spacing]
    counts = [max(4, int(np.ceil(n / step)) + 3) for n, step in zip(shape, steps, strict=True)]
    values = rng.standard_normal(counts).astype(np.float32)
    # A cubic spline is linear in its values: one small matrix an axis is far faster than a 3D zoom.
    for axis, (n, step, count) in enumerate(zip(shape, steps, counts, strict=True)):
        spline = make_interp_spline(np.arange(count), np.eye(count), k=3)
        matrix = spline(1.0 + np.arange(n) / step).astype(np.float32)
        values = np.moveaxis(np.tensordot(matrix, values, axes=(1, axis)), 0, axis)
    return np.ascontiguousarray(values / np.float32(0.8))


def scan(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Adds a scanner's blur and correlated noise.

    Args:
        image: float32 [Z, Y, X], HU.
        rng: source of randomness; draws the noise level, 7 to 20 HU.

    Returns:
        int16 [Z, Y, X], HU from -1024 to 3071.
    """
    level, grain = rng.uniform(7.0, 20.0), rng.uniform(0.4, 0.8)
    noise = rng.standard_normal(image.shape, dtype=np.float32)
    noise = ndimage.gaussian_filter(noise, grain, truncate=3.0)
    noise *= level / noise.std()
    blurred = ndimage.gaussian_filter(image, 0.4, truncate=3.0)
    return np.clip(np.rint(blurred + noise), -1024, 3071).astype(np.int16)
