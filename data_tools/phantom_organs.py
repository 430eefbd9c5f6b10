"""The 22 labelled structures of a phantom, painted from back to front.

Positions are (z, y, x) in mm of a standard body: z up from the pelvic floor, y to the back, x to the patient's left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data_tools import phantom_background as background
from data_tools.phantom_shapes import Canvas, Paint, Shape, balls, ellipsoid, field, tube

STRUCTURES = (
    "aorta",
    "bladder",
    "duodenum",
    "gallbladder",
    "heart",
    "inferior_vena_cava",
    "left_adrenal_gland",
    "left_kidney",
    "left_lung",
    "left_psoas_major",
    "liver",
    "pancreas",
    "portal_vein_and_splenic_vein",
    "right_adrenal_gland",
    "right_kidney",
    "right_lung",
    "right_psoas_major",
    "spinal_cord",
    "spleen",
    "sternum",
    "stomach",
    "trachea",
)
_LABEL = {name: number for number, name in enumerate(STRUCTURES, start=1)}


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
        self.canvas.paint(shape, hu, _LABEL[name])


def paint_lungs(patient: Patient) -> None:
    """Paints both lungs with their vessels: denser at the back, and in a poor breath."""
    canvas, tissues, rng = patient.canvas, patient.tissues, patient.rng
    chest = background.cavity().grow(-3.5) & background.above_diaphragm(2.0)
    slope, half = rng.uniform(0.3, 1.2), 4.0 * patient.size()

    def mediastinum(y: np.ndarray, z: np.ndarray) -> np.ndarray:
        width = np.interp(y, [-90, -60, -20, 30, 80], [half, 18, 30, 29, 22])
        return width + 10.0 * np.clip((440 - z) / 60, 0.0, 1.0)

    for name, side in (("left_lung", 1), ("right_lung", -1)):
        beside = field(lambda p, side=side: 0.9 * (mediastinum(p[1], p[0]) - side * p[2]))  # type: ignore[misc]
        half_lung = chest & beside
        patient.paint(name, half_lung, lambda p, d: tissues["lung"] + slope * p[1])
    lungs = (canvas.labels == _LABEL["left_lung"]) | (canvas.labels == _LABEL["right_lung"])
    # Where two smooth fields are both near zero there is a curve: a vessel seen on a coarse grid.
    vessels = 450.0 * np.exp(-(patient.fine**2 + patient.texture**2) / 0.12)
    canvas.hu[lungs] += (vessels + 12.0 * patient.fine)[lungs]


def paint_muscles_and_back(patient: Patient) -> None:
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
    background.paint_skeleton(canvas, tissues)
    front = [(564, -66, 0), (540, -76, 0), (500, -87, 0), (460, -94, 0), (428, -97, 0)]
    sternum = patient.tube(front, [5.5, 6, 5, 5.5, 4], (1, 1, 3.0))
    patient.paint("sternum", sternum, background.bone_hu(tissues))
    z = np.arange(290.0, 646.0, 4.0)
    middle = np.stack([z, background.canal_y(z), np.zeros_like(z)], axis=1)
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
    heart = ventricles.blend(atria, 18.0) & background.above_diaphragm(1.0)
    patient.canvas.paint(heart.grow(5.0) & background.cavity(), tissues["fat"] + 30.0)
    heart = heart & background.cavity().grow(-2.0)
    patient.paint("heart", heart, tissues["myocardium"])
    left_ventricle = part((446, -34, 50), (22, 20, 32), 28.0, 18.0, 0.0)
    right_ventricle = part((440, -58, 16), (24, 14, 36), 28.0, 18.0, 0.0)
    for room in (left_ventricle, right_ventricle, atria.grow(-5.0)):
        patient.paint("heart", room & heart.grow(-3.0), tissues["heart_blood"])


def paint_upper_abdomen(patient: Patient) -> None:
    """Paints pancreas, stomach, spleen, liver and kidneys."""
    tissues, rng = patient.tissues, patient.rng
    room = background.cavity().grow(-4.0) & background.below_diaphragm(3.0)
    gland = [(278, -22, -36), (298, -34, -10), (309, -28, 22), (322, 0, 56), (334, 20, 80)]
    pancreas = patient.tube(gland, [14, 9, 9.5, 9.5, 8], wander=2.5)
    lobules = 6.0 * rng.uniform(0.5, 3.0)
    patient.paint(
        "pancreas", pancreas, lambda p, d: tissues["pancreas"] + lobules * np.sin(p[2] / 3) - 5
    )
    _paint_stomach(patient, room)
    spleen = patient.ellipsoid((360, 32, 100), (58, 48, 34), 0.0, -8.0, 0.0) & room
    spleen = spleen - ellipsoid((350, 0, 56), (46, 30, 28))
    patient.paint("spleen", spleen, tissues["spleen"])
    right = patient.ellipsoid((338, -4, -72), (98, 86, 72), 0.0, 10.0, 0.0)
    left = patient.ellipsoid((374, -46, -4), (36, 40, 62), 0.0, 8.0, 0.0)
    liver = right.blend(left, 30.0) & room
    # The bowel and the right kidney hollow its lower side.
    liver = liver - ellipsoid((258, -20, -5), (64, 62, 62)) - ellipsoid((276, 62, -58), (70, 48, 42))
    spread = rng.uniform(2.0, 7.0)
    patient.paint("liver", liver, lambda p, d: tissues["liver"] + spread * np.sin(p[2] / 41.0))
    for name, side, height in (("left_kidney", 1, 299), ("right_kidney", -1, 290)):
        center, length = (height, 39, side * 62), (54, 27, 30)
        kidney = patient.ellipsoid(center, length, side * 25.0, side * -10.0, 10.0)
        kidney = kidney & background.cavity().grow(-1.0)
        patient.canvas.paint(kidney.grow(4.0), tissues["fat"])
        hilum = ellipsoid(np.add(center, (0, -6, side * -22)), (22, 11, 24))
        patient.paint(name, kidney - hilum, tissues["renal_cortex"])
        patient.paint(name, kidney.grow(-8.0) - hilum, tissues["renal_medulla"])
        patient.canvas.paint(hilum & kidney, tissues["fat"] + 50.0)


def _paint_stomach(patient: Patient, room: Shape) -> None:
    tissues, rng = patient.tissues, patient.rng
    filling = rng.uniform(0.8, 1.12)
    course = [(386, 8, 56), (352, -16, 64), (312, -42, 60), (286, -58, 24), (297, -52, -14)]
    radii = np.multiply([31, 30, 26, 20, 11], filling).tolist()
    stomach = patient.tube(course, radii, wander=3.0) & room
    patient.paint("stomach", stomach, tissues["gut_wall"])
    meal = rng.uniform(0.0, 70.0)
    patient.paint("stomach", stomach.grow(-4.0), lambda p, d: meal + 15.0 * np.sin(p[0] / 11))
    level = rng.uniform(-62.0, -18.0)
    gas = stomach.grow(-4.5) & field(lambda p: p[1] - level)
    patient.paint("stomach", gas, tissues["gas"])


def paint_vessels_and_glands(patient: Patient) -> None:
    """Paints the abdominal vessels, the aorta, the duodenum, the adrenals, gallbladder, bladder."""
    canvas, tissues, rng = patient.canvas, patient.tissues, patient.rng
    kava = [
        (204, 2, -12), (250, -4, -19), (300, 0, -22), (345, 8, -24), (385, 4, -25), (428, -10, -24)
    ]  # fmt: skip
    for side in (-1, 1):
        legs = [(206, -2, 3 * side), (165, 8, 26 * side), (110, -18, 48 * side)]
        canvas.paint(patient.tube(np.add(legs, (0, 9, 0)).tolist(), [8, 7, 7]), tissues["caval_blood"])
        canvas.paint(patient.tube(legs, [7, 6, 5]), tissues["arterial_blood"])
        canvas.paint(
            patient.tube([(292, 2, 5 * side), (298, 24, 46 * side)], [4, 4]), tissues["caval_blood"]
        )
    patient.paint("inferior_vena_cava", patient.tube(kava, [9, 11, 11, 12, 12, 12]), tissues["caval_blood"])
    aorta = [
        (492, -22, 4), (528, -32, -16), (556, -16, -8), (564, 6, 14), (548, 22, 25),
        (500, 30, 27), (430, 24, 22), (370, 12, 12), (310, -4, 7), (255, -7, 5), (206, -4, 2),
    ]  # fmt: skip
    radii = [15, 15, 14, 13, 13, 12.5, 12, 11, 10, 9.5, 9]
    patient.paint("aorta", patient.tube(aorta, radii, wander=1.0), tissues["arterial_blood"])
    bowel = [
        (303, -46, -30), (297, -28, -52), (268, -16, -58), (240, -14, -44), (232, -23, -14),
        (238, -26, 14), (262, -26, 32),
    ]  # fmt: skip
    duodenum = patient.tube(bowel, [11, 11.5, 11.5, 11, 10, 10.5, 11])
    patient.paint("duodenum", duodenum, tissues["gut_wall"])
    patient.paint("duodenum", duodenum.grow(-4.0), tissues["gut_fluid"])
    root = np.array([[300, -20, -12], [296, -20, 0], [240, -34, 6]], float)
    canvas.paint(patient.tube(root[1:].tolist(), [5, 4]), tissues["portal_blood"])
    splenic = patient.tube(
        [(300, -20, -12), (310, -16, 22), (322, 8, 52), (338, 24, 80)], [7, 5.5, 5, 5], wander=1.0
    )
    portal = patient.tube([(300, -20, -12), (322, -18, -28), (344, -14, -48)], [7.5, 8, 8], wander=1.0)
    branches = tube([(343, -14, -46), (354, -8, -72)], [canvas.thick(6.0)] * 2) | tube(
        [(338, -15, -40), (356, -32, -18)], [canvas.thick(5.5)] * 2
    )
    patient.paint(
        "portal_vein_and_splenic_vein", splenic | portal | branches, tissues["portal_blood"]
    )
    _paint_adrenals(patient)
    if rng.uniform() > 0.15:
        bladder = patient.ellipsoid((276, -56, -50), (30, 16, 15), 0.0, 25.0, 10.0)
        patient.paint("gallbladder", bladder, tissues["gut_wall"])
        patient.paint("gallbladder", bladder.grow(-2.0), tissues["bile"])
    filling = rng.uniform(0.75, 1.2)
    bladder = patient.ellipsoid((76, -18, 0), np.multiply((27, 30, 36), filling).tolist())
    patient.paint("bladder", bladder, tissues["muscle"] - 8.0)
    patient.paint("bladder", bladder.grow(-3.5), tissues["urine"])


def _paint_adrenals(patient: Patient) -> None:
    """Paints each adrenal as thin sheets that meet in front: a V on the right, a Y on the left."""
    for name, apex, limbs in (
        ("right_adrenal_gland", (348, 24, -34), [(20, -6), (16, 9)]),
        ("left_adrenal_gland", (338, 16, 36), [(18, -9), (17, 9), (-9, 1)]),
    ):
        origin, along = np.add(apex, patient.shift(1.5)), np.linspace(0.0, 1.0, 12)
        sheet = [
            origin + (z, back * t, left * t)
            for back, left in limbs
            for t in along
            for z in np.linspace(-14.0 + 6.0 * t, 14.0 - 6.0 * t, 12)
        ]
        radius = patient.canvas.thick(2.6 * patient.size())
        patient.paint(name, balls(np.array(sheet), radius), patient.tissues["adrenal"])
