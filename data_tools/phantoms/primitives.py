"""Seeded volumes of geometric solids, each kind with an intensity and a texture of its own.

They are for base models of any modality. Pre-training on such shapes was proposed by Tadokoro et
al., Primitive Geometry Segment Pre-training for 3D Medical Image Segmentation, arXiv 2401.03665.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from data_tools.phantoms.shapes import Canvas, Shape
from data_tools.phantoms.texture import scan, smooth_field

Distance = Callable[[np.ndarray], np.ndarray]

DESCRIPTION = "Geometric solids"
CHANNEL = "primitives"

_SMALLEST, _LARGEST = 3.0, 20.0  # radius of the ball around a solid, in voxels
_VOXELS_A_SOLID = 4000
_SPREAD_HU = 250.0  # of the kinds' intensities about the background's
_BACKGROUND_HU = 0.0


def _box(depth: float, height: float, width: float) -> Distance:
    half = np.array([depth, height, width], np.float32).reshape(3, 1, 1, 1)
    return lambda p: (np.abs(p) - half).max(axis=0)


def _round(p: np.ndarray) -> np.ndarray:
    return np.hypot(p[1], p[2])


def _radius(p: np.ndarray) -> np.ndarray:
    return np.sqrt((p**2).sum(axis=0))


def _drum(radius: float, height: float) -> Distance:
    return lambda p: np.maximum(_round(p) - radius, np.abs(p[0]) - height)


def _cross(p: np.ndarray) -> np.ndarray:
    arms = [_box(*np.roll([0.95, 0.24, 0.24], turn))(p) for turn in range(3)]
    return np.minimum.reduce(arms)


def _spring(p: np.ndarray) -> np.ndarray:
    angle = np.pi * 2.2 * p[0]
    bent = np.hypot(p[1] - 0.42 * np.sin(angle), p[2] - 0.42 * np.cos(angle))
    return np.maximum(0.6 * (bent - 0.26), np.abs(p[0]) - 0.7)


# Signed distances in the ball of radius 1, by kind; their slope is about 1 near the surface.
SOLIDS: dict[str, Distance] = {
    "ball": lambda p: _radius(p) - 0.9,
    "box": _box(0.5, 0.55, 0.6),
    "rod": _drum(0.2, 0.95),
    "coin": _drum(0.9, 0.2),
    "ring": lambda p: np.hypot(_round(p) - 0.68, p[0]) - 0.24,
    "shell": lambda p: np.abs(_radius(p) - 0.8) - 0.14,
    "cross": _cross,
    "spring": _spring,
}
STRUCTURES = tuple(SOLIDS)


@dataclass(frozen=True)
class _Look:
    """How a kind looks: its HU, and the HU and the wavelength (in voxels) of its texture."""

    hu: float
    contrast: float
    wavelength: float


def _looks() -> dict[str, _Look]:
    # Neighbours in the list, which are alike in form, lie far apart in intensity and texture.
    levels = np.linspace(-1.0, 1.0, len(STRUCTURES))
    looks = {}
    for number, kind in enumerate(STRUCTURES):
        level = levels[number * 3 % len(STRUCTURES)]
        looks[kind] = _Look(_SPREAD_HU * level, 30.0 * (number % 3), 3.0 + 2.0 * (number % 4))
    return looks


_LOOKS = _looks()


def generate(
    seed: int, shape: tuple[int, int, int], spacing: tuple[float, float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Makes one case; the same arguments always make the same one.

    Solids of all kinds and of 3 to 20 voxels' radius lie over each other, turned at random, before
    a mottled background.

    Args:
        seed: any non-negative integer.
        shape: (Z, Y, X) in voxels, each at least 16.
        spacing: (z, y, x) in mm.

    Returns:
        Image int16 [Z, Y, X], HU by its range alone, and labels uint8 [Z, Y, X]: 0 or 1 + the index
        in `STRUCTURES`.
    """
    rng, waves, noise = np.random.default_rng(seed).spawn(3)
    axes = [np.arange(n) * step for n, step in zip(shape, spacing, strict=True)]
    canvas = Canvas(
        np.stack(np.meshgrid(*axes, indexing="ij")).astype(np.float32), spacing, _BACKGROUND_HU
    )
    for wavelength in (4.0, 24.0):
        mottle = smooth_field(waves, shape, spacing, wavelength * canvas.voxel)
        canvas.hu += rng.uniform(5.0, 30.0) * mottle
    gain = rng.uniform(0.8, 1.2)
    count = max(len(STRUCTURES), round(np.prod(shape) / _VOXELS_A_SOLID))
    kinds = [STRUCTURES[number % len(STRUCTURES)] for number in range(count)]
    sizes = np.exp(rng.uniform(np.log(_SMALLEST), np.log(_LARGEST), count)) * canvas.voxel
    # From large to small, so that the small ones are not all buried.
    for kind, size in zip(rng.permutation(kinds), np.sort(sizes)[::-1], strict=True):
        center = rng.uniform(0.0, np.multiply(shape, spacing))
        _paint(canvas, str(kind), center, float(size), gain, rng)
    return scan(canvas.hu, noise), canvas.labels


def _paint(
    canvas: Canvas,
    kind: str,
    center: Sequence[float] | np.ndarray,
    size: float,
    gain: float,
    rng: np.random.Generator,
) -> None:
    middle = np.asarray(center, np.float32).reshape(3, 1, 1, 1)
    turn = Rotation.from_quat(rng.normal(size=4)).as_matrix().astype(np.float32)
    look = _LOOKS[kind]
    waves = rng.normal(size=(2, 3)).astype(np.float32)
    waves *= 2 * np.pi / (look.wavelength * canvas.voxel * np.linalg.norm(waves, axis=1))[:, None]
    level = gain * (look.hu + rng.normal(0.0, 12.0))

    def distance(points: np.ndarray) -> np.ndarray:
        return size * SOLIDS[kind](np.tensordot(turn, (points - middle) / size, axes=1))

    def hu(points: np.ndarray, _: np.ndarray) -> np.ndarray:
        first, second = np.tensordot(waves, points, axes=1)
        return level + gain * look.contrast * np.sin(first) * np.sin(second)

    solid = Shape(middle.ravel() - size, middle.ravel() + size, distance)
    canvas.paint(solid, hu, 1 + STRUCTURES.index(kind))
