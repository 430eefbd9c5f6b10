"""The soft parts of a phantom without a label: table, body wall, bowel.

They are there to confuse: foam of lung-like HU, bowel with gas and fluid, muscle like any organ.
"""

import numpy as np
from scipy import ndimage

from data_tools.phantoms.body import above_diaphragm, below_diaphragm, body, cavity
from data_tools.phantoms.shapes import Canvas, balls, centerline, field

Tissues = dict[str, float]


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
