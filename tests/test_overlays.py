"""Overlays: the slices, which way up, at what scale, and what is hatched."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from tl3d_keras import figure_file, overlays, slices
from tl3d_keras.annotation import IGNORE
from tl3d_keras.errors import InputError

ROOT = Path(__file__).resolve().parents[1]
SPACING = (3.0, 2.0, 1.0)


def rendered(figure) -> np.ndarray:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].astype(int)


def panel(figure, index: int, pixels: np.ndarray) -> np.ndarray:
    """The pixels of the figure's axes number `index`."""
    box = figure.axes[index].get_window_extent()
    height = len(pixels)
    # A canvas has whole pixels, so that the box may begin a fraction above it.
    top = max(0, round(height - box.y1))
    return pixels[top : round(height - box.y0), round(box.x0) : round(box.x1)]


def centre_of_colour(pixels: np.ndarray) -> tuple[float, float]:
    """Row and column, as shares of the size, of the middle of what is not grey."""
    coloured = np.ptp(pixels, axis=-1) > 60
    assert coloured.any()
    row, column = (np.mean(i) for i in np.nonzero(coloured))
    return row / pixels.shape[0], column / pixels.shape[1]


def labels_of_box(shape, start, stop) -> np.ndarray:
    labels = np.zeros(shape, np.uint8)
    labels[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = 1
    return labels


def test_anatomy_lies_where_radiologists_expect_it():
    # Superior, anterior, left: high z, low y, high x.
    labels = labels_of_box((20, 24, 28), (15, 2, 22), (19, 7, 27))
    figure = overlays.overlay(np.zeros(labels.shape), labels, SPACING, ["liver"])
    pixels = rendered(figure)
    row, column = centre_of_colour(panel(figure, 0, pixels))
    assert row < 0.3 and column > 0.7, "axial: anterior up, left on the right"
    row, column = centre_of_colour(panel(figure, 1, pixels))
    assert row < 0.3 and column > 0.7, "coronal: superior up, left on the right"
    row, column = centre_of_colour(panel(figure, 2, pixels))
    assert row < 0.3 and column < 0.3, "sagittal: superior up, anterior on the left"
    letters = [[text.get_text() for text in axes.texts] for axes in figure.axes]
    assert letters == [list("RLAP"), list("RLSI"), list("APSI")]


def test_panels_have_one_scale_in_mm():
    labels = np.zeros((20, 24, 28), np.uint8)
    figure = overlays.overlay(np.zeros(labels.shape), labels, SPACING, ["a"])
    rendered(figure)
    boxes = [axes.get_window_extent() for axes in figure.axes]
    expected = [(28, 48), (28, 60), (48, 60)]
    scale = boxes[0].width / 28
    for box, (width, height) in zip(boxes, expected, strict=True):
        assert (box.width, box.height) == pytest.approx((width * scale, height * scale), rel=1e-3)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (labels_of_box((9, 9, 9), (2, 3, 4), (3, 4, 5)), (2, 3, 4)),
        (labels_of_box((9, 9, 9), (1, 0, 2), (6, 1, 9)), (3, 0, 5)),
        (np.zeros((9, 9, 9), np.uint8), (4, 4, 4)),
        (np.full((9, 9, 9), IGNORE, np.uint8), (4, 4, 4)),
    ],
)
def test_slices_with_most_of_the_structures(labels, expected):
    assert slices.best_slices(labels) == expected


def test_unannotated_voxels_never_choose_the_slice():
    labels = np.full((6, 5, 5), IGNORE, np.uint8)
    labels[1] = 0
    assert slices.best_slices(labels)[0] == 1
    labels[4, 2, 2:4] = 1
    assert slices.best_slices(labels) == (4, 2, 3)


