"""The parts of a phantom without a label: table, body wall, skeleton, bowel.

They are there to confuse: foam of lung-like HU, bowel with gas and fluid, bone as bright as a contrasted vessel.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import ndimage

from data_tools.phantom_shapes import (
    Canvas,
    Shape,
    balls,
    centerline,
    ellipsoid,
    field,
    stack,
    tube,
)

Tissues = dict[str, float]

# Rows of (z, half width, half depth, y of the middle) in mm: the muscular wall and the cavity inside it.
_WALL = [
    (0, 160, 100, 0), (40, 165, 103, 0), (90, 166, 104, 0), (140, 158, 101, 0), (190, 147, 97, 0),
    (230, 139, 96, 0), (290, 141, 100, 0), (350, 146, 106, 0), (420, 149, 109, 0),
    (480, 150, 107, 0), (540, 162, 99, 0), (585, 156, 86, 2), (615, 122, 73, 6), (640, 74, 60, 10),
]  # fmt: skip
_CAVITY = [
    (20, 30, 32, 10), (45, 48, 50, 5), (90, 66, 64, 0), (140, 100, 70, -8), (190, 116, 70, -16),
    (230, 120, 74, -17), (280, 126, 79, -14), (320, 130, 85, -9), (370, 133, 91, -4),
    (430, 131, 91, -1), (500, 121, 83, 2), (560, 98, 67, 8), (600, 66, 46, 12), (622, 22, 18, 12),
]  # fmt: skip
_SPINE_Z = [20, 60, 100, 150, 220, 280, 340, 420, 500, 560, 600, 640]
_SPINE_Y = [84, 84, 78, 50, 29, 27, 36, 46, 50, 46, 38, 26]
_VERTEBRA_Z = np.concatenate(  # the middles, L5 to T1
    [168 + 36 * np.arange(5), [345, 374, 402, 429, 454.5, 479, 503, 526.5, 549.5, 572, 593.5, 614]]
)
_TOP_OF_SACRUM = 150.0


def spine_y(z: float | np.ndarray) -> np.ndarray:
    """y (mm) of the middle of the vertebral bodies at height `z` (mm)."""
    return np.interp(z, _SPINE_Z, _SPINE_Y)


def spine_radius(z: float | np.ndarray) -> np.ndarray:
    """Half the depth (mm) of the vertebral bodies at height `z` (mm)."""
    return np.interp(z, [200, 340, 460, 560, 640], [21, 19, 16, 13, 11])


def canal_y(z: float | np.ndarray) -> np.ndarray:
    """y (mm) of the middle of the spinal canal at height `z` (mm)."""
    return spine_y(z) + spine_radius(z) + 8.0


def body(fat: float) -> Shape:
    """The whole body, with `fat` mm under the skin (more in the pelvis, less in the chest)."""
    share = np.interp([row[0] for row in _WALL], [100, 300, 450, 600], [1.2, 1.0, 0.7, 0.5])
    return stack(
        [(z, w + s * fat, d + s * fat, y) for (z, w, d, y), s in zip(_WALL, share, strict=True)]
    )


def cavity() -> Shape:
    """The inside of the rib cage and of the abdominal wall."""
    return stack(_CAVITY)


def diaphragm_z(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Height (mm) of the diaphragm: a right and a left dome, and the heart's bed between them."""
    right = 112 * (1 - ((x + 68) / 70) ** 2 - (y / 88) ** 2)
    left = 98 * (1 - ((x - 72) / 68) ** 2 - (y / 88) ** 2)
    middle = 84 * (1 - ((x - 8) / 62) ** 2 - ((y + 35) / 60) ** 2)
    dome = np.maximum(np.maximum(right, left), middle)
    return 315.0 - 0.2 * y + np.maximum(dome, -8.0)


def above_diaphragm(margin: float) -> Shape:
    """All that lies more than `margin` mm above the diaphragm."""
    return field(lambda p: 0.7 * (diaphragm_z(p[1], p[2]) + margin - p[0]))


def below_diaphragm(margin: float) -> Shape:
    """All that lies more than `margin` mm below the diaphragm."""
    return field(lambda p: 0.7 * (p[0] + margin - diaphragm_z(p[1], p[2])))


def paint_table(canvas: Canvas, tissues: Tissues, back: float, rng: np.random.Generator) -> None:
    """Paints a table, a mattress hollowed by the patient and cushions beside the arms.

    Args:
        canvas: with positions that are neither turned nor deformed, as the table isn't.
        tissues: HU by tissue.
        back: y (mm) of the patient's back.
        rng: source of randomness.
    """
    rise = rng.uniform(0.0014, 0.0024)
    bottom, width = back + rng.uniform(20, 32), rng.uniform(205, 225)
    board = field(lambda p: np.maximum(np.abs(p[2]) - width, np.abs(p[1] - bottom - 14) - 14))
    canvas.paint(board, -170.0)
    canvas.paint(board.grow(-5.0), -930.0)
    mattress = field(
        lambda p: np.maximum.reduce(
            [np.abs(p[2]) - width, p[1] - bottom, back - 6.0 - rise * p[2] ** 2 - p[1]]
        )
    )
    foam = tissues["foam"]
    canvas.paint(mattress, lambda p, d: foam + 45.0 * np.sin(p[0] / 37.0) * np.cos(p[2] / 51.0))


