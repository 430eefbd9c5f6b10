"""Seeded CT-like volumes of chest and abdomen with 22 labelled structures."""

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from data_tools.phantoms import abdomen, background, thorax
from data_tools.phantoms.patient import Patient
from data_tools.phantoms.shapes import Canvas
from data_tools.phantoms.texture import draw_tissues, scan, smooth_field
from tl3d_keras.paper import STRUCTURES

DESCRIPTION = "Synthetic CT of chest and abdomen"
CHANNEL = "CT"

_MIDDLE_Z = 330.0  # mm of the standard body that lie in the middle of the field of view
_HEIGHT = 616.0  # mm of the standard body to be seen, from pelvic floor to neck
_SQUEEZE = 1.35  # how far width and height may be scaled apart


def generate(
    seed: int, shape: tuple[int, int, int], spacing: tuple[float, float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Makes one case; the same arguments always make the same one.

    The array runs to patient left along x, to the back along y and up along z (LPS, no rotation).
    The body is scaled to the field of view, so that every structure is inside; about one case in
    seven has no gallbladder.

    Args:
        seed: any non-negative integer.
        shape: (Z, Y, X) in voxels, each at least 16.
        spacing: (z, y, x) in mm.

    Returns:
        Image int16 [Z, Y, X] in HU, and labels uint8 [Z, Y, X]: 0 or 1 + the index in `STRUCTURES`.
    """
    # Apart, so that a seed is much the same patient on every grid.
    rng, waves, noise = np.random.default_rng(seed).spawn(3)
    tissues, fat = draw_tissues(rng), float(rng.uniform(4.0, 28.0))
    scale = _fit(rng, shape, spacing, fat)
    steps = np.asarray(spacing) / scale
    straight = _straight_positions(shape, steps)
    canvas = Canvas(straight, steps, tissues["air"])
    background.paint_table(canvas, tissues, 104.0 + fat, rng)
    canvas.place(_deformed_positions(rng, waves, straight, steps))
    texture = smooth_field(waves, shape, steps.tolist(), 30.0)
    fine = smooth_field(waves, shape, steps.tolist(), 12.0)
    patient = Patient(canvas, tissues, rng, texture, fine)
    background.paint_body(canvas, tissues, fat, texture, fine)
    thorax.paint_lungs(patient)
    background.paint_bowel(canvas, tissues, rng)
    abdomen.paint_upper_abdomen(patient)
    thorax.paint_back(patient)
    thorax.paint_chest(patient)
    abdomen.paint_great_vessels(patient)
    abdomen.paint_lower_abdomen(patient)
    soft = canvas.hu > -150.0
    canvas.hu[soft] += (3.0 * texture + 4.0 * fine)[soft]
    return scan(canvas.hu, noise), _largest_parts(canvas.labels)


def _fit(
    rng: np.random.Generator,
    shape: tuple[int, int, int],
    spacing: tuple[float, float, float],
    fat: float,
) -> np.ndarray:
    """Scale (z, y, x) from standard-body mm to mm: the field of view decides, then the patient."""
    view = np.multiply(shape, spacing)
    height = min(view[0] / _HEIGHT, 1.1)
    across = min(view[2] / (350.0 + 2.4 * fat), view[1] / (268.0 + 2.0 * fat), 1.1)
    across = min(across, _SQUEEZE * height)
    height = min(height, _SQUEEZE * across)
    return np.array([height, across, across]) * rng.uniform((0.94, 0.93, 0.93), 1.0)


def _straight_positions(shape: tuple[int, int, int], steps: np.ndarray) -> np.ndarray:
    """Standard-body positions, float32 [3, Z, Y, X], of the voxels before turn and deformation."""
    axes = [(np.arange(n) - (n - 1) / 2) * step for n, step in zip(shape, steps, strict=True)]
    axes[0] += _MIDDLE_Z
    axes[1] += 16.0  # the table takes room behind the patient
    return np.stack(np.meshgrid(*axes, indexing="ij")).astype(np.float32)


def _deformed_positions(
    rng: np.random.Generator, waves: np.random.Generator, straight: np.ndarray, steps: np.ndarray
) -> np.ndarray:
    """The positions after a small turn of the body and a smooth deformation of some 5 mm."""
    turn = Rotation.from_euler("xyz", rng.uniform(-1, 1, 3) * (4.0, 2.0, 2.0), degrees=True)
    middle = np.array([_MIDDLE_Z, 0.0, 0.0], np.float32).reshape(3, 1, 1, 1)
    turned = np.tensordot(turn.as_matrix().astype(np.float32), straight - middle, axes=1) + middle
    for axis in range(3):
        wave = smooth_field(waves, straight.shape[1:], steps.tolist(), 110.0)
        turned[axis] += 5.0 * np.clip(wave, -2.0, 2.0)
    return turned


def _largest_parts(labels: np.ndarray) -> np.ndarray:
    """Clears what painting cut off: each structure keeps its largest 26-connected part."""
    touching = np.ones((3, 3, 3), bool)
    for number, box in enumerate(ndimage.find_objects(labels, max_label=len(STRUCTURES)), start=1):
        if box is None:
            continue
        block = labels[box]
        parts, count = ndimage.label(block == number, structure=touching)
        if count > 1:
            sizes = np.bincount(parts.ravel())[1:]
            block[(parts > 0) & (parts != 1 + sizes.argmax())] = 0
    return labels
