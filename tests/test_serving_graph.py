"""The `segment` signature: the command's labels, from a server that has TensorFlow alone."""

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import helpers
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import config_pb2

from tl3d_keras import artifact, graph_tiling, inference, resampling, tiling, volume_io
from tl3d_keras.geometry import Geometry
from tl3d_keras.intensity import Intensity
from tl3d_keras.volumes import Volume

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the real scans are not here")
ZSCORE = Intensity("zscore")
# (arguments of the network, tile, intensity)
NETWORKS = {
    "same, whole": ({}, None, helpers.WINDOW),
    "same, tiles": ({}, 24, ZSCORE),
    "valid, whole": ({"padding": "valid"}, None, ZSCORE),
    "valid, tiles": ({"padding": "valid"}, 24, helpers.WINDOW),
    "group": ({"normalization": "group"}, None, helpers.WINDOW),
    "instance, valid": ({"normalization": "instance", "padding": "valid"}, None, ZSCORE),
    "two channels": (
        {"input_channels": 2, "levels": 1},
        8,
        Intensity("window", (-100.0, -300.0), (300.0, 100.0)),
    ),
}


def saved(folder, arguments, tile=None, intensity=helpers.WINDOW):
    network = helpers.network(**arguments)
    channels = [f"channel {i}" for i in range(arguments.get("input_channels", 1))]
    info = helpers.info(channels=channels, intensity=intensity)
    info = dataclasses.replace(info, patch_size=(24, 24, 24))
    return network, info, artifact.save(network, info, folder / "model", tile)


def scan(shape, channels=1):
    return np.random.default_rng(2).normal(scale=200, size=(*shape, channels)).astype("f")


def by_hand(network, info, image, spacing):
    segmenter = inference.Segmenter(network, info.intensity, None, info.patch_size)
    return inference.segment(Volume(image, spacing), segmenter, info.spacing).array[..., 0]


