"""Segmentation: the same whatever the tiles, exactly the network's own, with and without air."""

import helpers
import numpy as np
import pytest
import tensorflow as tf

from tl3d_keras import inference, tile_cost, tile_planner, tiling
from tl3d_keras.errors import InputError
from tl3d_keras.geometry import Geometry
from tl3d_keras.inference import Segmenter
from tl3d_keras.intensity import Intensity
from tl3d_keras.unet3d import UNet3D
from tl3d_keras.volumes import Volume

WINDOW = Intensity("window", (-200.0,), (300.0,))


def scan(shape, seed=1):
    return np.random.default_rng(seed).normal(scale=150, size=(*shape, 1)).astype(np.float32)


def body(shape, first, size):
    """A scan of air with tissue in a box, the air noisy below the window."""
    rng = np.random.default_rng(2)
    image = rng.uniform(-1100, -201, (*shape, 1)).astype(np.float32)
    box = tuple(slice(a, a + n) for a, n in zip(first, size, strict=True))
    image[box] = rng.normal(scale=150, size=(*size, 1))
    return image


def tiles_of(segmenter, steps, monkeypatch):
    """Has a segmenter take tiles of these output voxels."""
    axes = []

    def plan(shape, network, memory, probabilities, wanted=None, is_needed=None):
        bounds = wanted or [(0, n) for n in shape]
        geometry = Geometry(network.levels, network.padding)
        axes[:] = [
            tiling.plan_axis(n, geometry, step, *bound)
            for n, step, bound in zip(shape, steps, bounds, strict=True)
        ]
        return tuple(axes)

    monkeypatch.setattr(tile_planner, "plan_tiles", plan)
    return axes


def test_a_segmenter_follows_the_weights():
    network, image = helpers.network(), scan((8, 8, 8))
    segmenter = Segmenter(network, WINDOW)
    before = segmenter.probabilities(image)
    network.get_layer("decoder_0_conv_0").kernel.assign_add(tf.ones((3, 3, 3, 12, 4)))
    after = segmenter.probabilities(image)
    assert np.abs(after - before).max() > 0.01
    np.testing.assert_allclose(
        after, network(WINDOW.normalise(image)[None], training=False)[0], atol=1e-5
    )


def test_patches_of_no_size_cannot_be_blended():
    with pytest.raises(InputError, match="expected the patch_size .* with an overlap, found none"):
        Segmenter(helpers.network(), WINDOW, overlap=0.5)


STEPS = [(12, 12, 12), (2, 24, 48), (30, 8, 16), (99, 4, 99), (16, 99, 6), (10, 14, 18)]


@pytest.mark.parametrize("padding", ["valid", "same"])
def test_results_are_the_same_whatever_the_tile(padding, monkeypatch):
    network, image = helpers.network(padding=padding), scan((25, 31, 38))
    segmenter = Segmenter(network, WINDOW)
    expected = segmenter.probabilities(image)
    # Where two classes are all but equal, rounding decides.
    first, second = np.sort(expected, axis=-1)[..., :-3:-1].transpose(3, 0, 1, 2)
    clear = first - second > 1e-4
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(segmenter.labels(image), expected.argmax(-1))
    for steps in STEPS:
        axes = tiles_of(segmenter, steps, monkeypatch)
        np.testing.assert_allclose(segmenter.probabilities(image), expected, atol=1e-4)
        assert max(map(len, axes)) > 1
        labels = segmenter.labels(image)
        np.testing.assert_array_equal(labels[clear], expected.argmax(-1)[clear])


@pytest.mark.parametrize("padding", ["valid", "same"])
def test_one_tile_is_the_network_on_the_padded_volume(padding):
    network, image = helpers.network(padding=padding), scan((8, 8, 8))
    geometry = network.geometry
    after = geometry.input_size(8) - 8 - geometry.margin
    padded = np.pad(image[..., 0], [(geometry.margin, after)] * 3, constant_values=image.min())
    expected = network(WINDOW.normalise(padded[..., None])[None])[0, :8, :8, :8]
    np.testing.assert_allclose(Segmenter(network, WINDOW).probabilities(image), expected, atol=1e-5)


