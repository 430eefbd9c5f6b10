"""The page of `data_tools.inspect --html`: a set's structures, its cases and their coverage."""

import html
from collections.abc import Iterable, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from matplotlib.colors import to_hex

from data_tools import tables
from data_tools.records_page_style import (
    CASES_HEAD,
    CASES_TEXT,
    LEAD,
    SCRIPT,
    STRUCTURES_TEXT,
    STYLE,
)
from tl3d_keras import html_page, slices, thumbnails
from tl3d_keras.manifest import CaseEntry, Manifest

_STRUCTURES_A_COLUMN, _MAX_COLUMNS = 8, 3
_ACCENT = "#12677a"


class _Row(NamedTuple):
    """A case on the page.

    Attributes:
        case: its entry.
        voxels: the share of its voxels that are annotated.
        share: see `annotated_share`.
        volumes: ml of each structure of the set; None where it was not annotated.
    """

    case: CaseEntry
    voxels: float
    share: float
    volumes: list[float | None]


def annotated_share(content: Manifest, case: CaseEntry) -> float:
    """How much of a case is annotated, in [0, 1].

    It is the share of its voxels that are annotated, averaged over the structures of the set, of
    which those that were not annotated in the case count as 0.
    """
    structures = len(case.annotated_structures) / len(content.structures)
    return tables.annotated_voxels(case) * structures


def build(
    title: str,
    content: Manifest,
    cases: Sequence[CaseEntry],
    pictures: Iterable[bytes],
) -> str:
    """The page as HTML, worst case first.

    Worst is the smallest `annotated_share`; of equal ones, that with the most structures that were
    annotated and of which there is no voxel; then by name.

    Args:
        title: of the page.
        content: the set.
        cases: those to show.
        pictures: `thumbnails.jpeg` of each case, in the order of `cases`.
    """
    rows = [_row(content, case) for case in cases]
    worst = sorted(rows, key=lambda r: (r.share, -r.volumes.count(0), r.case.case_id))
    rank = {row.case.case_id: place for place, row in enumerate(worst)}
    name = {case_id: place for place, case_id in enumerate(sorted(rank))}
    largest = [max(row.volumes[k] or 0 for row in rows) for k in range(len(content.structures))]
    drawn = {}
    for row, picture in zip(rows, pictures, strict=True):
        case_id = row.case.case_id
        drawn[case_id] = _case(content, row, largest, (rank[case_id], name[case_id]), picture)
    body = "".join(drawn[row.case.case_id] for row in worst)
    table = f'<table class="cases">{_cases_head(content)}<tbody>{body}</tbody></table>'
    sections = [
        ("The set", html.escape(tables.summary(content)[-1]), _overview(content, rows)),
        ("Structures", STRUCTURES_TEXT, _structures(content, rows)),
        ("Cases", CASES_TEXT, table),
    ]
    whole = "".join(html_page.section(*parts) for parts in sections)
    return html_page.document(title, LEAD, whole, STYLE, SCRIPT)


def _row(content: Manifest, case: CaseEntry) -> _Row:
    ml = float(np.prod(content.spacing)) / 1000
    volumes = [
        ml * case.coverage[name]["voxels"] if name in case.annotated_structures else None
        for name in content.structures
    ]
    return _Row(case, tables.annotated_voxels(case), annotated_share(content, case), volumes)


def _overview(content: Manifest, rows: Sequence[_Row]) -> str:
    voxels = [row.voxels for row in rows]
    extremes = f"{min(voxels):.1%} to {max(voxels):.1%}"
    whole = sum(content.is_fully_labelled(row.case) for row in rows)
    shapes = np.array([row.case.shape[:3] for row in rows])
    values = [
        (str(len(rows)), "cases", f"{whole} with every structure annotated"),
        (str(len(content.structures)), "structures", f"in {', '.join(content.channels)}"),
        (f"{np.mean(voxels):.1%}", "of the voxels annotated", f"mean of the cases; {extremes}"),
        (
            html_page.times(np.median(shapes, axis=0)),
            f"voxels of {html_page.times(content.spacing)} mm",
            f"z, y, x; median; {html_page.times(shapes.min(axis=0))} to "
            f"{html_page.times(shapes.max(axis=0))}",
        ),
    ]
    lines = "".join(f"<li>{html.escape(note)}</li>" for note in tables.notes(content))
    return html_page.cards(values) + f'<ul class="notes">{lines}</ul>'


