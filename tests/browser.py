"""Looks at a page in a real browser without a window."""

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
from matplotlib.image import imread

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PATH = next((path for name in NAMES if (path := shutil.which(name))), None)

_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--enable-logging=stderr",
)


def look(
    page: Path, folder: Path, size: tuple[int, int] = (1400, 1500)
) -> tuple[np.ndarray, list[str]]:
    """Opens a page.

    Args:
        page: an .html file.
        folder: a new one, for the picture and the browser's own files.
        size: (width, height) of the window in pixels.

    Returns:
        RGB uint8 [height, width, 3], and what the page said on the console.
    """
    picture = folder / "page.png"
    assert PATH is not None
    result = subprocess.run(
        [
            PATH,
            *_FLAGS,
            f"--user-data-dir={folder / 'profile'}",
            f"--window-size={size[0]},{size[1]}",
            f"--screenshot={picture}",
            page.resolve().as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    said = re.findall(r"CONSOLE.*", result.stderr)
    return (255 * imread(picture)[..., :3]).round().astype(np.uint8), said
