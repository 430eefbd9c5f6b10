"""The head of the page of `experiments.segment --report`: all scans in a table."""

import html
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tl3d_keras import html_page
from tl3d_keras.text_table import number


@dataclass(frozen=True)
class Row:
    """A scan.

    Attributes:
        name: of the scan.
        found: how many structures were found in it.
        marked: how many of their volumes are marked.
        dice: the mean of its structures, where there is a reference.
        note: what went wrong with it.
    """

    name: str
    found: int = 0
    marked: int = 0
    dice: float | None = None
    note: str = ""


def overview(rows: Sequence[Row], structures: int, known: int) -> str:
    """Cards and a table, which has a column of what at least one scan has.

    Args:
        rows: the scans.
        structures: how many the model knows.
        known: of how many it has a range of volumes.
    """
    dice = [row.dice for row in rows if row.dice is not None]
    failed = sum(bool(row.note) for row in rows)
    cards = [
        (
            str(len(rows)),
            "scan" if len(rows) == 1 else "scans",
            f"{failed} with a problem" if failed else "all done",
        ),
        (
            str(sum(row.marked for row in rows)) if known else "-",
            "volumes marked",
            f"known ranges of {known} of {structures} structures"
            if known
            else "no range known: the model has none from training",
        ),
    ]
    columns = [
        ("scan", [f"<th>{html.escape(row.name)}</th>" for row in rows]),
        ("structures found", [f"<td>{row.found} of {structures}</td>" for row in rows]),
    ]
    if known:
        marks = [f"<td{mark_class(row.marked)}>{row.marked}</td>" for row in rows]
        columns.append(("marked", marks))
    if dice:
        cards.append((number(float(np.mean(dice)), 3), "mean Dice", "against the references"))
        columns.append(("Dice", [f"<td>{number(row.dice, 3)}</td>" for row in rows]))
    if failed:
        columns.append(("problem", [f"<td>{html.escape(row.note)}</td>" for row in rows]))
    heads = "".join(f"<th>{title}</th>" for title, _ in columns)
    kind = "scans with_problems" if failed else "scans"
    lines = "".join(
        f"<tr>{''.join(cells)}</tr>" for cells in zip(*(c for _, c in columns), strict=True)
    )
    return (
        f'{html_page.cards(cards)}<div class="wide"><table class="{kind}"><thead><tr>{heads}</tr>'
        f"</thead><tbody>{lines}</tbody></table></div>"
    )


def mark_class(marked: object) -> str:
    """The attribute of what is marked."""
    return ' class="mark"' if marked else ""
