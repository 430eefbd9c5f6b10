"""Which slices of a volume are shown: which way up, in which window, in which colours."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from matplotlib import colormaps

from tl3d_keras.annotation import IGNORE
from tl3d_keras.errors import InputError

# Soft tissue, as radiologists look at it, in HU.
CT_WINDOW = (-160.0, 240.0)
PAPER = "#15181e"
HATCH_COLOUR = "#f2c14e"

_COLOUR_MAPS = (("tab10", 10), ("tab20", 20), ("tab20b", 20))


class Plane(NamedTuple):
    """How a plane is shown: arrays run superior, posterior, left; the viewer stands at the feet."""

    name: str
    axis: int
    rows: int
    columns: int
    origin: Literal["upper", "lower"]
    # What lies at the left, right, upper and lower edge.
    edges: str


PLANES = (
    Plane("axial", 0, 1, 2, "upper", "RLAP"),
    Plane("coronal", 1, 0, 2, "lower", "RLSI"),
    Plane("sagittal", 2, 0, 1, "lower", "APSI"),
)


def window_of(channel: str) -> tuple[float, float] | None:
    """The window to show a channel in: soft tissue for CT, None (percentiles) for all others."""
    return CT_WINDOW if channel.upper() == "CT" else None


def palette() -> list[tuple[float, ...]]:
    """The colours of labels 1, 2, ..., none of them grey; they come round again after the last."""
    colours = [
        tuple(map(float, colour[:3]))
        for name, count in _COLOUR_MAPS
        for colour in colormaps[name](range(count))
    ]
    return list(dict.fromkeys(c for c in colours if max(c) - min(c) > 0.1))


def best_slices(labels: np.ndarray) -> tuple[int, int, int]:
    """The slice along each axis with the most voxels of structures.

    Without any structure it is the one with the most annotated voxels; of equal ones, the middle.

    Args:
        labels: uint8 [Z, Y, X], IGNORE where unannotated.

    Returns:
        Indices (z, y, x).
    """
    wanted = (labels != 0) & (labels != IGNORE)
    if not wanted.any():
        wanted = labels != IGNORE
    z, y, x = (_middle_of_largest(wanted.sum((p.rows, p.columns))) for p in PLANES)
    return z, y, x


def check_labels(
    image: np.ndarray, labels: np.ndarray, structures: Sequence[str], row: str = ""
) -> None:
    """Raises an `InputError`, which starts with `row`, unless image and labels can be shown."""
    what = f"{row}: " if row else ""
    if labels.ndim != 3 or labels.shape != image.shape:
        raise InputError(
            f"{what}expected labels [Z, Y, X] of the image's shape {image.shape}, "
            f"found {labels.shape}"
        )
    named = labels[labels != IGNORE]
    if named.size and not 0 <= named.min() <= named.max() <= len(structures):
        wrong = named.min() if named.min() < 0 else named.max()
        raise InputError(
            f"{what}expected labels 0 to {len(structures)} or {IGNORE} (unannotated), found {wrong}"
        )


def _middle_of_largest(counts: np.ndarray) -> int:
    largest = np.flatnonzero(counts == counts.max())
    return int(largest[len(largest) // 2])
