"""The page of `experiments.segment --report`: what was found in each scan, to be looked through."""

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from matplotlib.colors import to_hex

from tl3d_keras import annotation, html_page, resampling, slice_sheets, slices
from tl3d_keras.evaluation import Scores
from tl3d_keras.segmentation_overview import Row, mark_class, overview
from tl3d_keras.segmentation_page_style import (
    LEAD,
    OVERVIEW_TEXT,
    PROVENANCE_TEXT,
    SCRIPT,
    STYLE,
)
from tl3d_keras.slice_sheets import Sheet
from tl3d_keras.text_table import number
from tl3d_keras.volume_ranges import VolumeRange
from tl3d_keras.volumes import Volume
from tl3d_keras.whole_folder import write_file

_TITLE = "Segmentation"
# Over all scans, so that a page stays one that a browser opens.
_MOST_SLICES_A_PLANE, _LEAST_SLICES = 640, 8
_ROWS_SIDE_BY_SIDE = 5
_MARKS = {
    "": ("", "within the known range"),
    "low": ("&#9660; ", "below the known range"),
    "high": ("&#9650; ", "above the known range"),
    "missing": ("&#8709; ", "nothing found, in training it was there"),
}


class SegmentationReport:
    """Gathers scans and writes the page.

    Args:
        structures: names of labels 1..K.
        channel: name of the model's first channel, which is shown.
        ranges: the known volumes by structure; those without one are "no range known".
        provenance: what made the segmentations, as (title, value) in words.
        scans: how many there will be; the more, the fewer slices of each.
    """

    def __init__(
        self,
        structures: Sequence[str],
        channel: str,
        ranges: Mapping[str, VolumeRange],
        provenance: Sequence[tuple[str, str]],
        scans: int,
    ) -> None:
        self._structures = structures
        self._window = slices.window_of(channel)
        self._ranges = ranges
        self._provenance = provenance
        fair_share = max(_LEAST_SLICES, _MOST_SLICES_A_PLANE // max(scans, 1))
        self._most_slices = min(slice_sheets.MOST_SLICES, fair_share)
        self._rows: list[Row] = []
        self._sections: list[str] = []

    def add(
        self,
        name: str,
        image: Volume,
        labels: Volume,
        facts: Sequence[tuple[str, str]] = (),
        scores: Mapping[str, Scores] | None = None,
    ) -> None:
        """Adds a scan.

        Args:
            name: of the scan.
            image: as read from its file; the first channel is shown.
            labels: uint8 [Z, Y, X, 1] on its grid.
            facts: its files and the like, as (title, value) in words.
            scores: structure -> its scores against a reference, if there is one.
        """
        array = labels.array[..., 0]
        counts = annotation.counts_by_slice(array).sum(axis=0)[: len(self._structures) + 1]
        axes = np.reshape(image.direction, (3, 3)) * image.spacing[::-1]
        volumes = counts[1:] * abs(np.linalg.det(axes)) / 1000
        verdicts = [
            self._ranges[structure].verdict(volume) if structure in self._ranges else ""
            for structure, volume in zip(self._structures, volumes, strict=True)
        ]
        shown = resampling.canonical(image.with_array(image.array[..., :1]))
        sheets = slice_sheets.make(
            shown.array[..., 0],
            resampling.canonical(labels).array[..., 0],
            shown.spacing,
            self._window,
            self._most_slices,
        )
        dice = [s.dice for s in (scores or {}).values() if s.dice is not None]
        self._rows.append(
            Row(
                name,
                int(np.count_nonzero(volumes)),
                sum(map(bool, verdicts)),
                float(np.mean(dice)) if dice else None,
            )
        )
        table = self._structure_table(volumes.tolist(), verdicts, scores)
        content = f'<div class="scan">{_viewer(sheets)}{table}</div>{_facts(facts)}'
        shape, spacing = html_page.times(image.shape), html_page.times(image.spacing)
        grid = f"{shape} voxels of {spacing} mm (z, y, x)"
        self._sections.append(html_page.section(name, grid, content))

    def add_note(self, name: str, note: str) -> None:
        """Adds what went wrong with a scan, which may have been added before."""
        if self._rows and self._rows[-1].name == name:
            self._rows[-1] = replace(self._rows[-1], note=note)
        else:
            self._rows.append(Row(name, note=note))

    def write(self, path: Path) -> None:
        """Writes the page, which appears when whole.

        Raises:
            InputError: the place cannot be written.
        """
        count = len(self._rows)
        known = len(set(self._ranges) & set(self._structures))
        scans = "one scan" if count == 1 else f"{count} scans"
        sections = [
            html_page.section(
                "Overview", OVERVIEW_TEXT, overview(self._rows, len(self._structures), known)
            ),
            *self._sections,
            html_page.section("Provenance", PROVENANCE_TEXT, _facts(self._provenance)),
        ]
        colours = [[round(255 * part) for part in colour] for colour in slices.palette()]
        script = SCRIPT.replace("COLOURS", json.dumps(colours), 1)
        page = html_page.document(
            _TITLE, LEAD.format(scans=scans), "".join(sections), STYLE, script
        )
        write_file(path, page.encode())

    def _structure_table(
        self,
        volumes: Sequence[float],
        verdicts: Sequence[str],
        scores: Mapping[str, Scores] | None,
    ) -> str:
        heads = "<th>Dice</th><th>HD95 mm</th>" if scores is not None else ""
        colours = slices.palette()
        lines = []
        for k, (name, volume, verdict) in enumerate(
            zip(self._structures, volumes, verdicts, strict=True)
        ):
            mark, tip = _MARKS[verdict]
            found = self._ranges.get(name)
            known = '<td class="soft">no range known</td>'
            if found:
                known = (
                    f'<td title="{found.cases} training cases">{html_page.ml(found.low)} to '
                    f"{html_page.ml(found.high)}</td>"
                )
            else:
                tip = "no range known"
            score = ""
            if scores is not None:
                own = scores.get(name)
                score = (
                    f"<td>{number(own.dice if own else None, 3)}</td>"
                    f"<td>{number(own.hd95_mm if own else None, 1)}</td>"
                )
            lines.append(
                f'<tr><th style="--c:{to_hex(colours[k % len(colours)])}"><label>'
                f'<input type="checkbox" value="{k + 1}" checked><i class="chip"></i>'
                f"{html.escape(name)}</label></th>"
                f'<td title="{tip}"{mark_class(mark)}>{mark}{html_page.ml(volume)}</td>'
                f"{known}{score}</tr>"
            )
        half = len(lines) if len(lines) <= _ROWS_SIDE_BY_SIDE else -(-len(lines) // 2)
        tables = "".join(
            '<table class="structures"><thead><tr><th>structure</th><th>ml</th>'
            f"<th>known ml</th>{heads}</tr></thead><tbody>{''.join(lines[i : i + half])}"
            "</tbody></table>"
            for i in range(0, len(lines), half)
        )
        return f'<div class="tables">{tables}</div>'


def _viewer(sheets: Sequence[Sheet]) -> str:
    return (
        f'<div class="viewer"><div class="planes">{"".join(map(_plane, sheets))}</div>'
        '<label class="overlay">overlay <input type="range" class="opacity" min="0" max="100" '
        'value="45"></label><noscript>The slices need JavaScript.</noscript></div>'
    )


def _plane(sheet: Sheet) -> str:
    name = sheet.plane.name
    edges = "".join(f"<b>{letter}</b>" for letter in sheet.plane.edges)
    return (
        # At one scale: each picture's share of the width is that of its pixels.
        f'<figure class="plane" style="flex:{sheet.width} 1 0" data-columns="{sheet.columns}" '
        f'data-count="{sheet.count}" data-slices="{json.dumps(sheet.slices)}">'
        f'<div class="frame"><canvas width="{sheet.width}" height="{sheet.height}" role="img" '
        f'aria-label="{name} slice"></canvas>{edges}</div>'
        f'<input type="range" min="0" max="{len(sheet.slices) - 1}" value="{sheet.first}" '
        f'aria-label="{name} slice"><figcaption>{name} <output></output></figcaption>'
        f'<img hidden alt="" src="{html_page.data_uri(sheet.grey, "jpeg")}">'
        f'<img hidden alt="" src="{html_page.data_uri(sheet.labels, "png")}"></figure>'
    )


def _facts(facts: Sequence[tuple[str, str]]) -> str:
    rows = "".join(
        f"<tr><th>{html.escape(title)}</th><td>{html.escape(value)}</td></tr>"
        for title, value in facts
    )
    return f'<table class="facts files">{rows}</table>' if rows else ""