def paint_body(
    canvas: Canvas, tissues: Tissues, fat: float, texture: np.ndarray, fine: np.ndarray
) -> None:
    """Paints skin, fat, the muscular wall and the fat inside; the fields marble fat and muscle."""
    whole, wall = body(fat), body(0.0)
    canvas.paint(whole, tissues["skin"])
    canvas.paint(whole.grow(-3.0), tissues["fat"])
    canvas.paint(wall, tissues["muscle"])
    # Sheets of fat between the muscles, which lie in layers under the surface.
    layers = np.abs(np.sin(wall.distance(canvas.positions) / 8.0 + 1.5 * texture + 0.3 * fine))
    between = (canvas.hu > 0) & (layers < 0.15)
    canvas.hu[between] -= 0.5 * (tissues["muscle"] - tissues["fat"])
    canvas.paint(cavity(), tissues["fat"])
    leaf = below_diaphragm(-2.5) & above_diaphragm(-2.5) & cavity()
    canvas.paint(leaf, tissues["muscle"])


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
    table = np.array(_CAVITY, float)
    points = []
    for level, z in enumerate(_VERTEBRA_Z[:4:-1], start=1):
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
    z = np.arange(_TOP_OF_SACRUM, 646.0, 3.0)
    axis = np.stack([z, spine_y(z), np.zeros_like(z)], axis=1)
    canal = np.stack([z, canal_y(z), np.zeros_like(z)], axis=1)
    processes = []
    for middle in _VERTEBRA_Z:
        y, out = canal_y(middle), np.linspace(8, 34, 10)
        processes += [(middle - 0.5 * (s - 8), y + 0.75 * s, 0.0) for s in out]
        processes += [(middle + 4, y - 2 + 0.2 * s, side * s) for s in out for side in (-1, 1)]
    bone = bone_hu(tissues)
    canvas.paint(balls(np.array(processes), 4.0), bone)
    canvas.paint(balls(canal, 13.0, stretch=(1, 1, 1.15)), bone)

    def body_hu(points: np.ndarray, distance: np.ndarray) -> np.ndarray:
        edges = np.append(0.5 * (_VERTEBRA_Z[1:] + _VERTEBRA_Z[:-1]), _TOP_OF_SACRUM)
        gap = np.abs(points[0][..., None] - edges).min(axis=-1)
        return np.where(gap < 4.0, tissues["disc"], bone(points, distance))

    canvas.paint(balls(axis, spine_radius(z), stretch=(1, 1, 1.25)), body_hu)
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
    basin = cavity().grow(11.0) - cavity().grow(3.0)
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
        shapes.append(tube([(95, 15, side * 80), (62, 25, side * 72), (22, 38, side * 55)], [12] * 3))
        shapes.append(ellipsoid(hip, (23, 23, 23)))
        shapes.append(tube([hip, (48, 8, side * 125), (-40, 8, side * 118)], [15, 16, 14]))
    return shapes


def paint_bowel(canvas: Canvas, tissues: Tissues, rng: np.random.Generator) -> None:
    """Paints the small bowel, coiled anew in every case, then the colon around it."""
    rows = []
    for layer, z in enumerate(np.arange(98.0, 262.0, 25.0)):
        span = np.interp(z, [90, 150, 260], [42, 82, 84])
        for row, y in enumerate(np.arange(-72.0, 6.0, 25.0)[:: 1 if layer % 2 else -1]):
            x = np.linspace(-span, span, 6)[:: 1 if (layer + row) % 2 else -1]
            rows.append(np.stack([np.full(6, z), np.full(6, y), x], axis=1))
    coils = np.concatenate(rows) + rng.normal(0.0, (11.0, 8.0, 8.0), (len(rows) * 6, 3))
    small = centerline(coils, rng.uniform(8.5, 12.5, len(coils)))
    _paint_gut(canvas, tissues, small, rng, gas_share=0.15, content=tissues["gut_fluid"])
    frame = [
        (118, -12, -88), (150, -2, -104), (205, 6, -110), (252, 5, -104), (240, -42, -84),
        (222, -72, -40), (216, -78, 0), (226, -72, 45), (262, -48, 88), (312, 12, 108),
        (262, 22, 112), (205, 16, 108), (150, 2, 98), (112, -8, 66), (122, 8, 20), (102, 32, 12),
        (72, 50, 2), (35, 46, 0),
    ]  # fmt: skip
    course = np.array(frame) + rng.normal(0.0, 4.0, (len(frame), 3))
    radii = rng.uniform(15, 22) + rng.normal(0.0, 2.0, len(frame))
    large = centerline(course, np.where(np.arange(len(frame)) > 10, 0.75 * radii, radii))
    _paint_gut(canvas, tissues, large, rng, gas_share=0.5, content=tissues["stool"])


def _paint_gut(
    canvas: Canvas,
    tissues: Tissues,
    course: tuple[np.ndarray, np.ndarray],
    rng: np.random.Generator,
    gas_share: float,
    content: float,
) -> None:
    points, radii = course
    inside = cavity().grow(-2.0)
    canvas.paint(balls(points, radii) & inside, tissues["gut_wall"])
    lumen = np.maximum(radii - 2.5, 0.5 * radii)
    canvas.paint(balls(points, lumen) & inside, content)
    runs = ndimage.gaussian_filter1d(rng.standard_normal(len(points)), 12)
    gassy = runs > np.quantile(runs, 1.0 - gas_share)
    # Gas rises to the front; what is left of the lumen stays filled.
    bubble = balls(points[gassy] - [0.0, 3.0, 0.0], lumen[gassy] - 1.0)
    canvas.paint(bubble & inside, tissues["gas"] + rng.uniform(0.0, 120.0))
