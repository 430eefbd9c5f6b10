"""Figures of matplotlib as PNG files."""

import io
import os
import warnings
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from tl3d_keras.errors import InputError
from tl3d_keras.whole_folder import write_file


def png(figure: Figure) -> bytes:
    """The figure as the bytes of a PNG file, trimmed to what is drawn."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # A structure's name may be in a script that the font lacks; its boxes harm nobody.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(buffer, format="png", dpi=110, bbox_inches="tight", pad_inches=0.12)
    return buffer.getvalue()


def save_png(figure: Figure, path: str | os.PathLike) -> None:
    """Writes the figure as a PNG file, which appears when whole.

    Raises:
        InputError: the name does not end in .png, or the place cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise InputError(f"{path}: expected a file name that ends in .png")
    write_file(path, png(figure))


def show_names_as_they_are(legend: Any) -> None:
    """Keeps a legend from reading structures' names as formulas."""
    for text in legend.get_texts():
        text.set_parse_math(False)
