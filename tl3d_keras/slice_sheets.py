"""The slices of a volume and of its labels in one picture file each, to be leafed through."""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from tl3d_keras.slices import PLANES, Plane, best_slices

# Pixels of the longer side of an axial slice; a long scan is up to twice as high in the others.
SIDE = 256
MOST_SLICES = 64

_QUALITY = 80


@dataclass(frozen=True)
class Sheet:
    """Slices along one axis, row by row in tiles of one size.

    Attributes:
        plane: of the slices.
        width: of a tile, in pixels.
        height: likewise.
        columns: tiles in a row.
        slices: their places along the axis, ascending.
        count: how many slices the volume has along the axis.
        first: index in `slices` of the one with most of the structures.
        grey: JPEG file of the image.
        labels: PNG file whose grey values are the labels.
    """

    plane: Plane
    width: int
    height: int
    columns: int
    slices: tuple[int, ...]
    count: int
    first: int
    grey: bytes
    labels: bytes


def make(
    image: np.ndarray,
    labels: np.ndarray,
    spacing: Sequence[float],
    window: tuple[float, float] | None = None,
    most_slices: int = MOST_SLICES,
) -> list[Sheet]:
    """Draws the sheets of the three planes at one scale.

    Args:
        image: [Z, Y, X], one channel, axes to superior, posterior, left.
        labels: uint8 [Z, Y, X].
        spacing: (z, y, x) in mm.
        window: raw intensities shown as black and white; None: the 1st and 99th percentile.
        most_slices: along an axis with more, they are evenly spread.
    """
    z, y, x = np.multiply(image.shape, spacing)
    pixels = np.multiply(image.shape, spacing) * SIDE / max(y, x, z / 2)
    size = [max(1, round(n)) for n in pixels.tolist()]
    low, high = window or np.percentile(image, [1, 99])
    best = best_slices(labels)
    sheets = []
    for plane in PLANES:
        count = image.shape[plane.axis]
        slices = np.linspace(0, count - 1, min(count, most_slices)).round().astype(int)
        first = int(np.abs(slices - best[plane.axis]).argmin())
        slices[first] = best[plane.axis]
        width, height = size[plane.columns], size[plane.rows]
        columns = math.ceil(math.sqrt(len(slices)))
        shape = (width * columns, height * math.ceil(len(slices) / columns))
        grey_sheet, label_sheet = Image.new("L", shape), Image.new("L", shape)
        for tile, index in enumerate(slices):
            corner = (tile % columns * width, tile // columns * height)
            grey = (np.take(image, index, plane.axis) - low) / max(high - low, 1e-6)
            for sheet, pixels_of, filter_ in (
                (grey_sheet, 255 * np.clip(grey, 0, 1), Image.Resampling.BILINEAR),
                (label_sheet, np.take(labels, index, plane.axis), Image.Resampling.NEAREST),
            ):
                upright = pixels_of[::-1] if plane.origin == "lower" else pixels_of
                picture = Image.fromarray(np.rint(upright).astype(np.uint8))
                sheet.paste(picture.resize((width, height), filter_), corner)
        sheets.append(
            Sheet(
                plane,
                width,
                height,
                columns,
                tuple(slices.tolist()),
                count,
                first,
                _file(grey_sheet, "JPEG", quality=_QUALITY),
                _file(label_sheet, "PNG"),
            )
        )
    return sheets


def _file(picture: Image.Image, kind: str, **settings: int) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format=kind, **settings)
    return buffer.getvalue()