def test_zscore_is_that_of_the_whole_volume_in_every_tile(monkeypatch):
    network = helpers.network(padding="valid")
    image = scan((18, 25, 30)) + np.linspace(0, 900, 30, dtype=np.float32)[:, None]
    segmenter = Segmenter(network, Intensity("zscore"))
    expected = segmenter.probabilities(image)
    axes = tiles_of(segmenter, (8, 8, 8), monkeypatch)
    np.testing.assert_allclose(segmenter.probabilities(image), expected, atol=1e-5)
    assert min(map(len, axes)) > 1


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("mode", ["window", "zscore"])
def test_skipping_air_changes_nothing(padding, mode, monkeypatch):
    network = helpers.network(padding=padding)
    image = body((22, 50, 90), (9, 21, 30), (6, 5, 11))
    if mode == "zscore":
        image = np.maximum(image, -200)
    intensity = WINDOW if mode == "window" else Intensity("zscore")
    plain = Segmenter(network, intensity)
    skipping = Segmenter(network, intensity, skip_air=True)
    read, reader = [], inference.read_ahead

    def counted(image, tiles, floor):
        read.append(sum(np.prod([span.read_size for span in tile]) for tile in tiles))
        return reader(image, tiles, floor)

    monkeypatch.setattr(inference, "read_ahead", counted)
    # What a tile takes whatever its size would make one tile of this small scan the fastest.
    monkeypatch.setattr(tile_cost, "_SECONDS_PER_TILE", 0)
    tile_cost.of_tile.cache_clear()
    np.testing.assert_array_equal(skipping.labels(image), plain.labels(image))
    assert read[0] < 0.6 * read[1]
    np.testing.assert_allclose(skipping.probabilities(image), plain.probabilities(image), atol=1e-5)
    tile_cost.of_tile.cache_clear()


def test_nothing_but_air_is_one_answer():
    image = body((20, 20, 20), (0, 0, 0), (0, 0, 0))
    network = helpers.network()
    found = Segmenter(network, WINDOW, skip_air=True).probabilities(image)
    np.testing.assert_allclose(found, Segmenter(network, WINDOW).probabilities(image), atol=1e-6)


@pytest.mark.parametrize("skip_air", [False, True])
def test_normalised_networks_see_tiles_of_their_training_patch(skip_air):
    network = helpers.network(filters=8, normalization="group")
    image = body((16, 16, 40), (2, 3, 25), (8, 9, 10))
    segmenter = Segmenter(network, WINDOW, None, (16, 16, 16), skip_air=skip_air)
    found = segmenter.probabilities(image)
    for x, start, stop in ((0, 0, 12), (8, 12, 20), (16, 20, 28), (24, 28, 40)):
        tile = network(WINDOW.normalise(image[None, :, :, x : x + 16]))[0].numpy()
        expected = tile[:, :, start - x : stop - x]
        np.testing.assert_allclose(found[:, :, start:stop], expected, atol=1e-5)


@pytest.mark.parametrize("normalization", [None, "group"])
def test_patches_are_blended(normalization):
    """Two patches along x, by hand."""
    network = helpers.network(normalization=normalization)
    image = scan((16, 16, 24))
    segmenter = Segmenter(network, WINDOW, patch_size=(16, 16, 16), overlap=0.5)
    found = segmenter.probabilities(image)
    left, right = (
        network(WINDOW.normalise(image[None, :, :, x : x + 16]))[0].numpy() for x in (0, 8)
    )
    weight = np.exp(-0.5 * ((np.arange(16) - 7.5) / 2) ** 2)
    share = (weight[8:] / (weight[8:] + weight[:8]))[:, None]
    expected = np.concatenate(
        [left[:, :, :8], share * left[:, :, 8:] + (1 - share) * right[:, :, :8], right[:, :, 8:]], 2
    )
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("normalization", [None, "group"])
def test_blended_layers_of_slices_join(normalization):
    """Along z as along x, where all patches of a layer are added up before it is given out."""
    network = helpers.network(normalization=normalization)
    kernels = [v for v in network.trainable_variables if len(v.shape) == 5]
    for kernel in kernels:
        # Alike along z and x, so that the turned scan has the turned answer.
        kernel.assign((kernel + tf.transpose(kernel, [2, 1, 0, 3, 4])) / 2)
    image = body((13, 8, 37), (4, 2, 9), (5, 5, 9))
    segmenter = Segmenter(network, WINDOW, None, (8, 8, 8), overlap=0.3, skip_air=True)
    expected = segmenter.probabilities(image)
    turned = segmenter.probabilities(np.swapaxes(image, 0, 2))
    np.testing.assert_allclose(np.swapaxes(turned, 0, 2), expected, atol=1e-5)
    np.testing.assert_array_equal(segmenter.labels(image), expected.argmax(-1))
    plain = Segmenter(network, WINDOW, None, (8, 8, 8), overlap=0.3)
    np.testing.assert_allclose(plain.probabilities(image), expected, atol=1e-5)


