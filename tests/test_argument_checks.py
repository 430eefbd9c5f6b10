"""Wrong arguments from Python: one line that says what was expected, and nothing written."""

from dataclasses import replace

import helpers
import numpy as np
import pytest

import tl3d_keras
from tl3d_keras import InputError, Segmenter, Volume, artifact, volume_io

INFO = helpers.info()
VOLUME = Volume(np.zeros((6, 6, 6, 1), np.float32), (2.0, 1.0, 1.0))


@pytest.fixture(scope="module")
def network():
    return helpers.network()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((None,), "expected an Intensity, such as info.intensity, found a NoneType"),
        ((INFO,), "expected an Intensity, such as info.intensity, found a ModelInfo"),
        ((INFO.intensity, None, 16), "expected three whole numbers .* as patch_size, found 16"),
        ((INFO.intensity, None, (16, 16)), "as patch_size, found .16, 16."),
        ((INFO.intensity, None, (16, 16, 0)), "as patch_size, found .16, 16, 0."),
    ],
)
def test_a_segmenter_of_something_else(network, arguments, message):
    with pytest.raises(InputError, match=message):
        Segmenter(network, *arguments)
    with pytest.raises(InputError, match="expected a network of base_model or load, found a Int"):
        Segmenter(INFO.intensity, network)


@pytest.mark.parametrize(
    ("volume", "spacing", "message"),
    [
        (VOLUME.array, INFO.spacing, "expected a Volume, as volume_io.read gives, found a ndarr"),
        ("scan.nii.gz", INFO.spacing, "expected a Volume, as volume_io.read gives, found a str"),
        (Volume(np.zeros((6, 6, 6)), (2, 1, 1)), INFO.spacing, r"\[Z, Y, X, C\], found .*6, 6, 6"),
        (replace(VOLUME, spacing=(1, 1)), INFO.spacing, "as a Volume's spacing, found .1, 1."),
        (VOLUME, 1.0, "as the network's spacing, found 1.0"),
        (VOLUME, (1.0, 1.0), "as the network's spacing, found .1.0, 1.0."),
        (VOLUME, (0, 1, 1), "as the network's spacing, found .0, 1, 1."),
        (VOLUME, (1, -1, 1), "as the network's spacing, found .1, -1, 1."),
        (VOLUME, INFO, "as the network's spacing, found ModelInfo"),
        (
            VOLUME.with_array(np.zeros((6, 6, 6, 2), np.float32)),
            INFO.spacing,
            "expected an image .* of 1 channels, found the shape .*, 2.",
        ),
    ],
)
def test_a_scan_of_something_else(network, volume, spacing, message):
    segmenter = Segmenter(network, INFO.intensity)
    with pytest.raises(InputError, match=message):
        tl3d_keras.segment(volume, segmenter, spacing)
    with pytest.raises(InputError, match="expected a Segmenter, found a UNet3D"):
        tl3d_keras.segment(VOLUME, network, INFO.spacing)


@pytest.mark.parametrize("shape", [(6, 6, 6), (6, 6, 6, 2), (1, 6, 6, 6, 1)])
def test_an_image_of_another_shape(network, shape):
    segmenter = Segmenter(network, INFO.intensity)
    for compute in (segmenter.labels, segmenter.probabilities):
        with pytest.raises(InputError, match=r"expected an image \[Z, Y, X, C\] of 1 channels"):
            compute(np.zeros(shape, np.float32))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"structures": "ab"}, "expected a tuple of names as structures, found a str"),
        ({"spacing": (2.0, 1.0)}, r"spacing\.2: Field required"),
        ({"spacing": (2.0, 1.0, -1.0)}, r"spacing\.2: Input should be greater than 0"),
        ({"patch_size": "8"}, r"patch_size: Input should be a valid tuple"),
        ({"patch_size": (8, 8, 0)}, r"patch_size\.2: Input should be greater than 0"),
        ({"structures": (1, 2)}, r"structures\.1: Input should be a valid string"),
    ],
)
def test_no_model_is_saved_that_could_not_be_loaded(network, tmp_path, changes, message):
    with pytest.raises(InputError, match=message) as caught:
        artifact.save(network, replace(INFO, **changes), tmp_path / "model")
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())


def test_what_is_no_model_is_not_saved(network, tmp_path):
    with pytest.raises(InputError, match="expected a ModelInfo, found a dict"):
        artifact.save(network, {}, tmp_path / "model")
    with pytest.raises(InputError, match="expected a network of base_model or load, found a Mod"):
        artifact.save(INFO, network, tmp_path / "model")


@pytest.mark.parametrize(
    ("volume", "message"),
    [
        (np.zeros((3, 4, 5, 1)), "expected a Volume, as volume_io.read gives, found a ndarray"),
        (Volume(np.zeros((3, 4, 5), np.uint8), (1, 1, 1)), r"found the shape \(3, 4, 5\)"),
        (Volume(np.zeros((3, 4, 5, 1), bool), (1, 1, 1)), "a.nii.gz: cannot write: .*bool"),
    ],
)
def test_what_is_no_volume_is_not_written(tmp_path, volume, message):
    with pytest.raises(InputError, match=message):
        volume_io.write(tmp_path / "a.nii.gz", volume)
    assert not list(tmp_path.iterdir())


def test_whole_numbers_are_normalised_as_others():
    array = np.arange(-200, 400, 10).reshape(3, 4, 5, 1)
    expected = INFO.intensity.normalise(array.astype(np.float32))
    for kind in (np.int16, np.float64):
        np.testing.assert_array_equal(INFO.intensity.normalise(array.astype(kind)), expected)
