"""One case while it is painted: its tissues, and the peculiarities of its organs."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data_tools.phantoms.shapes import Canvas, Paint, Shape, ellipsoid, tube
from tl3d_keras.paper import STRUCTURES

LABEL = {name: number for number, name in enumerate(STRUCTURES, start=1)}


@dataclass(frozen=True)
class Patient:
    """One case while it is painted.

    Attributes:
        canvas: where it is painted.
        tissues: HU by tissue.
        rng: source of the patient's peculiarities.
        texture: smooth field, unit variance, float32 [Z, Y, X], about 30 mm from bump to bump.
        fine: the same at about 12 mm.
    """

    canvas: Canvas
    tissues: dict[str, float]
    rng: np.random.Generator
    texture: np.ndarray
    fine: np.ndarray

    def shift(self, mm: float) -> np.ndarray:
        """A displacement (z, y, x) with standard deviation `mm`, of two deviations at most."""
        return mm * np.clip(self.rng.normal(size=3), -2.0, 2.0)

    def size(self) -> float:
        """A factor on an organ's size, 0.86 to 1.14."""
        return 1.0 + 0.07 * float(np.clip(self.rng.normal(), -2.0, 2.0))

    def ellipsoid(self, center: Sequence[float], radii: Sequence[float], *turn: float) -> Shape:
        """An ellipsoid, displaced, resized and turned a little."""
        angles = np.array(turn or (0.0, 0.0, 0.0)) + self.shift(5.0)
        return ellipsoid(np.add(center, self.shift(3.0)), np.multiply(radii, self.size()), angles)

    def tube(
        self,
        control: Sequence[Sequence[float]],
        radii: Sequence[float],
        stretch: Sequence[float] = (1.0, 1.0, 1.0),
        wander: float = 1.5,
    ) -> Shape:
        """A tube whose control points wander by `wander` mm, at least as thick as a voxel."""
        size = self.size()
        course = [np.add(point, self.shift(wander)) for point in control]
        return tube(course, [self.canvas.thick(r * size) for r in radii], stretch)

    def paint(self, name: str, shape: Shape, hu: Paint) -> None:
        """Paints `shape` as the structure `name`."""
        self.canvas.paint(shape, hu, LABEL[name])
