"""Scores as `metrics.json` and `metrics.csv`, and as a table."""

import csv
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tl3d_keras import json_file
from tl3d_keras.errors import InputError
from tl3d_keras.evaluation import METRICS, Scores, Summary
from tl3d_keras.text_table import aligned, number


@dataclass(frozen=True)
class _Content:
    summary: Summary
    cases: dict[str, Any]


def write(folder: Path, scores: Mapping[str, Mapping[str, Scores]], result: Summary) -> None:
    """Writes both files into `folder`.

    Args:
        folder: exists.
        scores: case -> structure -> its scores.
        result: their summary.
    """
    per_case = {
        case: {name: asdict(s) for name, s in found.items()} for case, found in scores.items()
    }
    content = {"summary": asdict(result), "cases": per_case}
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    (folder / "metrics.json").write_text(text, "utf-8")
    with open(folder / "metrics.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["case", "structure", *METRICS])
        writer.writeheader()
        for case, found in per_case.items():
            writer.writerows(
                {"case": case, "structure": name, **values} for name, values in found.items()
            )


def read(folder: Path) -> dict[str, Any]:
    """The content of `folder/metrics.json`: `summary` as `Summary` has it, and `cases`.

    Raises:
        InputError: it is missing, or not what `write` writes.
    """
    path = folder / "metrics.json"
    content = json_file.read_object(path, "a folder that experiments.evaluate has written")
    refusal = f"{path}: not scores of experiments.evaluate"
    found = json_file.typed(content, _Content, refusal)
    missing = [metric for metric in METRICS if metric not in found.summary.mean]
    if missing:
        raise InputError(f"{refusal}: no mean of {missing[0]}")
    return content


def table(result: Summary) -> list[str]:
    """The means as lines of text: structures down, scores across, and the mean Dice of all.

    A HD95 that not all of the cases have is followed by how many do.
    """
    rows = [("structure", "cases", "Dice", "HD95 mm", "NSD", "volume ml", "volume %")]
    for name, found in result.structures.items():
        dice, hd95, nsd, volume, relative = (found[metric].mean for metric in METRICS)
        percent = None if relative is None else 100 * relative
        cases = found["dice"].count
        # A structure missed whole has Dice 0 and no distance: the mean may be that of the others.
        fewer = found["hd95_mm"].count < cases and hd95 is not None
        rows.append(
            (
                name,
                str(cases),
                number(dice, 4),
                number(hd95, 2) + (f" of {found['hd95_mm'].count}" if fewer else ""),
                number(nsd, 4),
                number(volume, 2),
                number(percent, 1),
            )
        )
    return [*aligned(rows), f"overall mean Dice: {number(result.mean['dice'], 4)}"]
