"""The labelled structures of the chest and the back, painted from back to front.

Positions are (z, y, x) in mm of the standard body.
"""

from collections.abc import Sequence

import numpy as np

from data_tools.phantoms import body, skeleton
from data_tools.phantoms.patient import LABEL, Patient
from data_tools.phantoms.shapes import Shape, balls, ellipsoid, field


def paint_lungs(patient: Patient) -> None:
    """Paints both lungs with their vessels: denser at the back, and in a poor breath."""
    canvas, tissues, rng = patient.canvas, patient.tissues, patient.rng
    chest = body.cavity().grow(-3.5) & body.above_diaphragm(2.0)
    slope, width = rng.uniform(0.3, 1.2), patient.size()
    for name, side in (("left_lung", 1), ("right_lung", -1)):
        lung = chest & _beside_mediastinum(side, width)
        patient.paint(name, lung, lambda p, d: tissues["lung"] + slope * p[1])
    lungs = (canvas.labels == LABEL["left_lung"]) | (canvas.labels == LABEL["right_lung"])
    # Where two smooth fields are both near zero there is a curve: a vessel seen on a coarse grid.
    vessels = 450.0 * np.exp(-(patient.fine**2 + patient.texture**2) / 0.12)
    canvas.hu[lungs] += (vessels + 12.0 * patient.fine)[lungs]


def _beside_mediastinum(side: int, size: float) -> Shape:
    """The patient's left (`side` 1) or right (-1) of the mediastinum, which is thin in front."""

    def distance(points: np.ndarray) -> np.ndarray:
        z, y, x = points
        half_width = size * np.interp(y, [-90, -60, -20, 30, 80], [4, 18, 30, 29, 22])
        return 0.9 * (half_width + 10.0 * np.clip((440 - z) / 60, 0.0, 1.0) - side * x)

    return field(distance)


def paint_back(patient: Patient) -> None:
    """Paints the psoas muscles, the skeleton, the breastbone and the spinal cord."""
    canvas, tissues = patient.canvas, patient.tissues
    bulk = patient.size()
    for name, side in (("left_psoas_major", 1), ("right_psoas_major", -1)):
        course = [
            (318, 36, side * 26), (280, 33, side * 34), (235, 30, side * 42), (190, 24, side * 50),
            (145, 8, side * 58), (100, -14, side * 66),
        ]  # fmt: skip
        radii = np.multiply([5, 12, 17, 20, 18, 12], bulk)
        shape = patient.tube(course, radii.tolist(), (1, 1.1, 0.9))
        patient.paint(name, shape, lambda p, d: tissues["muscle"] + 2.0 * np.sin(p[0] / 9.0))
    skeleton.paint_skeleton(canvas, tissues)
    front = [(564, -66, 0), (540, -76, 0), (500, -87, 0), (460, -94, 0), (428, -97, 0)]
    sternum = patient.tube(front, [5.5, 6, 5, 5.5, 4], (1, 1, 3.0))
    patient.paint("sternum", sternum, skeleton.bone_hu(tissues))
    z = np.arange(290.0, 646.0, 4.0)
    middle = np.stack([z, body.canal_y(z), np.zeros_like(z)], axis=1)
    cord = balls(middle, canvas.thick(5.5 * patient.size()), (1, 1, 1.15))
    patient.paint("spinal_cord", cord, tissues["cord"])


def paint_chest(patient: Patient) -> None:
    """Paints gullet, great vessels, heart and windpipe."""
    canvas, tissues = patient.canvas, patient.tissues
    gullet = [(630, 18, 4), (560, 27, 6), (500, 24, 2), (440, 22, 8), (405, 8, 18), (385, -2, 42)]
    canvas.paint(patient.tube(gullet, [8] * 6), tissues["gut_wall"])
    veins = [(606, -6, -34), (560, -16, -30), (500, -14, -28), (470, -12, -26)]
    canvas.paint(patient.tube(veins, [8, 9, 10, 11]), tissues["caval_blood"])
    for side in (-1, 1):
        artery = [(510, -14, 10 * side), (520, 6, 34 * side), (505, 12, 62 * side)]
        canvas.paint(patient.tube(artery, [13, 11, 7]), tissues["heart_blood"])
        branch = [(566, -4, 4 + 6 * side), (600, 0, 26 * side), (640, -4, 40 * side)]
        canvas.paint(patient.tube(branch, [6, 5, 5]), tissues["arterial_blood"])
        bronchus = [(545, 17, 0), (527, 18, 20 * side), (508, 18, 44 * side)]
        canvas.paint(patient.tube(bronchus, [7, 6, 5]), tissues["gas"])
    _paint_heart(patient)
    lumen = [(645, 2, 0), (610, 8, 0), (575, 14, -1), (543, 17, -2)]
    windpipe = patient.tube(lumen, [8.5, 8.5, 8.5, 9], (1, 0.95, 1.05), wander=1.0)
    canvas.paint(windpipe.grow(2.0), tissues["cartilage"] - 30.0)
    patient.paint("trachea", windpipe, tissues["gas"])


def _paint_heart(patient: Patient) -> None:
    tissues, size = patient.tissues, patient.size()
    turn, move = patient.shift(6.0), patient.shift(3.0)

    def part(center: Sequence[float], radii: Sequence[float], *degrees: float) -> Shape:
        return ellipsoid(np.add(center, move), np.multiply(radii, size), np.add(degrees, turn))

    ventricles = part((444, -38, 32), (40, 42, 56), 28.0, 18.0, 0.0)
    atria = part((468, -6, -4), (36, 30, 42), 0.0, 0.0, 0.0)
    heart = ventricles.blend(atria, 18.0) & body.above_diaphragm(1.0)
    patient.canvas.paint(heart.grow(5.0) & body.cavity(), tissues["fat"] + 30.0)
    heart = heart & body.cavity().grow(-2.0)
    patient.paint("heart", heart, tissues["myocardium"])
    left_ventricle = part((446, -34, 50), (22, 20, 32), 28.0, 18.0, 0.0)
    right_ventricle = part((440, -58, 16), (24, 14, 36), 28.0, 18.0, 0.0)
    for room in (left_ventricle, right_ventricle, atria.grow(-5.0)):
        patient.paint("heart", room & heart.grow(-3.0), tissues["heart_blood"])
