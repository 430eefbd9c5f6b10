"""Tiles: the same result whatever their size, and exactly the network's own."""

import numpy as np
import pytest

from tl3d_keras import inference
from tl3d_keras.errors import InputError
from tl3d_keras.inference import Segmenter, plan_axis, plan_patches, plan_tiles
from tl3d_keras.intensity import Intensity
from tl3d_keras.unet3d import Geometry, UNet3D, named_weights
from tl3d_keras.volumes import Volume

WINDOW = Intensity("window", (-200.0,), (300.0,))


def network(padding, levels=3, seed=0):
    model = UNet3D(num_classes=3, filters=2, levels=levels, padding=padding)
    rng = np.random.default_rng(seed)
    for variable in named_weights(model).values():
        variable.assign(rng.normal(scale=0.3, size=variable.shape))
    return model


def scan(shape, seed=1):
    return np.random.default_rng(seed).normal(scale=150, size=(*shape, 1)).astype(np.float32)


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("size", [1, 7, 44, 61, 200])
@pytest.mark.parametrize("max_input", [0, 64, 132, 1000])
def test_tiles_cover_the_axis_once_at_multiples_of_the_stride(padding, size, max_input):
    geometry = Geometry(4, padding)
    spans = plan_axis(size, geometry, max_input)
    assert [s.start for s in spans] == [0, *(s.stop for s in spans[:-1])]
    assert spans[-1].stop == size
    for span in spans:
        assert geometry.is_input_size(span.read_size)
        assert (span.read_start + geometry.margin) % 8 == 0
        assert span.skip == span.start - span.read_start - geometry.margin
        assert span.skip + span.stop - span.start <= geometry.output_size(span.read_size)


@pytest.mark.parametrize("padding", ["valid", "same"])
def test_results_are_the_same_whatever_the_tile(padding):
    model, image = network(padding, levels=2), scan((42, 47, 53))
    whole = Segmenter(model, WINDOW, 1e12)
    assert len(plan_tiles(image.shape[:3], model, 1e12)) == 1
    expected = whole.probabilities(image)
    counts = set()
    for voxels in (32**3, 32 * 36 * 40, 40**3):
        memory = voxels * 2 * inference._BYTES_PER_VOXEL_AND_FILTER
        counts.add(len(plan_tiles(image.shape[:3], model, memory)))
        found = Segmenter(model, WINDOW, memory)
        np.testing.assert_allclose(found.probabilities(image), expected, atol=1e-5)
        np.testing.assert_array_equal(found.labels(image), expected.argmax(-1))
    assert len(counts) >= 3 and min(counts) > 1


@pytest.mark.parametrize("padding", ["valid", "same"])
def test_one_tile_is_the_network_on_the_padded_volume(padding):
    model, image = network(padding), scan((8, 8, 8))
    geometry = model.geometry
    after = geometry.input_size(8) - 8 - geometry.margin
    padded = np.pad(image[..., 0], [(geometry.margin, after)] * 3, constant_values=image.min())[
        ..., None
    ]
    expected = model(WINDOW.normalise(padded)[None])[0, :8, :8, :8]
    np.testing.assert_allclose(
        Segmenter(model, WINDOW, 1e12).probabilities(image), expected, atol=1e-6
    )


def test_zscore_is_that_of_the_whole_volume_in_every_tile():
    model, image = network("valid"), scan((58, 75, 90)) + np.linspace(0, 900, 90)[:, None]
    zscore = Intensity("zscore")
    memory = 64**3 * 2 * inference._BYTES_PER_VOXEL_AND_FILTER
    assert len(plan_tiles(image.shape[:3], model, memory)) > 1
    np.testing.assert_allclose(
        Segmenter(model, zscore, memory).probabilities(image),
        Segmenter(model, zscore, 1e12).probabilities(image),
        atol=1e-5,
    )


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("size", [1, 8, 15, 16, 17, 40, 101])
def test_patches_for_normalised_networks_cover_the_axis_once(padding, size):
    geometry = Geometry(2, padding)
    spans = plan_patches(size, geometry, 16 + 2 * geometry.margin)
    assert [s.start for s in spans] == [0, *(s.stop for s in spans[:-1])]
    assert spans[-1].stop == size
    for span in spans:
        assert span.stop > span.start
        assert span.read_size == 16 + 2 * geometry.margin
        assert span.skip == span.start - span.read_start - geometry.margin
        assert 0 <= span.skip and span.skip + span.stop - span.start <= 16
        inner = padding == "same" and 0 < span.start and span.stop < size
        assert not inner or 3 <= span.skip <= 5


def test_normalised_networks_see_tiles_of_their_training_patch():
    model = UNet3D(3, 8, 2, padding="same", normalization="group")
    image = scan((16, 16, 24))
    found = Segmenter(model, WINDOW, patch_size=(16, 16, 16)).probabilities(image)
    tiles = [model(WINDOW.normalise(image[None, :, :, x : x + 16]))[0].numpy() for x in (0, 8)]
    np.testing.assert_allclose(found[:, :, :12], tiles[0][:, :, :12], atol=1e-5)
    np.testing.assert_allclose(found[:, :, 12:], tiles[1][:, :, 4:], atol=1e-5)


def test_too_little_memory_says_how_much_is_needed():
    with pytest.raises(InputError, match="expected at least .* GiB for the smallest tile"):
        plan_tiles((300, 300, 300), network("valid", levels=4), 1e6)


def test_segment_writes_on_the_grid_of_the_input():
    model = network("same", levels=2)
    rng = np.random.default_rng(0)
    volume = Volume(
        rng.normal(scale=100, size=(9, 14, 11, 1)).astype(np.float32),
        (4.0, 1.5, 2.0),
        (10.0, -20.0, 30.0),
        (0.0, -1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0),
    )
    labels = inference.segment(volume, Segmenter(model, WINDOW), (2.0, 2.0, 2.0))
    assert labels.array.shape == (9, 14, 11, 1)
    assert labels.array.dtype == np.uint8
    assert (labels.spacing, labels.origin, labels.direction) == (
        volume.spacing,
        volume.origin,
        volume.direction,
    )


def test_segmentation_follows_the_orientation_of_the_scan():
    """A scan stored flipped is segmented as the same patient."""
    model = network("same", levels=2)
    plain = Volume(scan((8, 10, 12)), (1.0, 1.0, 1.0))
    flipped = Volume(
        plain.array[:, ::-1, ::-1],
        plain.spacing,
        (11.0, 9.0, 0.0),
        (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0),
    )
    segmenter = Segmenter(model, WINDOW)
    expected = inference.segment(plain, segmenter, plain.spacing).array
    found = inference.segment(flipped, segmenter, plain.spacing).array
    assert len(np.unique(expected)) > 1
    np.testing.assert_array_equal(found, expected[:, ::-1, ::-1])
