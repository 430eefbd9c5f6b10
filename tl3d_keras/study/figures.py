"""Learning curves of a study."""

from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

from tl3d_keras.figure_file import show_names_as_they_are
from tl3d_keras.slices import palette
from tl3d_keras.study.findings import Findings, Point
from tl3d_keras.study.tables import size

_PANELS_A_ROW = 3
_BASELINE_COLOUR = "#6d7685"
_LINES = ("-", "--", "-.", ":")
_MAX_TICKS = 8
# Ticks that are nearer than this ratio would print over one another.
_APART = 1.2
# Lines stand a little beside one another, so that their intervals can be told apart.
_DODGE = 1.02


def learning_curves(findings: Findings) -> Figure:
    """Mean Dice against the number of training cases, a panel a task.

    Bars are the 95 % intervals over the test cases, small dots the single seeds.
    """
    return _panels(findings, "training cases", lambda point: point.group.cases, by_slices=True)


def effort_curves(findings: Findings) -> Figure | None:
    """Mean Dice against the annotated slices; None unless the study has sizes in slices."""
    tasks = {p.group.task for p in findings.points if p.group.slices is not None}
    points = [p for p in findings.points if p.group.task in tasks]
    if not points:
        return None
    chosen = Findings(findings.baseline, points, (), 0, 0)
    return _panels(chosen, "annotated slices", lambda p: p.annotated_slices, by_slices=False)


def _panels(
    findings: Findings, label: str, place: Callable[[Point], float], by_slices: bool
) -> Figure:
    tasks = list(dict.fromkeys(point.group.task for point in findings.points))
    columns = min(len(tasks), _PANELS_A_ROW) or 1
    rows = -(-len(tasks) // columns) or 1
    figure = Figure(figsize=(4.2 * max(columns, 2), 3.8 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in panels[len(tasks) :]:
        axes.set_visible(False)
    for task, axes in zip(tasks, panels, strict=False):
        points = [point for point in findings.points if point.group.task == task]
        _draw(axes, points, findings, place, by_slices)
        axes.set_title(task, parse_math=False)
        axes.set_xlabel(label)
        axes.set_ylabel("mean Dice")
    return figure


def _draw(
    axes: Axes,
    points: Sequence[Point],
    findings: Findings,
    place: Callable[[Point], float],
    by_slices: bool,
) -> None:
    modes = [m for m in _names(findings, "mode") if m != findings.baseline]
    bases = _names(findings, "base")
    colours = palette()
    lines: dict[tuple, list[Point]] = {}
    for point in points:
        key = point.group.mode, point.group.base, point.group.slices if by_slices else None
        lines.setdefault(key, []).append(point)
    for index, ((mode, base, slices), unsorted) in enumerate(lines.items()):
        beside = _DODGE ** (index - (len(lines) - 1) / 2)
        colour: Any = _BASELINE_COLOUR
        if mode != findings.baseline:
            colour = colours[modes.index(mode) % len(colours)]
        name = mode if len(bases) < 2 or base is None else f"{mode}, {base}"
        if slices is not None:
            name += f", {slices} slices a case"
        line = sorted(unsorted, key=place)
        _draw_line(
            axes,
            line,
            [beside * place(point) for point in line],
            not by_slices,
            color=colour,
            linestyle=_LINES[bases.index(base) % len(_LINES)],
            marker="o",
            markerfacecolor="white" if slices is not None else colour,
            label=name,
        )
    _finish(axes, sorted({place(point) for point in points}), by_slices)


def _draw_line(
    axes: Axes, line: Sequence[Point], places: Sequence[float], names_sizes: bool, **style: Any
) -> None:
    dice = [point.dice for point in line]
    ends = [point.interval or (point.dice, point.dice) for point in line]
    # Percentile intervals hold the mean, but for rounding.
    below = [max(0.0, d - low) for d, (low, _) in zip(dice, ends, strict=True)]
    above = [max(0.0, high - d) for d, (_, high) in zip(dice, ends, strict=True)]
    axes.errorbar(places, dice, [below, above], markersize=4, capsize=3, **style)
    colour = style["color"]
    for point, x in zip(line, places, strict=True):
        seeds = list(point.by_seed.values())
        axes.plot([x] * len(seeds), seeds, ".", color=colour, alpha=0.35)
        if names_sizes:
            axes.annotate(
                size(point.group),
                (x, point.dice),
                textcoords="offset points",
                xytext=(4, -10),
                fontsize=7,
                color=colour,
            )


def _finish(axes: Axes, places: Sequence[float], all_ticks: bool) -> None:
    axes.set_xscale("log", base=2)
    if all_ticks and len(places) <= _MAX_TICKS:
        apart = [p for p, before in zip(places, [0, *places], strict=False) if p > _APART * before]
        axes.xaxis.set_major_locator(FixedLocator(apart))
        axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.16), "ncols": 2}
    show_names_as_they_are(axes.legend(fontsize=8, frameon=False, **below))


def _names(findings: Findings, field: str) -> list:
    return list(dict.fromkeys(getattr(point.group, field) for point in findings.points))
