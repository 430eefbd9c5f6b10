"""Training curves."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tl3d_keras.errors import InputError
from tl3d_keras.figure_file import show_names_as_they_are
from tl3d_keras.slices import palette

_MAX_NAMED_CURVES = 8


def curves(rows: Sequence[Mapping[str, Any]], title: str = "") -> Figure:
    """Draws loss and Dice against the step from the rows of a training run's metrics.csv.

    Args:
        rows: `step`, `stage`, `loss`, `dice`, `validation_dice` and one
            `validation_dice/<structure>` each, as numbers or texts; empty texts are left out.
        title: over the picture.

    Raises:
        InputError: there is no row, or one without a step.
    """
    if not rows or any(row.get("step") in (None, "") for row in rows):
        raise InputError(f"expected rows with a step, as in metrics.csv, found {len(rows)} rows")
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    loss, dice = figure.subplots(1, 2)
    loss.plot(*_series(rows, "loss"), color="#b3442e", label="training loss")
    columns = dict.fromkeys(name for row in rows for name in row)
    named = [name for name in columns if name.startswith("validation_dice/")]
    colours = palette()
    for index, name in enumerate(named):
        dice.plot(
            *_series(rows, name),
            color=colours[index % len(colours)],
            linewidth=1,
            alpha=0.8,
            label=name.split("/", 1)[1] if len(named) <= _MAX_NAMED_CURVES else None,
        )
    dice.plot(*_series(rows, "dice"), color="#8a93a3", linestyle="--", label="training patches")
    dice.plot(
        *_series(rows, "validation_dice"),
        color="#16181d",
        linewidth=2.2,
        marker="o",
        markersize=3,
        label="validation, mean",
    )
    dice.set_ylim(0, 1)
    _finish_curves(loss, "loss", rows, "upper right")
    _finish_curves(dice, "Dice", rows, "lower right")
    figure.suptitle(title, parse_math=False)
    return figure


def _series(rows: Sequence[Mapping[str, Any]], name: str) -> tuple[list[float], list[float]]:
    points = [
        (float(row["step"]), float(row[name])) for row in rows if row.get(name) not in (None, "")
    ]
    return [step for step, _ in points], [value for _, value in points]


def _finish_curves(axes: Axes, what: str, rows: Sequence[Mapping[str, Any]], loc: str) -> None:
    axes.set_xlabel("step")
    axes.set_ylabel(what)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    for before, row in zip(rows, rows[1:], strict=False):
        if before.get("stage") != row.get("stage"):
            axes.axvline(float(before["step"]), color="#8a93a3", linestyle=":")
            axes.text(
                float(before["step"]),
                1.0,
                f" {row.get('stage')}",
                size=8,
                va="bottom",
                transform=axes.get_xaxis_transform(),
                parse_math=False,
            )
    show_names_as_they_are(axes.legend(fontsize=8, frameon=False, loc=loc))
