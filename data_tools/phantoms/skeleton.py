"""The bones of a phantom, which have no label but the HU of a contrasted vessel."""

from collections.abc import Callable

import numpy as np

from data_tools.phantoms import body
from data_tools.phantoms.shapes import Canvas, Shape, balls, ellipsoid, field, tube

Tissues = dict[str, float]


def bone_hu(tissues: Tissues) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """HU of a bone as a function of points and distances: a hard shell round a spongy core."""
    cortical, spongy = tissues["cortical_bone"], tissues["spongy_bone"]
    return lambda p, d: np.where(d > -3.0, cortical, spongy)


def paint_skeleton(canvas: Canvas, tissues: Tissues) -> None:
    """Paints spine, ribs, shoulder blades, collar bones, pelvis and thighs."""
    bone = bone_hu(tissues)
    for shape in [*_girdles(), *_pelvis(), _ribs(0, 125)]:
        canvas.paint(shape, bone)
    canvas.paint(_ribs(125, 166), tissues["cartilage"])
    _paint_spine(canvas, tissues)


def _ribs(start: float, stop: float) -> Shape:
    """The twelve pairs of ribs between two angles (degrees) from the spine to the breastbone."""
    table = np.array(body.CAVITY, float)
    points = []
    for level, z in enumerate(body.VERTEBRA_Z[:4:-1], start=1):
        reach = 166 if level <= 7 else {8: 158, 9: 150, 10: 142, 11: 100, 12: 65}[level]
        angle = np.arange(max(start, 10), min(stop, reach), 1.0)
        drop = np.interp(level, [1, 4, 9, 12], [38, 62, 85, 70])
        height = z - drop * np.sin(np.radians(np.minimum(angle, 130) * 0.7))
        height += np.maximum(angle - 130, 0) * 0.9 * (level > 4)
        width, depth, middle = (np.interp(height, table[:, 0], table[:, k]) for k in (1, 2, 3))
        y = middle + (depth + 5) * np.cos(np.radians(angle))
        x = (width + 5) * np.sin(np.radians(angle)) ** 0.85
        points += [np.stack([height, y, side * x], axis=1) for side in (-1, 1)]
    return balls(np.concatenate(points), 5.0, stretch=(1.25, 0.9, 0.9))


def _paint_spine(canvas: Canvas, tissues: Tissues) -> None:
    z = np.arange(body.TOP_OF_SACRUM, 646.0, 3.0)
    axis = np.stack([z, body.spine_y(z), np.zeros_like(z)], axis=1)
    canal = np.stack([z, body.canal_y(z), np.zeros_like(z)], axis=1)
    processes = []
    for middle in body.VERTEBRA_Z:
        y, out = body.canal_y(middle), np.linspace(8, 34, 10)
        processes += [(middle - 0.5 * (s - 8), y + 0.75 * s, 0.0) for s in out]
        processes += [(middle + 4, y - 2 + 0.2 * s, side * s) for s in out for side in (-1, 1)]
    bone = bone_hu(tissues)
    canvas.paint(balls(np.array(processes), 4.0), bone)
    canvas.paint(balls(canal, 13.0, stretch=(1, 1, 1.15)), bone)

    def body_hu(points: np.ndarray, distance: np.ndarray) -> np.ndarray:
        edges = np.append(0.5 * (body.VERTEBRA_Z[1:] + body.VERTEBRA_Z[:-1]), body.TOP_OF_SACRUM)
        gap = np.abs(points[0][..., None] - edges).min(axis=-1)
        return np.where(gap < 4.0, tissues["disc"], bone(points, distance))

    canvas.paint(balls(axis, body.spine_radius(z), stretch=(1, 1, 1.25)), body_hu)
    canvas.paint(balls(canal, 9.0, stretch=(1, 1, 1.2)), tissues["cerebrospinal_fluid"])


def _girdles() -> list[Shape]:
    """Shoulder blades and collar bones, left and right."""
    shapes = []
    for side in (-1, 1):
        blade = ellipsoid((530, 74, side * 105), (62, 5, 40), (side * -22, 0, side * 12))
        collar = [(588, -62, side * 16), (598, -58, side * 60), (610, -22, side * 112)]
        shapes += [blade, tube(collar, [7, 6, 7])]
    return shapes


def _pelvis() -> list[Shape]:
    """Sacrum, iliac wings, hip joints, pubic bones and thighs."""
    sacrum = tube([(152, 52, 0), (100, 78, 0), (55, 84, 0)], [19, 15, 7], stretch=(1, 1, 2.2))
    basin = body.cavity().grow(11.0) - body.cavity().grow(3.0)
    crest = field(
        lambda p: np.maximum.reduce(
            [p[0] - 206 + 0.003 * (p[1] - 15) ** 2, 88 - p[0], 48 - np.abs(p[2]), -45 - p[1]]
        )
    )
    shapes = [sacrum, basin & crest]
    for side in (-1, 1):
        hip = (62, 2, side * 88)
        shapes.append(ellipsoid(hip, (30, 30, 26)) - ellipsoid(hip, (26, 26, 26)))
        shapes.append(tube([(62, -8, side * 74), (48, -52, side * 30), (38, -55, 0)], [10, 8, 8]))
        seat = [(95, 15, side * 80), (62, 25, side * 72), (22, 38, side * 55)]
        shapes.append(tube(seat, [12, 12, 12]))
        shapes.append(ellipsoid(hip, (23, 23, 23)))
        shapes.append(tube([hip, (48, 8, side * 125), (-40, 8, side * 118)], [15, 16, 14]))
    return shapes
