"""The `segment_oblique` signature: the command's grid and labels for scans that lie aslant."""

import dataclasses

import helpers
import numpy as np
import pytest
import tensorflow as tf

from tl3d_keras import artifact, graph_checks, inference, resampling
from tl3d_keras.graph_oblique import ObliqueGrid
from tl3d_keras.intensity import Intensity
from tl3d_keras.volumes import Volume

C, S = 0.75**0.5, 0.5
DIRECTIONS = {
    "turned": (C, -S, 0.0, S, C, 0.0, 0.0, 0.0, 1.0),
    "turned, flipped and permuted": (0.0, -S, C, 0.0, -C, -S, -1.0, 0.0, 0.0),
    "sheared": (1.0, 0.0, 0.0, 0.0, 1.0, -S, 0.0, 0.0, C),
}


def volume_of(array, direction, spacing=(2.0, 1.0, 1.3)):
    return Volume(array, spacing, (10.0, -20.0, 30.0), DIRECTIONS[direction])


def grid_of(volume, spacing):
    shape = tf.constant(volume.shape)
    return ObliqueGrid(shape, tf.constant(volume.spacing), tf.constant(volume.direction), spacing)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("spacing", [(2.0, 1.0, 1.3), (3.1, 0.7, 1.9)])
def test_there_and_back_as_the_command(direction, spacing, rng):
    image = rng.normal(scale=100, size=(9, 14, 17, 2)).astype(np.float32)
    volume = volume_of(image, direction)
    expected = resampling.to_grid(volume, spacing)
    grid = grid_of(volume, spacing)
    found = grid.resample(tf.constant(image)).numpy()
    assert found.shape == expected.array.shape and grid.voxels == np.prod(expected.shape)
    np.testing.assert_allclose(found, expected.array, atol=2e-3)
    labels = rng.integers(0, 9, (*expected.shape, 1)).astype(np.uint8)
    back = grid.labels_back(tf.constant(labels[..., 0])).numpy()
    expected = resampling.labels_onto(expected.with_array(labels), volume)
    np.testing.assert_array_equal(back, expected.array[..., 0])


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    network = helpers.network(input_channels=2)
    info = helpers.info(channels=("T1", "T2"), intensity=Intensity("zscore"))
    info = dataclasses.replace(info, spacing=(2.5, 1.5, 1.5))
    folder = artifact.save(network, info, tmp_path_factory.mktemp("model"))
    return network, info, tf.saved_model.load(str(folder))


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_labels_are_those_of_the_command(served, direction, rng):
    network, info, loaded = served
    volume = volume_of(rng.normal(80, 100, (9, 14, 17, 2)).astype(np.float32), direction)
    expected = inference.segment(
        volume, inference.Segmenter(network, info.intensity), info.spacing
    ).array[..., 0]
    found = loaded.signatures["segment_oblique"](
        image=tf.constant(volume.array),
        spacing=tf.constant(volume.spacing),
        direction=tf.constant(volume.direction),
    )["labels"].numpy()
    assert len(np.unique(expected)) > 1 and found.dtype == np.uint8
    assert np.mean(found == expected) > 0.999


@pytest.mark.parametrize(
    ("direction", "message"),
    [
        (np.eye(3), r"expected 9 numbers, found the shape\W+3 3"),
        (np.zeros(9), "expected three axes of length 1 in different directions"),
        (2 * np.eye(3).ravel(), "expected three axes of length 1"),
        (np.full(9, np.nan), "expected three axes of length 1"),
        (np.repeat([1.0, 0.0, 0.0], 3), "expected three axes of length 1"),
    ],
)
def test_a_direction_that_is_none(direction, message):
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        graph_checks.checked_direction(tf.constant(direction, tf.float32))
