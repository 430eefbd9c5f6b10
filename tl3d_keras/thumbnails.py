"""Small pictures of a case for pages that show hundreds; a figure of matplotlib takes too long."""

import io
from collections.abc import Sequence

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.image import imsave
from scipy import ndimage

from tl3d_keras.annotation import IGNORE
from tl3d_keras.slices import HATCH_COLOUR, PAPER, PLANES, best_slices, palette

SIDE, GAP = 156, 4
SIZE = (2 * SIDE + GAP, SIDE)

_FILL, _HATCH, _DIMMED = 0.45, 0.7, 0.55
_STRIPE_STEP, _STRIPE_WIDTH = 7, 2
_QUALITY = 82


def jpeg(
    image: np.ndarray,
    labels: np.ndarray,
    spacing: Sequence[float],
    window: tuple[float, float] | None = None,
) -> bytes:
    """An axial and a coronal slice side by side, each as large as its half allows.

    Args:
        image: [Z, Y, X], one channel, axes to superior, posterior, left.
        labels: integers [Z, Y, X], 0..K, IGNORE where unannotated: darker, and striped.
        spacing: (z, y, x) in mm.
        window: raw intensities shown as black and white; None: the 1st and 99th percentile of the
            slices.

    Returns:
        A JPEG file of `SIZE` (width, height) pixels.
    """
    chosen = best_slices(labels)
    planes = PLANES[:2]
    shown = [np.take(image, chosen[p.axis], p.axis) for p in planes]
    low, high = window or np.percentile(np.concatenate([s.ravel() for s in shown]), [1, 99])
    canvas = np.empty((SIDE, 2 * SIDE + GAP, 3))
    canvas[:] = to_rgb(PAPER)
    for index, (plane, grey) in enumerate(zip(planes, shown, strict=True)):
        extent = np.multiply(grey.shape, (spacing[plane.rows], spacing[plane.columns]))
        height, width = np.maximum(1, np.rint(extent * SIDE / extent.max())).astype(int)
        grey = np.clip((grey - low) / max(high - low, 1e-6), 0, 1)
        grey = _resized(grey, (height, width))
        values = _nearest(np.take(labels, chosen[plane.axis], plane.axis), (height, width))
        if plane.origin == "lower":
            grey, values = grey[::-1], values[::-1]
        top, left = (SIDE - height) // 2, index * (SIDE + GAP) + (SIDE - width) // 2
        canvas[top : top + height, left : left + width] = _coloured(grey, values)
    buffer = io.BytesIO()
    pixels = np.rint(255 * canvas).astype(np.uint8)
    imsave(buffer, pixels, format="jpg", pil_kwargs={"quality": _QUALITY})
    return buffer.getvalue()


def _resized(grey: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    factors = np.divide(shape, grey.shape)
    # Blurred first where it shrinks, or thin structures come and go with the grid.
    smooth = ndimage.gaussian_filter(grey, np.maximum(0, 1 / factors - 1) / 2)
    return ndimage.zoom(smooth, factors, order=1, mode="nearest", grid_mode=True)


def _nearest(labels: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    index = (
        ((np.arange(n) + 0.5) * old / n).astype(int)
        for n, old in zip(shape, labels.shape, strict=True)
    )
    return labels[np.ix_(*index)]


def _coloured(grey: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """RGB in [0, 1]: structures filled and outlined, what is unannotated dimmed and striped."""
    unannotated = labels == IGNORE
    structure = (labels != 0) & ~unannotated
    outline = ndimage.morphological_gradient(labels, 3) > 0
    diagonal = np.add.outer(*map(np.arange, labels.shape)) % _STRIPE_STEP
    strength = np.where(structure, np.where(outline, 1, _FILL), 0)
    strength[unannotated & (diagonal < _STRIPE_WIDTH)] = _HATCH
    colours = np.zeros((IGNORE + 1, 3))
    colours[1:IGNORE] = np.resize(palette(), (IGNORE - 1, 3))
    colours[IGNORE] = to_rgb(HATCH_COLOUR)
    base = np.where(unannotated, _DIMMED * grey, grey)[..., np.newaxis]
    return base + strength[..., np.newaxis] * (colours[labels] - base)
