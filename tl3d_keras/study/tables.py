"""A study's findings in words and in Markdown."""

from collections.abc import Iterable, Sequence
from statistics import fmean

from tl3d_keras.study.findings import SIGNIFICANT, Findings, Gain, Group
from tl3d_keras.text_table import number

_GAIN_HEADS = (
    "task",
    "cases",
    "base",
    "mode",
    "baseline",
    "Dice",
    "gain",
    "95 % interval",
    "p",
    "p (Holm)",
    "steps",
)


def markdown(findings: Findings) -> str:
    """The sentences, the table of Dice and that of gains."""
    parts = [f"# Study: {findings.done} of {findings.total} cells", *sentences(findings)]
    parts.append("## Mean Dice\n\n" + _table(*dice_rows(findings)))
    if findings.gains:
        parts.append(f"## Gains over {findings.baseline}\n\n" + _table(*gain_rows(findings)))
    return "\n\n".join(parts) + "\n"


def sentences(findings: Findings) -> list[str]:
    """The paper's sentence, filled in: one a mode."""
    lines = []
    for mode in dict.fromkeys(gain.group.mode for gain in findings.gains):
        gains = [gain for gain in findings.gains if gain.group.mode == mode]
        best, worst = max(gains, key=_by_gain), min(gains, key=_by_gain)
        significant = [g for g in gains if g.p_holm is not None and g.p_holm < SIGNIFICANT]
        better = sum(gain.gain > 0 for gain in significant)
        relative = "" if best.relative is None else f" ({best.relative:+.0%})"
        lines.append(
            f"Over {len(gains)} experiment{'s' * (len(gains) > 1)}, {mode} changed Dice by "
            f"{fmean(gain.gain for gain in gains):+.3f} on average against {findings.baseline}, by "
            f"{best.gain:+.3f}{relative} at best ({where(best.group)}) and by {worst.gain:+.3f} at "
            f"worst ({where(worst.group)}); {better} are significantly better and "
            f"{len(significant) - better} significantly worse (Wilcoxon, Holm, p < {SIGNIFICANT})."
        )
        steps = [gain.steps for gain in gains if gain.steps is not None]
        if steps:
            lines.append(
                f"Of these, {mode} had the final validation Dice of {findings.baseline} in "
                f"{len(steps)}, after {fmean(steps):.0%} of the steps on average."
            )
    return lines


def where(group: Group) -> str:
    """An experiment in words."""
    base = f", base {group.base}" if group.base else ""
    return f"{group.task}, {size(group)} case{'s' * (size(group) != '1')}{base}"


def size(group: Group) -> str:
    """The training size: `4`, or `4 x 3` where 3 slices of each case are annotated."""
    return f"{group.cases}" if group.slices is None else f"{group.cases} x {group.slices}"


def dice_rows(findings: Findings) -> tuple[list[str], list[list[str]]]:
    """Heads and rows: a row a task and size, a column a mode and base, with the 95 % interval."""
    columns = list(dict.fromkeys((p.group.mode, p.group.base) for p in findings.points))
    cells = {}
    for point in findings.points:
        group = point.group
        text = number(point.dice, 3)
        if point.interval:
            text += f" ({point.interval[0]:.3f} to {point.interval[1]:.3f})"
        cells[group.task, size(group), group.mode, group.base] = text
    sizes = list(dict.fromkeys((p.group.task, size(p.group)) for p in findings.points))
    bases = {base for _, base in columns}
    heads = [mode if len(bases) < 2 or not base else f"{mode}, {base}" for mode, base in columns]
    rows = [
        [task, cases, *(cells.get((task, cases, *column), "-") for column in columns)]
        for task, cases in sizes
    ]
    return ["task", "cases", *heads], rows


def gain_rows(findings: Findings) -> tuple[list[str], list[list[str]]]:
    """Heads and rows: a row an experiment and mode."""
    return list(_GAIN_HEADS), [_gain_row(gain) for gain in findings.gains]


def _gain_row(gain: Gain) -> list[str]:
    group = gain.group
    interval = "-"
    if gain.interval:
        interval = f"{gain.interval[0]:+.3f} to {gain.interval[1]:+.3f}"
    return [
        group.task,
        size(group),
        group.base or "-",
        group.mode,
        number(gain.baseline, 3),
        number(gain.dice, 3),
        f"{gain.gain:+.3f}",
        interval,
        _p(gain.p),
        _p(gain.p_holm),
        "-" if gain.steps is None else f"{gain.steps:.0%}",
    ]


def _p(value: float | None) -> str:
    if value is None:
        return "-"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _by_gain(gain: Gain) -> float:
    return gain.gain


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    # The first two columns are words and sizes, all others are numbers.
    rule = ["---" if index < 2 else "---:" for index in range(len(heads))]
    return "\n".join(f"| {' | '.join(row)} |" for row in (heads, rule, *rows))