def test_mirrors_are_averaged():
    network, image = helpers.network(), scan((8, 8, 12))
    plain = Segmenter(network, WINDOW)
    expected = sum(
        np.flip(plain.probabilities(np.flip(image, axes)), axes) for axes in ((), 0, 2, (0, 2))
    )
    mirrored = Segmenter(network, WINDOW, mirror_axes=(0, 2))
    np.testing.assert_allclose(mirrored.probabilities(image), expected / 4, atol=1e-5)
    np.testing.assert_array_equal(mirrored.labels(image), expected.argmax(-1))


def test_what_cannot_be_asked_for():
    sided = UNet3D(3, 2, 2, padding="same", structures=["kidney_left", "kidney_right"])
    with pytest.raises(InputError, match="no mirrors along x .* 'kidney_left' and 'kidney_right'"):
        Segmenter(sided, WINDOW, mirror_axes=(2,))
    Segmenter(sided, WINDOW, mirror_axes=(0, 1))
    with pytest.raises(InputError, match="no --overlap for a network with valid padding"):
        Segmenter(helpers.network(padding="valid"), WINDOW, patch_size=(32,) * 3, overlap=0.5)
    with pytest.raises(InputError, match="--overlap of 0 to 0.9, found 1"):
        Segmenter(helpers.network(), WINDOW, patch_size=(16,) * 3, overlap=1)
    small = Segmenter(helpers.network(), WINDOW, 1e6, patch_size=(16,) * 3, overlap=0.5)
    with pytest.raises(InputError, match="GiB for tiles of 16, 16, 16 voxels, found 0.00 GiB"):
        small.labels(scan((16, 16, 16)))
    normalised = helpers.network(normalization="group")
    small = Segmenter(normalised, WINDOW, 1e6, patch_size=(16,) * 3)
    with pytest.raises(InputError, match="GiB for tiles of 16, 16, 16 voxels, found 0.00 GiB"):
        small.labels(scan((16, 16, 16)))


def test_segment_writes_on_the_grid_of_the_input():
    rng = np.random.default_rng(0)
    volume = Volume(
        rng.normal(scale=100, size=(9, 14, 11, 1)).astype(np.float32),
        (4.0, 1.5, 2.0),
        (10.0, -20.0, 30.0),
        (0.0, -1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0),
    )
    labels = inference.segment(volume, Segmenter(helpers.network(), WINDOW), (2.0, 2.0, 2.0))
    assert labels.array.shape == (9, 14, 11, 1)
    assert labels.array.dtype == np.uint8
    assert (labels.spacing, labels.origin, labels.direction) == (
        volume.spacing,
        volume.origin,
        volume.direction,
    )


def test_segmentation_follows_the_orientation_of_the_scan():
    """A scan stored flipped is segmented as the same patient."""
    plain = Volume(scan((8, 10, 12)), (1.0, 1.0, 1.0))
    flipped = Volume(
        plain.array[:, ::-1, ::-1],
        plain.spacing,
        (11.0, 9.0, 0.0),
        (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0),
    )
    segmenter = Segmenter(helpers.network(), WINDOW)
    expected = inference.segment(plain, segmenter, plain.spacing).array
    found = inference.segment(flipped, segmenter, plain.spacing).array
    assert len(np.unique(expected)) > 1
    np.testing.assert_array_equal(found, expected[:, ::-1, ::-1])
