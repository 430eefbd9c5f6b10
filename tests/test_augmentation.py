"""Settings that mean nothing are refused, and presets are what their names say."""

import pytest

from tl3d_keras import augmentation
from tl3d_keras.augmentation import Augmentation, Draw
from tl3d_keras.errors import InputError


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"noise": Draw(1, 0)}, "noise: expected low <= high, a probability"),
        ({"blur": Draw(0, 1, 1.5)}, "blur: expected low <= high, a probability"),
        ({"scaling": Draw(0, 2)}, "scaling: expected positive amounts"),
        ({"gamma": Draw(-1, 2)}, "gamma: expected positive amounts"),
        ({"low_resolution": Draw(0, 2)}, "low_resolution: expected positive amounts"),
        ({"curve": Draw(-1, 2)}, "curve: expected amounts from 0 on"),
        ({"blur": Draw(-1, 2)}, "blur: expected amounts from 0 on"),
        ({"elastic": Draw(0, 9), "elastic_grid": 20.0}, "space may fold, found 9 mm"),
    ],
)
def test_refused(settings, message):
    with pytest.raises(InputError, match=message):
        Augmentation(**settings)


def test_presets():
    assert augmentation.preset("none", (1, 1, 1)) == augmentation.NONE
    light = augmentation.preset("light", (3, 1, 1), [1])
    assert not light.is_spatial and light.flip_axes == (1,)
    full = augmentation.preset("full", (3, 1.5, 2))
    # In mm, by the finest axis.
    assert full.is_spatial and full.blur[:2] == (0.75, 1.5) and full.low_resolution.high == 3
    assert augmentation.preset("any_contrast", (3, 1.5, 2)).curve.probability > 0 == full.curve.high
    with pytest.raises(InputError, match="expected an augmentation of none, .* found 'x'"):
        augmentation.preset("x", (1, 1, 1))
