"""`metrics.csv` of a training run: a row an epoch, in UTF-8 whatever the system prefers."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tl3d_keras.errors import InputError
from tl3d_keras.whole_folder import write_file

FILE_NAME = "metrics.csv"


def read(folder: Path) -> list[dict[str, str]]:
    """The rows of a run's folder, as texts by column.

    Raises:
        InputError: there is no such file, or it is no CSV file in UTF-8.
    """
    path = folder / FILE_NAME
    try:
        with open(path, encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))
    except OSError as error:
        raise InputError(
            f"{path}: cannot read: {error.strerror}; expected a folder that a training run has "
            "written"
        ) from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a CSV file in UTF-8: {error}") from error


def write(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes rows, whose columns may differ, in place of what is there.

    Raises:
        InputError: it cannot be written; what was there before stays.
    """
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = [columns, *([row.get(name, "") for name in columns] for row in rows)]
    text = io.StringIO(newline="")
    csv.writer(text).writerows(lines)
    write_file(folder / FILE_NAME, text.getvalue().encode())
