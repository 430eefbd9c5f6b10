"""The files that say what a study found, from the cells that are done so far."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import ConfigDict

from tl3d_keras import figure_file, json_file
from tl3d_keras.errors import InputError
from tl3d_keras.html_page import Picture
from tl3d_keras.study import figures, findings, outcome, page, tables
from tl3d_keras.study.findings import Findings
from tl3d_keras.study.outcome import CellKey
from tl3d_keras.whole_folder import write_file

_PLAN_FILE = "study.json"
_CURVES = "Dots are single seeds, bars 95 % bootstrap intervals over the test cases."


@dataclass(frozen=True)
class PlannedCell:
    """A cell of a study, done or not.

    Attributes:
        key: where it stands.
        annotated_slices: that it is trained on, of all its cases together.
    """

    key: CellKey
    annotated_slices: int
    __pydantic_config__ = ConfigDict(extra="forbid")


@dataclass(frozen=True)
class Plan:
    """What a study's folder is to hold.

    Attributes:
        description: of the study.
        baseline: name of the mode that gains are measured against.
        cells: all of them.
        twins: task -> base -> the base that its baseline is filed under, if it is another.
    """

    description: str
    baseline: str
    cells: Sequence[PlannedCell]
    twins: Mapping[str, Mapping[str, str]]
    __pydantic_config__ = ConfigDict(extra="forbid")


def save_plan(plan: Plan, folder: Path) -> None:
    """Writes the plan into the study's folder."""
    write_file(folder / _PLAN_FILE, f"{json.dumps(asdict(plan), indent=1)}\n".encode())


def load_plan(folder: Path) -> Plan:
    """Reads it.

    Raises:
        InputError: there is none, or it is damaged.
    """
    path = folder / _PLAN_FILE
    content = json_file.read_object(path, "a folder that experiments.size_study has written")
    return json_file.typed(content, Plan, f"{path}: not the plan of a study")


def write(folder: Path) -> Findings:
    """Writes results.csv, table.md, learning_curves.png, report.html into a study's folder.

    With sizes in slices, also effort_curves.png.

    Raises:
        InputError: no study's folder, or no cell is done yet.
    """
    plan = load_plan(folder)
    outcomes = outcome.read(folder, [cell.key for cell in plan.cells])
    if not outcomes:
        raise InputError(f"{folder}: expected at least one cell that is done, found none")
    twins = {(task, base): twin for task, of in plan.twins.items() for base, twin in of.items()}
    slices = {cell.key: cell.annotated_slices for cell in plan.cells}
    found = findings.find(outcomes, plan.baseline, twins, slices)
    write_file(folder / "results.csv", outcome.to_csv(outcomes))
    write_file(folder / "table.md", tables.markdown(found).encode())
    pictures = []
    drawn = {
        "learning_curves": ("Learning curves", figures.learning_curves(found)),
        "effort_curves": ("By annotated slices", figures.effort_curves(found)),
    }
    for name, (title, figure) in drawn.items():
        if figure:
            png = figure_file.png(figure)
            write_file(folder / f"{name}.png", png)
            pictures.append(Picture(title, _CURVES, png))
    html = page.page(found, pictures, plan.description)
    write_file(folder / "report.html", html.encode())
    return found
