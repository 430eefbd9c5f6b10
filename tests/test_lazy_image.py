"""Images read box by box are those of the whole."""

import numpy as np
import pytest

from tl3d_keras import lazy_image, resampling
from tl3d_keras.intensity import Intensity
from tl3d_keras.lazy_image import ArrayImage, GridImage
from tl3d_keras.survey import survey
from tl3d_keras.volumes import Volume

OBLIQUE = (0.96, -0.28, 0.0, 0.28, 0.96, 0.0, 0.0, 0.0, 1.0)
ZSCORE = Intensity("zscore")
FLIPPED = (0.0, -1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, -1.0)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("direction", [None, FLIPPED, OBLIQUE])
@pytest.mark.parametrize("spacing", [(2.0, 1.0, 1.3), (1.1, 1.7, 0.9)])
def test_boxes_are_those_of_the_whole(direction, spacing, channels, rng):
    array = rng.integers(-1000, 1000, (9, 14, 17, channels)).astype(np.int16)
    volume = Volume(array, (2.0, 1.0, 1.3), (10.0, -20.0, 30.0))
    if direction:
        volume = Volume(array, volume.spacing, volume.origin, direction)
    whole = resampling.to_grid(volume.with_array(array.astype(np.float32)), spacing)
    image = GridImage(volume, spacing)
    assert image.shape == whole.shape
    np.testing.assert_allclose(image.grid.origin, whole.origin, atol=1e-9)
    for start, stop in (((0, 0, 0), image.shape), ((2, 3, 1), (5, 9, 8)), ((3, 0, 4), (4, 1, 5))):
        box = tuple(map(slice, start, stop))
        np.testing.assert_allclose(image.read(start, stop), whole.array[box], atol=2e-3)


def test_a_survey_sees_all_slabs(monkeypatch, rng):
    monkeypatch.setattr(lazy_image, "_SLAB_VOXELS", 100)
    array = rng.normal(50, 20, (7, 9, 8, 2)).astype(np.float32)
    array[3, 4, 5] = -300, -90
    image = ArrayImage(array)
    assert len(list(lazy_image.slabs(image))) == 7
    for intensity in (Intensity("window", (-200.0, -200.0), (0.0, 0.0)), ZSCORE):
        seen = survey(image, intensity)
        scale, shift = intensity.coefficients(array)
        np.testing.assert_array_equal(seen.floor, [-300, -90])
        np.testing.assert_allclose(seen.scale, np.ravel(scale), rtol=1e-5)
        np.testing.assert_allclose(seen.shift, np.ravel(shift), rtol=1e-5)


def test_the_corners_around_an_oblique_scan_are_no_part_of_it(rng):
    """Its z-score is that of its own voxels, and beyond lies its lowest value."""
    array = rng.normal(300, 20, (9, 14, 17, 2)).astype(np.float32)
    seen = survey(
        GridImage(Volume(array, (2.0, 1.0, 1.3), direction=OBLIQUE), (2.0, 1.0, 1.3)), ZSCORE
    )
    scale, shift = ZSCORE.coefficients(array)
    np.testing.assert_array_equal(seen.floor, array.min(axis=(0, 1, 2)))
    np.testing.assert_allclose(seen.scale, np.ravel(scale), rtol=1e-5)
    np.testing.assert_allclose(seen.shift, np.ravel(shift), rtol=1e-5)


def test_a_survey_stops_below_the_window(monkeypatch):
    monkeypatch.setattr(lazy_image, "_SLAB_VOXELS", 1)
    array = np.zeros((5, 2, 2, 1), np.int16)
    array[1], array[4] = -500, -900
    assert survey(ArrayImage(array), Intensity("window", (-200.0,), (0.0,))).floor == -500
