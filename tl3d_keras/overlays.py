"""Slices of a volume with their labels in colour and what is unannotated hatched."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke

from tl3d_keras.annotation import IGNORE
from tl3d_keras.figure_file import show_names_as_they_are
from tl3d_keras.slices import HATCH_COLOUR, PAPER, PLANES, Plane, best_slices, check_labels, palette

UNANNOTATED = "unannotated"

_INK = "#e8ebf0"
_WIDTH_INCHES, _MAX_PANEL_INCHES, _GAP_INCHES = 11.0, 3.6, 0.12
_TITLE_INCHES, _LEGEND_INCHES = 0.32, 0.24
_LEGEND_COLUMNS = 6
_EDGES = (
    (0.01, 0.5, "left", "center"),
    (0.99, 0.5, "right", "center"),
    (0.5, 0.99, "center", "top"),
    (0.5, 0.01, "center", "bottom"),
)


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
        check_labels(image, array, structures, row)
    slices = best_slices(next(iter(labels.values())))
    window = window or tuple(np.percentile(image, [1, 99]))
    entries = _legend_entries(labels.values(), slices, structures)
    footer = 0.15 + _LEGEND_INCHES * -(-len(entries) // _LEGEND_COLUMNS)
    figure, grid = _panels(image.shape, spacing, len(labels), footer)
    for panels, (row, array) in zip(grid, labels.items(), strict=True):
        for axes, plane in zip(panels, PLANES, strict=True):
            _draw_slice(axes, plane, image, array, slices[plane.axis], spacing, window)
        panels[0].set_ylabel(row, color=_INK, size=11, parse_math=False)
    for axes, plane in zip(grid[0], PLANES, strict=True):
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
        show_names_as_they_are(
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


def _panels(
    shape: Sequence[int], spacing: Sequence[float], rows: int, footer: float
) -> tuple[Figure, list[list[Axes]]]:
    """Rows of three panels at one scale in mm, `footer` inches below them."""
    size = [n * s for n, s in zip(shape, spacing, strict=True)]
    widths, heights = [size[p.columns] for p in PLANES], [size[p.rows] for p in PLANES]
    scale = min(_WIDTH_INCHES / sum(widths), _MAX_PANEL_INCHES / max(heights))
    row_height = max(heights) * scale + _GAP_INCHES
    width, height = sum(widths) * scale + 2 * _GAP_INCHES, rows * row_height + footer
    figure = Figure(figsize=(width, height), facecolor=PAPER)
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
    plane: Plane,
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
            path_effects=[withStroke(linewidth=2, foreground=PAPER)],
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
            hatched.set_edgecolor(to_rgba(HATCH_COLOUR, 0.75))
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
        for plane in PLANES
        for value in np.unique(np.take(array, slices[plane.axis], plane.axis))
    } - {0}
    entries = [
        Patch(color=colours[(value - 1) % len(colours)], label=structures[value - 1])
        for value in sorted(shown - {IGNORE})
    ]
    if IGNORE in shown:
        entries.append(
            Patch(facecolor="none", edgecolor=HATCH_COLOUR, hatch="////", label=UNANNOTATED)
        )
    return entries
