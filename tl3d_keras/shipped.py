"""The base models that ship with the package: found by name, in a checkout and installed."""

import os
from pathlib import Path

_FOLDER = "saved_models"


def names() -> list[str]:
    """The names of the models that ship."""
    return sorted({p.parents[2].name for p in _folder().glob("*/*/assets.extra/tl3d_keras.json")})


def resolve(path: str | os.PathLike) -> Path:
    """The folder of the model that ships under that name; a path that exists stays as it is."""
    given = Path(path)
    if not given.exists() and str(path) in names():
        return _folder() / given
    return given


def _folder() -> Path:
    package = Path(__file__).parent
    # setup.py installs the folder inside the package; in a checkout it lies beside it.
    installed = package / _FOLDER
    return installed if installed.is_dir() else package.parent / _FOLDER
