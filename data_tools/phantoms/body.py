"""The standard body that every phantom varies: its outline, its cavity, diaphragm and spine.

Heights and positions are mm of that body: z up from the pelvic floor, y to the back from the middle
of the trunk, x to the patient's left from the midline.
"""

import numpy as np

from data_tools.phantoms.shapes import Shape, field, stack

# Rows of (z, half width, half depth, y of the middle) in mm.
_WALL = [
    (0, 160, 100, 0), (40, 165, 103, 0), (90, 166, 104, 0), (140, 158, 101, 0), (190, 147, 97, 0),
    (230, 139, 96, 0), (290, 141, 100, 0), (350, 146, 106, 0), (420, 149, 109, 0),
    (480, 150, 107, 0), (540, 162, 99, 0), (585, 156, 86, 2), (615, 122, 73, 6), (640, 74, 60, 10),
]  # fmt: skip
CAVITY = [
    (20, 30, 32, 10), (45, 48, 50, 5), (90, 66, 64, 0), (140, 100, 70, -8), (190, 116, 70, -16),
    (230, 120, 74, -17), (280, 126, 79, -14), (320, 130, 85, -9), (370, 133, 91, -4),
    (430, 131, 91, -1), (500, 121, 83, 2), (560, 98, 67, 8), (600, 66, 46, 12), (622, 22, 18, 12),
]  # fmt: skip
_SPINE_Z = [20, 60, 100, 150, 220, 280, 340, 420, 500, 560, 600, 640]
_SPINE_Y = [84, 84, 78, 50, 29, 27, 36, 46, 50, 46, 38, 26]
VERTEBRA_Z = np.concatenate(  # the middles, L5 to T1
    [168 + 36 * np.arange(5), [345, 374, 402, 429, 454.5, 479, 503, 526.5, 549.5, 572, 593.5, 614]]
)
TOP_OF_SACRUM = 150.0


def spine_y(z: float | np.ndarray) -> np.ndarray:
    """y (mm) of the middle of the vertebral bodies at height `z` (mm)."""
    return np.asarray(np.interp(z, _SPINE_Z, _SPINE_Y))


def spine_radius(z: float | np.ndarray) -> np.ndarray:
    """Half the depth (mm) of the vertebral bodies at height `z` (mm)."""
    return np.asarray(np.interp(z, [200, 340, 460, 560, 640], [21, 19, 16, 13, 11]))


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
    return stack(CAVITY)


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
