"""Thumbnails: which way up, at what scale, what is striped, and that they are small."""

import io

import matplotlib.image
import numpy as np
import pytest

from tl3d_keras import slices, thumbnails
from tl3d_keras.annotation import IGNORE

SPACING = (3.0, 2.0, 1.0)
STRIPE = np.array([0.949, 0.757, 0.306])


def panels(labels, image=None, **arguments) -> tuple[np.ndarray, np.ndarray]:
    """The axial and the coronal half of the thumbnail, as RGB in [0, 1]."""
    image = np.zeros(labels.shape) if image is None else image
    content = thumbnails.jpeg(image, labels, arguments.pop("spacing", SPACING), **arguments)
    pixels = matplotlib.image.imread(io.BytesIO(content), format="jpg") / 255
    assert pixels.shape == (*reversed(thumbnails.SIZE), 3)
    return pixels[:, : thumbnails.SIDE], pixels[:, thumbnails.SIDE + thumbnails.GAP :]


def centre_of_colour(pixels: np.ndarray) -> tuple[float, float]:
    row, column = (i.mean() / thumbnails.SIDE for i in np.nonzero(np.ptp(pixels, axis=-1) > 0.2))
    return row, column


def test_anatomy_lies_where_radiologists_expect_it():
    # Superior, anterior, left: high z, low y, high x.
    labels = np.zeros((20, 30, 60), np.uint8)
    labels[15:19, 2:9, 45:55] = 1
    axial, coronal = panels(labels)
    row, column = centre_of_colour(axial)
    assert row < 0.3 and column > 0.7
    row, column = centre_of_colour(coronal)
    assert row < 0.3 and column > 0.7


def test_panels_keep_the_shape_in_mm():
    image = np.ones((10, 30, 60))
    axial, coronal = panels(np.zeros(image.shape, np.uint8), image, window=(0, 1))
    # 60 mm in both directions, and 30 by 60 mm.
    assert (axial.min(axis=-1) > 0.9).all()
    white = coronal.min(axis=-1) > 0.9
    assert white.any(axis=0).all()
    assert white.any(axis=1).mean() == pytest.approx(0.5, abs=0.03)


def test_only_the_unannotated_part_is_striped():
    labels = np.zeros((20, 40, 40), np.uint8)
    labels[8:12, 15:25, 25:35] = 1
    labels[..., :15] = IGNORE
    axial, _ = panels(labels, spacing=(1, 1, 1))
    stripes = np.abs(axial - 0.7 * STRIPE).max(axis=-1) < 0.15
    part = stripes[:, : round(0.35 * thumbnails.SIDE)].mean()
    assert 0.05 < part < 0.5
    assert not stripes[:, round(0.4 * thumbnails.SIDE) :].any()


def test_structures_have_the_colours_of_the_overlays():
    labels = np.zeros((9, 9, 9), np.uint8)
    labels[:, 1:8, 1:8] = 3
    axial, _ = panels(labels, window=(0, 1))
    expected = 0.45 * np.array(slices.palette()[2])
    np.testing.assert_allclose(axial[78, 78], expected, atol=0.05)


def test_percentiles_of_the_slices_set_black_and_white(rng):
    image = rng.normal(size=(9, 40, 40))
    image[4, 20, 20] = 1e6
    axial, _ = panels(np.zeros(image.shape, np.uint8), image, spacing=(1, 1, 1))
    assert axial.std() > 0.1


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 40, 30), (30, 1, 2), (2, 600, 400)])
def test_flat_constant_and_large_volumes_are_drawn_small(shape):
    labels = np.full(shape, IGNORE, np.uint8)
    labels[0, 0, 0] = 254
    content = thumbnails.jpeg(np.full(shape, 7.0), labels, SPACING)
    assert content.startswith(b"\xff\xd8") and len(content) < 40_000
