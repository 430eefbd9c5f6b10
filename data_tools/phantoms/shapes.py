"""Implicit shapes and the canvas they are painted on, for the phantoms.

A shape is a box and an approximate signed distance in mm (negative inside). Painting turns the
distance into the share of each voxel that the shape covers, so edges have the partial volume of a
scan without a finer grid. Positions are mm of the standard body, in the order z, y, x.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.interpolate import PchipInterpolator, make_interp_spline
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

Vector = Sequence[float] | np.ndarray
Paint = float | Callable[[np.ndarray, np.ndarray], np.ndarray]

_STEP_MM = 2.0  # between the balls of a tube
_REACH_MM = 14.0  # beyond a ball's surface, the distance is only known to be large
_FAR_MM = 1e3
EVERYWHERE = np.full(3, np.inf)


@dataclass(frozen=True)
class Shape:
    """A solid: `distance` maps points [3, ...] to signed mm, `low` and `high` bound it."""

    low: np.ndarray
    high: np.ndarray
    distance: Callable[[np.ndarray], np.ndarray]

    def grow(self, margin: float) -> Shape:
        """The solid with `margin` mm more all round (less, where negative)."""
        return Shape(self.low - margin, self.high + margin, lambda p: self.distance(p) - margin)

    def __and__(self, other: Shape) -> Shape:
        low, high = np.maximum(self.low, other.low), np.minimum(self.high, other.high)
        return Shape(low, high, lambda p: np.maximum(self.distance(p), other.distance(p)))

    def __or__(self, other: Shape) -> Shape:
        low, high = np.minimum(self.low, other.low), np.maximum(self.high, other.high)
        return Shape(low, high, lambda p: np.minimum(self.distance(p), other.distance(p)))

    def __sub__(self, other: Shape) -> Shape:
        return Shape(
            self.low, self.high, lambda p: np.maximum(self.distance(p), -other.distance(p))
        )

    def blend(self, other: Shape, radius: float) -> Shape:
        """The union with its crease rounded over `radius` mm (polynomial smooth minimum)."""

        def distance(points: np.ndarray) -> np.ndarray:
            first, second = self.distance(points), other.distance(points)
            share = np.clip(0.5 + 0.5 * (second - first) / radius, 0.0, 1.0)
            return second + (first - second) * share - radius * share * (1.0 - share)

        union = self | other
        return Shape(union.low - radius / 4, union.high + radius / 4, distance)


def ellipsoid(center: Vector, radii: Vector, degrees: Vector = (0.0, 0.0, 0.0)) -> Shape:
    """An ellipsoid with semi-axes `radii` mm, turned by Euler angles about z, y and x in turn."""
    middle, half = np.asarray(center, np.float32), np.asarray(radii, np.float32)
    # Rotation works on any three axes; ours are (z, y, x), so its first axis is our z.
    turn = Rotation.from_euler("xyz", np.asarray(degrees), degrees=True).as_matrix()
    turn = turn.astype(np.float32)
    extent = np.sqrt(((turn * half) ** 2).sum(axis=1))

    def distance(points: np.ndarray) -> np.ndarray:
        moved = points - middle.reshape(3, *[1] * (points.ndim - 1))
        local = np.tensordot(turn.T, moved, axes=1)
        scaled = local / half.reshape(3, *[1] * (points.ndim - 1))
        norm = np.sqrt((scaled**2).sum(axis=0))
        scaled /= half.reshape(3, *[1] * (points.ndim - 1))
        slope = np.sqrt((scaled**2).sum(axis=0))
        return norm * (norm - 1.0) / np.maximum(slope, 1e-6)

    return Shape(middle - extent, middle + extent, distance)


def centerline(
    control: Sequence[Vector] | np.ndarray, radii: Vector
) -> tuple[np.ndarray, np.ndarray]:
    """A smooth curve through `control` points, as points [n, 3] and radii [n] about every 2 mm."""
    knots = np.asarray(control, float)
    along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(knots, axis=0), axis=1))])
    samples = np.linspace(0.0, along[-1], max(2, int(along[-1] / _STEP_MM) + 1))
    curve = make_interp_spline(along, knots, k=min(3, len(knots) - 1))(samples)
    return curve, PchipInterpolator(along, np.asarray(radii, float))(samples)


def balls(points: np.ndarray, radii: np.ndarray | float, stretch: Vector = (1, 1, 1)) -> Shape:
    """The union of balls at `points` [n, 3]; `stretch` widens each ball along z, y and x."""
    factor = np.asarray(stretch, float)
    size = np.broadcast_to(np.asarray(radii, float), len(points))
    tree = cKDTree(points / factor)
    reach = float(size.max()) + _REACH_MM
    padded = np.append(size, 0.0)  # the tree answers n where it finds no ball in reach

    def distance(where: np.ndarray) -> np.ndarray:
        flat = where.reshape(3, -1).T / factor
        gap, index = tree.query(flat, distance_upper_bound=reach)
        gap = np.where(np.isfinite(gap), gap - padded[index], _FAR_MM)
        return gap.reshape(where.shape[1:]).astype(np.float32)

    margin = size[:, None] * factor
    return Shape((points - margin).min(axis=0), (points + margin).max(axis=0), distance)


def tube(
    control: Sequence[Vector] | np.ndarray, radii: Vector, stretch: Vector = (1, 1, 1)
) -> Shape:
    """A tube along a smooth curve through `control`, with a radius (mm) at each control point."""
    return balls(*centerline(control, radii), stretch)


def stack(table: Sequence[tuple[float, float, float, float]], power: float = 2.4) -> Shape:
    """Superellipses stacked along z: rows of (z, half width, half depth, middle y), z rising."""
    rows = np.asarray(table, np.float32)
    sides = np.array([-np.inf, (rows[:, 3] - rows[:, 2]).min(), -rows[:, 1].max()])
    others = np.array([np.inf, (rows[:, 3] + rows[:, 2]).max(), rows[:, 1].max()])

    def distance(points: np.ndarray) -> np.ndarray:
        z = points[0]
        width, depth, middle = (
            np.interp(z, rows[:, 0], rows[:, k]).astype(np.float32) for k in (1, 2, 3)
        )
        y, x = points[1] - middle, points[2]
        level = (np.abs(x / width) ** power + np.abs(y / depth) ** power) ** (1 / power)
        return np.hypot(x, y) * (1.0 - 1.0 / np.maximum(level, 1e-3))

    return Shape(sides, others, distance)


def field(distance: Callable[[np.ndarray], np.ndarray]) -> Shape:
    """An unbounded solid from a distance function, to cut other shapes with."""
    return Shape(-EVERYWHERE, EVERYWHERE, distance)


class Canvas:
    """An image in HU and its labels, painted shape over shape.

    Attributes:
        hu: float32 [Z, Y, X], HU.
        labels: uint8 [Z, Y, X].
        voxel: size of a voxel in standard-body mm (mean of the three axes).
    """

    def __init__(self, positions: np.ndarray, steps: Vector, hu: float) -> None:
        self.hu = np.full(positions.shape[1:], hu, np.float32)
        self.labels = np.zeros(positions.shape[1:], np.uint8)
        self.voxel = float(np.mean(steps))
        self._thinnest = max(0.7 * self.voxel, 0.5 * float(np.max(steps)))
        self.place(positions)

    def place(self, positions: np.ndarray) -> None:
        """Lets later shapes be painted in other coordinates: `positions` [3, Z, Y, X] in mm."""
        self.positions = positions
        others = [(1, 2), (0, 2), (0, 1)]
        self._ranges = [
            (along.min(axis=rest), along.max(axis=rest))
            for along, rest in zip(positions, others, strict=True)
        ]

    def box(self, low: np.ndarray, high: np.ndarray) -> tuple[slice, slice, slice]:
        """The smallest block of voxels that surely holds every position from `low` to `high`."""
        slices = []
        for (least, most), start, stop in zip(self._ranges, low, high, strict=True):
            inside = np.flatnonzero((most >= start) & (least <= stop))
            slices.append(slice(inside[0], inside[-1] + 1) if inside.size else slice(0, 0))
        return slices[0], slices[1], slices[2]

    def thick(self, radius: float) -> float:
        """`radius`, or what a structure needs at least to survive on this grid (mm)."""
        return max(radius, self._thinnest)

    def paint(self, shape: Shape, hu: Paint, label: int = 0) -> None:
        """Paints `shape` over all there is.

        Args:
            shape: what to paint.
            hu: its HU, or a function of the points [3, ...] and their distances.
            label: the label of voxels of which it covers more than half.
        """
        box = self.box(shape.low - self.voxel, shape.high + self.voxel)
        points = self.positions[(slice(None), *box)]
        if not points.size:
            return
        distance = shape.distance(points)
        cover = np.clip(0.5 - distance / self.voxel, 0.0, 1.0).astype(np.float32)
        value = hu(points, distance) if callable(hu) else hu
        self.hu[box] += cover * (value - self.hu[box])
        self.labels[box][cover > 0.5] = label