def _structures(content: Manifest, rows: Sequence[_Row]) -> str:
    lines = []
    for k, name in enumerate(content.structures):
        known = [(row, row.volumes[k]) for row in rows if row.volumes[k] is not None]
        found = sorted(volume for _, volume in known if volume)
        slice_count = sum(row.case.coverage[name]["slices"] for row, _ in known)
        share = len(known) / len(rows)
        cells = [
            f'<td class="share" style="--share:{share:.1%}">{len(known)} of {len(rows)}</td>',
            f"<td{'' if found else ' class=missing'}>{len(found)}</td>",
            f"<td>{slice_count}</td>",
            f"<td>{html_page.ml(float(np.median(found))) if found else '-'}</td>",
            f"<td>{html_page.ml(found[0])} to {html_page.ml(found[-1])}</td>"
            if found
            else "<td>-</td>",
        ]
        chip = f'<i class="chip" style="background:{_colour(k)}"></i>'
        lines.append(f"<tr><th>{chip}{html.escape(name)}</th>{''.join(cells)}</tr>")
    return (
        '<div class="wide"><table class="structures"><thead><tr><th>structure</th>'
        "<th>cases annotated</th><th>cases with it</th><th>slices with it</th><th>median ml</th>"
        f"<th>smallest to largest ml</th></tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def _cases_head(content: Manifest) -> str:
    # The keys of a row start with its rank, name, voxels, slices and structures.
    options = "".join(
        f'<option value="{k}">{html.escape(name)}</option>'
        for k, name in enumerate(content.structures, start=5)
    )
    return CASES_HEAD.format(options=options)


def _case(
    content: Manifest,
    row: _Row,
    largest: Sequence[float],
    places: tuple[int, int],
    picture: bytes,
) -> str:
    case, total = row.case, len(content.structures)
    slice_count = case.coverage["annotated"]["slices"]
    known = len(case.annotated_structures)
    keys = [*places, round(row.voxels, 6), slice_count, known]
    volumes = ["null" if v is None else f"{v:.6g}" for v in row.volumes]
    bars = (_structure_bar(name, k, row, largest[k]) for k, name in enumerate(content.structures))
    columns = min(_MAX_COLUMNS, -(-total // _STRUCTURES_A_COLUMN))
    width, height = thumbnails.SIZE
    name = html.escape(case.case_id)
    return (
        f'<tr data-keys="[{",".join([*map(str, keys), *volumes])}]">'
        f'<td><img loading="lazy" width="{width}" height="{height}" alt="slices of {name}" '
        f'src="{html_page.data_uri(picture, "jpeg")}"></td>'
        f"<td><h3>{name}</h3><p>{html_page.times(case.shape[:3])} voxels</p>"
        + _bar("voxels", row.voxels, f"{row.voxels:.1%}")
        + _bar("slices", slice_count / case.shape[0], f"{slice_count} of {case.shape[0]}")
        + _bar("structures", known / total, f"{known} of {total}")
        + f'</td><td><div class="scroll"><div style="columns:{columns}">{"".join(bars)}</div>'
        "</div></td></tr>"
    )


def _structure_bar(name: str, k: int, row: _Row, largest: float) -> str:
    volume, counts = row.volumes[k], row.case.coverage[name]
    if volume is None:
        return _bar(name, 0, "?", f"{name}: not annotated in this case", "unknown")
    if not volume:
        return _bar(name, 0, "none", f"{name}: annotated, and no voxel of it found", "missing")
    ml = html_page.ml(volume)
    tip = f"{name}: {counts['voxels']} voxels, {ml} ml, in {counts['slices']} slices"
    return _bar(name, volume / largest, ml, tip, "", _colour(k))


def _bar(
    name: str, share: float, value: str, tip: str = "", kind: str = "", colour: str = _ACCENT
) -> str:
    title = f' title="{html.escape(tip)}"' if tip else ""
    return (
        f'<div class="bar {kind}"{title}><span>{html.escape(name)}</span>'
        f'<i style="--s:{share:.1%};--c:{colour}"></i><b>{value}</b></div>'
    )


@cache
def _colour(k: int) -> str:
    colours = slices.palette()
    return to_hex(colours[k % len(colours)])