@pytest.mark.parametrize("name", list(NETWORKS))
def test_labels_are_those_of_the_command(tmp_path, name):
    network, info, folder = saved(tmp_path, *NETWORKS[name])
    segment = tf.saved_model.load(str(folder)).signatures["segment"]
    assert segment.structured_outputs["labels"].dtype == tf.uint8
    for shape, spacing in (
        ((11, 31, 50), (2.0, 1.0, 1.0)),
        # Odd and even sizes, finer and coarser, have places half-way between two labels.
        ((13, 31, 40), (1.5, 1.3, 0.7)),
        ((9, 3, 20), (3.0, 3.0, 1.0)),
        ((1, 1, 1), (1.0, 1.0, 1.0)),
    ):
        image = scan(shape, len(info.channels))
        found = segment(image=tf.constant(image), spacing=tf.constant(spacing))["labels"].numpy()
        expected = by_hand(network, info, image, spacing)
        assert found.dtype == np.uint8
        assert shape == (1, 1, 1) or len(np.unique(expected)) > 1
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("size", [1, 7, 44, 61, 200])
@pytest.mark.parametrize("tile", [1, 64, 132, 260, 1000])
def test_tiles_cover_an_axis_with_what_the_network_needs_around_them(padding, size, tile):
    geometry = Geometry(4, padding)
    spans = graph_tiling.plan_axis(tf.constant(size), geometry, tile)
    read = int(spans.read_size)
    assert geometry.is_input_size(read)
    assert spans.starts[0] == 0 and spans.stops[-1] == size
    np.testing.assert_array_equal(spans.starts[1:], spans.stops[:-1])
    for first, start, stop, skip in zip(
        spans.read_starts, spans.starts, spans.stops, spans.skips, strict=True
    ):
        assert (first + geometry.margin) % geometry.stride == 0
        assert skip == start - first - geometry.margin and skip >= 0
        assert skip + stop - start <= geometry.output_size(read)
        if padding == "same":
            # Where the network pads within reach, there the volume ends.
            assert first == 0 or start - first >= geometry.reach
            assert first + read >= min(stop + geometry.reach, -(-size // 8) * 8)


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("size", [1, 8, 15, 16, 17, 40, 101, 1009])
def test_patches_are_those_of_the_command(padding, size):
    geometry = Geometry(2, padding)
    patch = 16 + 2 * geometry.margin
    spans = graph_tiling.plan_patches(tf.constant(size), geometry, patch)
    expected = tiling.plan_patches(size, geometry, patch)
    found = zip(spans.read_starts, spans.starts, spans.stops, spans.skips, strict=True)
    assert [tuple(map(int, s)) for s in found] == [
        (s.read_start, s.start, s.stop, s.skip) for s in expected
    ]
    assert int(spans.read_size) == patch


def run_in_session(folder, *feeds):
    """As TF Serving's runtime does, which holds no feed against the signature's shape."""
    found = []
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        graph = tf.compat.v1.saved_model.load(session, ["serve"], str(folder))
        signature = graph.signature_def["segment"]
        assert sorted(signature.inputs) == ["image", "spacing"]
        options = config_pb2.CallableOptions(
            feed=[signature.inputs[key].name for key in ("image", "spacing")],
            fetch=[signature.outputs["labels"].name],
        )
        # `Session.run` would look at shapes first.
        run = session._make_callable_from_options(options)
        for feed in feeds:
            try:
                found.append(run(*feed)[0])
            except tf.errors.InvalidArgumentError as error:
                found.append(error.message)
    return found


IMAGE, SPACING = scan((5, 6, 7)), np.ones(3, "f")
BAD = {
    "rank 3": (IMAGE[0], SPACING, r"expected the shape \[Z, Y, X, 1\], found\W+6 7 1"),
    "rank 5": (IMAGE[None], SPACING, r"expected the shape \[Z, Y, X, 1\], found\W+1 5 6 7"),
    "no rank": (IMAGE[0, 0, 0, 0], SPACING, r"image: expected the shape"),
    "channels": (
        np.repeat(IMAGE, 2, -1),
        SPACING,
        r"expected the shape \[Z, Y, X, 1\], found\W+5 6 7 2",
    ),
    "empty": (IMAGE[:0], SPACING, r"image: expected voxels, found the shape\W+0 6 7 1"),
    "nan": (np.where(IMAGE == IMAGE.max(), np.nan, IMAGE), SPACING, r"expected finite values"),
    "infinite": (np.where(IMAGE == IMAGE.max(), np.inf, IMAGE), SPACING, "finite values"),
    "zero spacing": (
        IMAGE,
        SPACING * [1, 0, 1],
        r"spacing: expected 0.01 to 50.0 mm, found\W+1 0",
    ),
    "negative spacing": (IMAGE, -SPACING, r"spacing: expected 0.01 to 50.0 mm"),
    "absurd spacing": (IMAGE, 1000 * SPACING, r"spacing: expected 0.01 to 50.0 mm"),
    "nan spacing": (IMAGE, np.nan * SPACING, r"spacing: expected 0.01 to 50.0 mm"),
    "two spacings": (IMAGE, SPACING[:2], r"spacing: expected 3 numbers .* the shape\W+2"),
    "one spacing": (IMAGE, SPACING[0], r"spacing: expected 3 numbers"),
    "too large": (np.zeros((200, 120, 120, 1), "f"), 50 * SPACING, r"at most 1073741824 voxels"),
}


def test_bad_requests_are_refused_and_the_next_is_served(tmp_path):
    network, info, folder = saved(tmp_path, {})
    feeds = []
    for image, spacing, _ in BAD.values():
        feeds += [(image.astype("f"), spacing.astype("f")), (IMAGE, SPACING)]
    found = run_in_session(folder, *feeds)
    expected = by_hand(network, info, IMAGE, (1.0, 1.0, 1.0))
    for (name, (_, _, message)), refused, served in zip(
        BAD.items(), found[::2], found[1::2], strict=True
    ):
        assert isinstance(refused, str) and re.search(message, refused), (name, refused)
        np.testing.assert_array_equal(served, expected)


@pytest.mark.parametrize(
    ("padding", "fitting", "message"),
    [("same", 8, "sizes of 2 or 2k more"), ("valid", 20, "sizes of 18 or 2k more")],
)
def test_patches_that_do_not_fit_the_network_are_refused(tmp_path, padding, fitting, message):
    _, _, folder = saved(tmp_path, {"padding": padding, "levels": 2})
    served = tf.saved_model.load(str(folder)).signatures["serving_default"]
    for size in (fitting - 1, 0):
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            served(image=tf.zeros([1, fitting, fitting, size, 1]))
    assert served(image=tf.zeros([1, fitting, fitting, fitting, 1]))


@needs_data
@pytest.mark.parametrize(
    "scan, spacing, intensity",
    [
        ("ct/example_mr.nii.gz", (3.5, 2.0, 2.0), ZSCORE),
        ("hippocampus/imagesTr/hippocampus_001.nii.gz", (1.2, 0.9, 1.1), ZSCORE),
        pytest.param("ct/example_ct.nii.gz", (2.5,) * 3, helpers.WINDOW, marks=pytest.mark.slow),
        pytest.param("ct/dicom_series", (2.5,) * 3, helpers.WINDOW, marks=pytest.mark.slow),
        pytest.param(
            "left_atrium/imagesTr/la_000.nii.gz", (1.5,) * 3, ZSCORE, marks=pytest.mark.slow
        ),
    ],
)
def test_real_scans_get_the_labels_of_the_command(tmp_path, scan, spacing, intensity):
    network = helpers.network(padding="valid", levels=3)
    info = dataclasses.replace(helpers.info(intensity=intensity), spacing=spacing)
    folder = artifact.save(network, info, tmp_path / "model")
    segment = tf.saved_model.load(str(folder)).signatures["segment"]
    volume = volume_io.read(DATA / scan)
    expected = inference.segment(volume, inference.Segmenter(network, intensity), spacing)
    upright = resampling.canonical(volume)
    found = segment(
        image=tf.constant(upright.array, tf.float32),
        spacing=tf.constant(upright.spacing, tf.float32),
    )["labels"]
    back = resampling.labels_onto(upright.with_array(found.numpy()[..., None]), volume)
    assert len(np.unique(expected.array)) == 3
    assert np.mean(back.array == expected.array) > 0.9999


def test_serves_with_tensorflow_alone(tmp_path):
    network, info, folder = saved(tmp_path, {"padding": "valid"}, 24)
    image = scan((18, 20, 22))
    np.save(tmp_path / "image.npy", image)
    code = (
        "import sys, numpy as np, tensorflow as tf\n"
        f"model = tf.saved_model.load({str(folder)!r}).signatures\n"
        f"image = tf.constant(np.load({str(tmp_path / 'image.npy')!r}))\n"
        "labels = model['segment'](image=image, spacing=tf.constant([1.5, 1.3, 0.7]))['labels']\n"
        f"np.save({str(tmp_path / 'labels.npy')!r}, labels)\n"
        "found = model['serving_default'](image=image[tf.newaxis])['probabilities']\n"
        f"np.save({str(tmp_path / 'probabilities.npy')!r}, found)\n"
        "assert not any(m.startswith(('tl3d', 'SimpleITK')) for m in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, capture_output=True)
    expected = by_hand(network, info, image, (1.5, 1.3, 0.7))
    np.testing.assert_array_equal(np.load(tmp_path / "labels.npy"), expected)
    probabilities = network(info.intensity.normalise(image[np.newaxis]))
    np.testing.assert_allclose(np.load(tmp_path / "probabilities.npy"), probabilities, atol=1e-6)
