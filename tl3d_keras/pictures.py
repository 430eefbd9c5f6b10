"""Pictures of what was annotated, predicted and learned, drawn off screen with matplotlib."""

import io
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from tl3d_keras.annotation import IGNORE
from tl3d_keras.errors import InputError
from tl3d_keras.whole_folder import write_file

# Soft tissue, as radiologists look at it, in HU.
CT_WINDOW = (-160.0, 240.0)
UNANNOTATED = "unannotated"

_INK, _PAPER = "#e8ebf0", "#15181e"
_HATCH_COLOUR = "#f2c14e"
_WIDTH_INCHES, _MAX_PANEL_INCHES, _GAP_INCHES = 11.0, 3.6, 0.12
_TITLE_INCHES, _LEGEND_INCHES = 0.32, 0.24
_LEGEND_COLUMNS = 6
_COLOUR_MAPS = (("tab10", 10), ("tab20", 20), ("tab20b", 20))
_MAX_NAMED_CURVES = 8


class _Plane(NamedTuple):
    """How a plane is shown: arrays run superior, posterior, left; the viewer stands at the feet."""

    name: str
    axis: int
    rows: int
    columns: int
    origin: Literal["upper", "lower"]
    # What lies at the left, right, upper and lower edge.
    edges: str


_PLANES = (
    _Plane("axial", 0, 1, 2, "upper", "RLAP"),
    _Plane("coronal", 1, 0, 2, "lower", "RLSI"),
    _Plane("sagittal", 2, 0, 1, "lower", "APSI"),
)
_EDGES = (
    (0.01, 0.5, "left", "center"),
    (0.99, 0.5, "right", "center"),
    (0.5, 0.99, "center", "top"),
    (0.5, 0.01, "center", "bottom"),
)


def window_of(channel: str) -> tuple[float, float] | None:
    """The window to show a channel in: soft tissue for CT, None (percentiles) for all others."""
    return CT_WINDOW if channel.upper() == "CT" else None


def palette() -> list[tuple[float, ...]]:
    """The colours of labels 1, 2, ..., none of them grey; they come round again after the last."""
    colours = [
        tuple(map(float, colour[:3]))
        for name, count in _COLOUR_MAPS
        for colour in colormaps[name](range(count))
    ]
    return list(dict.fromkeys(c for c in colours if max(c) - min(c) > 0.1))


def best_slices(labels: np.ndarray) -> tuple[int, int, int]:
    """The slice along each axis with the most voxels of structures.

    Without any structure it is the one with the most annotated voxels; of equal ones, the middle.

    Args:
        labels: uint8 [Z, Y, X], IGNORE where unannotated.

    Returns:
        Indices (z, y, x).
    """
    wanted = (labels != 0) & (labels != IGNORE)
    if not wanted.any():
        wanted = labels != IGNORE
    z, y, x = (_middle_of_largest(wanted.sum((p.rows, p.columns))) for p in _PLANES)
    return z, y, x


def overlay(
    image: np.ndarray,
    labels: np.ndarray,
    spacing: Sequence[float],
    structures: Sequence[str],
    title: str = "",
    window: tuple[float, float] | None = None,
) -> Figure:
    """Draws an axial, a coronal and a sagittal slice with the structures in colour.

    Args:
        image: [Z, Y, X], one channel, axes to superior, posterior, left.
        labels: integers [Z, Y, X], 0..K, IGNORE where unannotated: those voxels are hatched.
        spacing: (z, y, x) in mm.
        structures: names of labels 1..K.
        title: over the picture.
        window: raw intensities shown as black and white; None: the 1st and 99th percentile.

    Raises:
        InputError: shapes differ, or a label has no name.
    """
    return comparison(image, {"": labels}, spacing, structures, title, window)


