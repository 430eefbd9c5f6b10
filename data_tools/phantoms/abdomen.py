"""The labelled structures of the abdomen and the great vessels, painted from back to front.

Positions are (z, y, x) in mm of the standard body.
"""

import numpy as np

from data_tools.phantoms import body
from data_tools.phantoms.patient import Patient
from data_tools.phantoms.shapes import Shape, balls, ellipsoid, field, tube


def paint_upper_abdomen(patient: Patient) -> None:
    """Paints stomach, spleen, liver, kidneys and pancreas."""
    tissues, rng = patient.tissues, patient.rng
    room = body.cavity().grow(-4.0) & body.below_diaphragm(3.0)
    _paint_stomach(patient, room)
    spleen = patient.ellipsoid((360, 30, 102), (64, 54, 42), 0.0, -8.0, 0.0) & room
    spleen = spleen - ellipsoid((350, -2, 54), (50, 32, 30))
    patient.paint("spleen", spleen, tissues["spleen"])
    right = patient.ellipsoid((338, -4, -72), (98, 86, 72), 0.0, 10.0, 0.0)
    left = patient.ellipsoid((374, -46, -4), (36, 40, 62), 0.0, 8.0, 0.0)
    liver = right.blend(left, 30.0) & room
    # The bowel and the right kidney hollow its lower side.
    liver -= ellipsoid((258, -20, -5), (64, 62, 62)) | ellipsoid((276, 62, -58), (70, 48, 42))
    spread = rng.uniform(2.0, 7.0)
    patient.paint("liver", liver, lambda p, d: tissues["liver"] + spread * np.sin(p[2] / 41.0))
    for name, side, height in (("left_kidney", 1, 294), ("right_kidney", -1, 290)):
        center, length = (height, 39, side * 62), (54, 27, 30)
        kidney = patient.ellipsoid(center, length, side * 25.0, side * -10.0, 10.0)
        kidney = kidney & body.cavity().grow(-1.0)
        patient.canvas.paint(kidney.grow(4.0), tissues["fat"])
        hilum = ellipsoid(np.add(center, (0, -6, side * -22)), (22, 11, 24))
        patient.paint(name, kidney - hilum, tissues["renal_cortex"])
        patient.paint(name, kidney.grow(-8.0) - hilum, tissues["renal_medulla"])
        patient.canvas.paint(hilum & kidney, tissues["fat"] + 50.0)
    gland = [(278, -22, -36), (298, -34, -10), (309, -28, 22), (322, 0, 56), (334, 20, 80)]
    pancreas = patient.tube(gland, [14, 9, 9.5, 9.5, 8], wander=2.5)
    lobules = 6.0 * rng.uniform(0.5, 3.0)
    patient.paint(
        "pancreas", pancreas, lambda p, d: tissues["pancreas"] + lobules * np.sin(p[2] / 3) - 5
    )


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


def paint_great_vessels(patient: Patient) -> None:
    """Paints inferior vena cava and aorta with their branches in the belly."""
    canvas, tissues = patient.canvas, patient.tissues
    cava = [
        (204, 2, -12), (250, -4, -19), (300, 0, -22), (345, 8, -24), (385, 4, -25), (428, -10, -24)
    ]  # fmt: skip
    for side in (-1, 1):
        legs = [(206, -2, 3 * side), (165, 8, 26 * side), (110, -18, 48 * side)]
        veins = patient.tube([(z, y + 9, x) for z, y, x in legs], [8, 7, 7])
        veins |= patient.tube([(292, 2, 5 * side), (298, 24, 46 * side)], [4, 4])
        canvas.paint(veins, tissues["caval_blood"])
        canvas.paint(patient.tube(legs, [7, 6, 5]), tissues["arterial_blood"])
    vein = patient.tube(cava, [9, 11, 11, 12, 12, 12])
    patient.paint("inferior_vena_cava", vein, tissues["caval_blood"])
    aorta = [
        (492, -22, 4), (528, -32, -16), (556, -16, -8), (564, 6, 14), (548, 22, 25),
        (500, 30, 27), (430, 24, 22), (370, 12, 12), (310, -4, 7), (255, -7, 5), (206, -4, 2),
    ]  # fmt: skip
    radii = [15, 15, 14, 13, 13, 12.5, 12, 11, 10, 9.5, 9]
    patient.paint("aorta", patient.tube(aorta, radii, wander=1.0), tissues["arterial_blood"])


def paint_lower_abdomen(patient: Patient) -> None:
    """Paints duodenum, portal system, adrenals, gallbladder and bladder."""
    tissues, rng = patient.tissues, patient.rng
    bowel = [
        (303, -46, -30), (297, -28, -52), (268, -16, -58), (240, -14, -44), (232, -23, -14),
        (238, -26, 14), (262, -26, 32),
    ]  # fmt: skip
    duodenum = patient.tube(bowel, [11, 11.5, 11.5, 11, 10, 10.5, 11])
    patient.paint("duodenum", duodenum, tissues["gut_wall"])
    patient.paint("duodenum", duodenum.grow(-4.0), tissues["gut_fluid"])
    _paint_portal_system(patient)
    _paint_adrenals(patient)
    if rng.uniform() > 0.15:
        bladder = patient.ellipsoid((276, -56, -50), (30, 16, 15), 0.0, 25.0, 10.0)
        patient.paint("gallbladder", bladder, tissues["gut_wall"])
        patient.paint("gallbladder", bladder.grow(-2.0), tissues["bile"])
    filling = rng.uniform(0.75, 1.2)
    bladder = patient.ellipsoid((76, -18, 0), np.multiply((27, 30, 36), filling).tolist())
    patient.paint("bladder", bladder, tissues["muscle"] - 8.0)
    patient.paint("bladder", bladder.grow(-3.5), tissues["urine"])


def _paint_portal_system(patient: Patient) -> None:
    canvas, blood = patient.canvas, patient.tissues["portal_blood"]
    canvas.paint(patient.tube([(296, -20, 0), (240, -34, 6)], [5, 4]), blood)
    splenic = [(300, -20, -12), (310, -16, 22), (322, 8, 52), (338, 24, 80)]
    portal = [(300, -20, -12), (322, -18, -28), (344, -14, -48)]
    veins = patient.tube(splenic, [7, 5.5, 5, 5], wander=1.0)
    veins |= patient.tube(portal, [7.5, 8, 8], wander=1.0)
    veins |= tube([(343, -14, -46), (354, -8, -72)], [canvas.thick(6.0)] * 2)
    veins |= tube([(338, -15, -40), (356, -32, -18)], [canvas.thick(5.5)] * 2)
    patient.paint("portal_vein_and_splenic_vein", veins, blood)


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
