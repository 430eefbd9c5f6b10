"""Files that a list or a header names: inside its folder, wherever the links there lead."""

import os
from pathlib import Path


def named_file(folder: Path, name: str) -> Path | None:
    """The file `name` of `folder`, or None if the name leads, or may lead, out of it.

    Anybody may have written the name, so neither `..` nor an absolute path gets out of the folder.
    Links may: whoever filled the folder put them there.
    """
    file = folder / name
    within = Path(os.path.abspath(file)).is_relative_to(os.path.abspath(folder))
    # Behind a link, `..` is the folder around its target.
    return file if within and ".." not in Path(name).parts else None