def comparison(
    image: np.ndarray,
    labels: Mapping[str, np.ndarray],
    spacing: Sequence[float],
    structures: Sequence[str],
    title: str = "",
    window: tuple[float, float] | None = None,
) -> Figure:
    """Draws `overlay` for several label arrays, one row each, all at the slices of the first.

    Args:
        labels: name of the row -> label array.
        image, spacing, structures, title, window: as in `overlay`.

    Raises:
        InputError: shapes differ, or a label has no name.
    """
    for row, array in labels.items():
        _check(image, array, structures, row)
    slices = best_slices(next(iter(labels.values())))
    window = window or tuple(np.percentile(image, [1, 99]))
    entries = _legend_entries(labels.values(), slices, structures)
    footer = 0.15 + _LEGEND_INCHES * -(-len(entries) // _LEGEND_COLUMNS)
    figure, grid = _panels(image.shape, spacing, len(labels), footer)
    for panels, (row, array) in zip(grid, labels.items(), strict=True):
        for axes, plane in zip(panels, _PLANES, strict=True):
            _draw_slice(axes, plane, image, array, slices[plane.axis], spacing, window)
        panels[0].set_ylabel(row, color=_INK, size=11, parse_math=False)
    for axes, plane in zip(grid[0], _PLANES, strict=True):
        axes.set_title(
            f"{plane.name}, {'zyx'[plane.axis]} = {slices[plane.axis]}", color=_INK, size=10
        )
    figure.suptitle(
        title,
        y=1 + _TITLE_INCHES / figure.get_figheight(),
        va="bottom",
        color=_INK,
        parse_math=False,
    )
    if entries:
        _show_names_as_they_are(
            figure.legend(
                entries,
                [str(entry.get_label()) for entry in entries],
                loc="lower center",
                ncol=min(len(entries), _LEGEND_COLUMNS),
                labelcolor=_INK,
                frameon=False,
                fontsize=10,
            )
        )
    return figure


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


def png(figure: Figure) -> bytes:
    """The figure as the bytes of a PNG file, trimmed to what is drawn."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # A structure's name may be in a script that the font lacks; its boxes harm nobody.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(buffer, format="png", dpi=110, bbox_inches="tight", pad_inches=0.12)
    return buffer.getvalue()


def save_png(figure: Figure, path: str | os.PathLike) -> None:
    """Writes the figure as a PNG file, which appears when whole.

    Raises:
        InputError: the name does not end in .png, or the place cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise InputError(f"{path}: expected a file name that ends in .png")
    write_file(path, png(figure))


def _middle_of_largest(counts: np.ndarray) -> int:
    largest = np.flatnonzero(counts == counts.max())
    return int(largest[len(largest) // 2])


def _check(image: np.ndarray, labels: np.ndarray, structures: Sequence[str], row: str) -> None:
    what = f"{row}: " if row else ""
    if labels.ndim != 3 or labels.shape != image.shape:
        raise InputError(
            f"{what}expected labels [Z, Y, X] of the image's shape {image.shape}, "
            f"found {labels.shape}"
        )
    named = labels[labels != IGNORE]
    if named.size and not 0 <= named.min() <= named.max() <= len(structures):
        wrong = named.min() if named.min() < 0 else named.max()
        raise InputError(
            f"{what}expected labels 0 to {len(structures)} or {IGNORE} (unannotated), found {wrong}"
        )


def _panels(
    shape: Sequence[int], spacing: Sequence[float], rows: int, footer: float
) -> tuple[Figure, list[list[Axes]]]:
    """Rows of three panels at one scale in mm, `footer` inches below them."""
    size = [n * s for n, s in zip(shape, spacing, strict=True)]
    widths, heights = [size[p.columns] for p in _PLANES], [size[p.rows] for p in _PLANES]
    scale = min(_WIDTH_INCHES / sum(widths), _MAX_PANEL_INCHES / max(heights))
    row_height = max(heights) * scale + _GAP_INCHES
    width, height = sum(widths) * scale + 2 * _GAP_INCHES, rows * row_height + footer
    figure = Figure(figsize=(width, height), facecolor=_PAPER)
    grid = []
    for row in range(rows):
        left, top, panels = 0.0, height - row * row_height, []
        for w, h in zip(widths, heights, strict=True):
            panels.append(
                figure.add_axes(
                    (
                        left / width,
                        (top - h * scale) / height,
                        w * scale / width,
                        h * scale / height,
                    )
                )
            )
            left += w * scale + _GAP_INCHES
        grid.append(panels)
    return figure, grid


def _draw_slice(
    axes: Axes,
    plane: _Plane,
    image: np.ndarray,
    labels: np.ndarray,
    index: int,
    spacing: Sequence[float],
    window: tuple[float, ...],
) -> None:
    axes.imshow(
        np.take(image, index, plane.axis),
        cmap="gray",
        vmin=window[0],
        vmax=window[1],
        origin=plane.origin,
        interpolation="bilinear",
        aspect=spacing[plane.rows] / spacing[plane.columns],
    )
    # What is drawn on top must not move the picture's edges.
    axes.autoscale(False)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    _draw_labels(axes, np.take(labels, index, plane.axis))
    for (x, y, across, up), letter in zip(_EDGES, plane.edges, strict=True):
        axes.text(
            x,
            y,
            letter,
            transform=axes.transAxes,
            color=_INK,
            size=9,
            ha=across,
            va=up,
            path_effects=[withStroke(linewidth=2, foreground=_PAPER)],
        )


def _draw_labels(axes: Axes, labels: np.ndarray) -> None:
    colours = palette()
    # Contours run between voxel centres: a border of voxels lets them end at the picture's edge.
    y, x = (np.arange(-1, n + 1) for n in labels.shape)
    for value in np.unique(labels):
        if value == 0:
            continue
        mask = np.pad(labels == value, 1).astype(np.float32)
        if value == IGNORE:
            hatched = axes.contourf(x, y, mask, [0.5, 2], colors="none", hatches=["///"])
            hatched.set_edgecolor(to_rgba(_HATCH_COLOUR, 0.75))
            hatched.set_linewidth(0)
            continue
        colour = colours[(int(value) - 1) % len(colours)]
        axes.contourf(x, y, mask, [0.5, 2], colors=[colour], alpha=0.4)
        axes.contour(x, y, mask, [0.5], colors=[colour], linewidths=1.3)


def _legend_entries(
    labels: Iterable[np.ndarray], slices: Sequence[int], structures: Sequence[str]
) -> list[Patch]:
    colours = palette()
    shown = {
        int(value)
        for array in labels
        for plane in _PLANES
        for value in np.unique(np.take(array, slices[plane.axis], plane.axis))
    } - {0}
    entries = [
        Patch(color=colours[(value - 1) % len(colours)], label=structures[value - 1])
        for value in sorted(shown - {IGNORE})
    ]
    if IGNORE in shown:
        entries.append(
            Patch(facecolor="none", edgecolor=_HATCH_COLOUR, hatch="////", label=UNANNOTATED)
        )
    return entries


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
    _show_names_as_they_are(axes.legend(fontsize=8, frameon=False, loc=loc))


def _show_names_as_they_are(legend: Any) -> None:
    for text in legend.get_texts():
        text.set_parse_math(False)