def test_only_the_unannotated_part_is_hatched():
    labels = labels_of_box((10, 10, 10), (4, 4, 4), (6, 6, 6))
    labels[..., :3] = IGNORE
    figure = overlays.overlay(np.zeros(labels.shape), labels, (1, 1, 1), ["liver"])
    axial = panel(figure, 0, rendered(figure))
    coloured = np.ptp(axial, axis=-1) > 60
    width = axial.shape[1]
    assert 0.05 < coloured[:, : round(0.28 * width)].mean() < 0.6
    assert not coloured[:, round(0.65 * width) :].any()
    # Up to the very edge of the picture, too.
    assert coloured[:, :3].any() and coloured[:3].any()
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["liver", "unannotated"]


def test_comparison_shows_both_at_the_slices_of_the_first():
    first = labels_of_box((8, 8, 8), (1, 1, 1), (3, 3, 3))
    second = 2 * labels_of_box((8, 8, 8), (2, 1, 5), (7, 3, 7))
    figure = overlays.comparison(
        np.zeros((8, 8, 8)),
        {"reference": first, "prediction": second},
        (1, 1, 1),
        ["liver", "spleen"],
    )
    pixels = rendered(figure)
    assert centre_of_colour(panel(figure, 0, pixels))[1] < 0.4
    assert centre_of_colour(panel(figure, 3, pixels))[1] > 0.6
    assert figure.axes[0].get_title() == "axial, z = 2"
    assert [figure.axes[i].get_ylabel() for i in (0, 3)] == ["reference", "prediction"]
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["liver", "spleen"]


def test_window_and_percentiles_set_black_and_white(rng):
    image = rng.normal(size=(6, 6, 6))
    image[0, 0, 0] = 1e6
    labels = np.zeros(image.shape, np.uint8)
    shown = overlays.overlay(image, labels, (1, 1, 1), ["a"]).axes[0].images[0]
    assert shown.get_clim() == pytest.approx(np.percentile(image, [1, 99]))
    shown = overlays.overlay(image, labels, (1, 1, 1), ["a"], window=(-2, 5)).axes[0].images[0]
    assert shown.get_clim() == (-2, 5)
    assert slices.window_of("ct") == slices.CT_WINDOW
    assert slices.window_of("MRI") is None


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 40, 30), (30, 1, 2)])
def test_flat_and_constant_volumes_are_drawn(shape):
    labels = np.ones(shape, np.uint8)
    labels[0, 0, 0] = IGNORE
    assert figure_file.png(overlays.overlay(np.zeros(shape), labels, SPACING, ["a"]))[1:4] == b"PNG"


def test_names_are_shown_as_they_are():
    names = ["$\\bad{$", "_hidden", "肝臓"]
    labels = np.arange(27, dtype=np.uint8).reshape(3, 3, 3) % 4
    figure = overlays.overlay(np.zeros((3, 3, 3)), labels, (1, 1, 1), names, title="$\\bad{$")
    figure_file.png(figure)
    assert [t.get_text() for t in figure.legends[0].get_texts()] == names


def test_structures_have_colours_of_their_own():
    colours = slices.palette()
    assert len(set(colours)) == len(colours) >= 23
    assert min(max(c) - min(c) for c in colours) > 0.1


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros((2, 2, 3), np.uint8), r"expected labels .* shape \(2, 2, 2\), found \(2, 2, 3\)"),
        (np.full((2, 2, 2), 2, np.uint8), "expected labels 0 to 1 or 255 .*, found 2"),
        (np.full((2, 2, 2), -1), "expected labels 0 to 1 or 255 .*, found -1"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels, message):
    with pytest.raises(InputError, match=message):
        overlays.overlay(np.zeros((2, 2, 2)), labels, (1, 1, 1), ["liver"])


def test_no_global_state_and_no_tensorflow():
    code = (
        "import sys; from tl3d_keras import curves, figure_file, overlays, thumbnails; "
        "figure_file.png(curves.curves([{'step': 1, 'loss': 1.0}])); "
        "print([m for m in ('matplotlib.pyplot', 'tensorflow') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
