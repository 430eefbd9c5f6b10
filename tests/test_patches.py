"""Where patches are drawn, and that what is cut out is what is there."""

import numpy as np
import pytest
import tensorflow as tf

from tl3d_keras import case_source, patches, records
from tl3d_keras.annotation import IGNORE
from tl3d_keras.patches import OpenCase
from tl3d_keras.volumes import Volume

SHAPE = (7, 9, 8)


def make_case(labels: np.ndarray | None, shape=SHAPE, channels: int = 2) -> OpenCase:
    """A case whose image counts its voxels from 1 on."""
    count = np.arange(1, np.prod(shape) * channels + 1, dtype=np.int16)
    image = Volume(count.reshape(*shape, channels), (1.0, 1.0, 1.0))
    return case_source.opened(records.encode("a", image, labels, [1, 2, 3]))


def sparse(rng) -> np.ndarray:
    """Two annotated slices and a scribble; structure 1 is 30 times as large as structure 3."""
    labels = np.full(SHAPE, IGNORE, np.uint8)
    labels[[1, 4]] = 0
    labels[1, 2:8, 1:6] = 1
    labels[4, 3, 1:5] = 2
    labels[6, 8, 7] = 3
    return labels


def draw(case: records.Case, count: int) -> np.ndarray:
    """`count` centres [count, 3] with the seeds (5, 0), (5, 1), ..."""
    seeds = tf.data.Dataset.range(count).map(
        lambda number: patches.draw_centre(case, tf.stack([tf.constant(5, tf.int64), number]))
    )
    return np.array(list(seeds.as_numpy_iterator()))


def test_centres_are_annotated_and_a_third_chosen_by_structure(rng):
    labels = sparse(rng)
    found = labels[tuple(draw(make_case(labels), 600).T)]
    assert IGNORE not in found
    share = np.bincount(found, minlength=4) / 600
    annotated = labels[labels != IGNORE]
    by_voxel = np.bincount(annotated, minlength=4) / annotated.size
    expected = by_voxel * 2 / 3 + np.array([0, 1, 1, 1]) / 9
    # Four standard deviations of 600 draws.
    assert (np.abs(share - expected) < 4 * np.sqrt(expected * (1 - expected) / 600)).all(), share


def test_centres_reach_every_annotated_voxel():
    labels = np.full(SHAPE, IGNORE, np.uint8)
    labels[2, 3, 4:7] = 1
    labels[5, 0, :2] = 0
    found = {tuple(centre) for centre in draw(make_case(labels), 150)}
    assert found == {tuple(voxel) for voxel in np.argwhere(labels != IGNORE)}


def test_background_alone_is_drawn():
    labels = np.full(SHAPE, IGNORE, np.uint8)
    labels[3, 1, 1] = 0
    assert (draw(make_case(labels), 20) == [3, 1, 1]).all()


def test_unlabelled_case_gives_any_voxel():
    found = draw(make_case(None), 400)
    assert found.min(axis=0).tolist() == [0, 0, 0]
    assert found.max(axis=0).tolist() == [n - 1 for n in SHAPE]


def test_draws_depend_on_the_seed_alone(rng):
    case = make_case(sparse(rng))
    in_graph = draw(case, 40)
    eager = [patches.draw_centre(case, tf.constant([5, n], tf.int64)).numpy() for n in range(40)]
    np.testing.assert_array_equal(in_graph, eager)
    assert len(np.unique(in_graph, axis=0)) > 20


def test_every_voxel_of_a_large_scan_can_be_drawn():
    # Eight voxels to a step of float32; only the shape of the image counts here.
    shape = (256, 512, 512)
    none = tf.zeros([0], tf.int64)
    runs = (tf.constant([0], tf.int64), tf.constant([2**26], tf.int64), tf.constant([1], tf.int64))
    for labels in ((none, none, none), runs):
        centres = draw(OpenCase(tf.zeros((*shape, 1), tf.uint8), *labels), 100)
        flat = np.ravel_multi_index(tuple(centres.T), shape)
        assert set(flat % 8) == set(range(8))
        assert flat.min() < 2**23 and flat.max() > 7 * 2**23


def test_a_case_of_usual_size_is_drawn_from_by_one_number(rng):
    labels = sparse(rng)
    labels[labels != IGNORE] = 0
    annotated = np.argwhere(labels != IGNORE)
    for number, centre in enumerate(draw(make_case(labels), 40)):
        position = tf.random.stateless_uniform([3], [5, number]).numpy()[2]
        np.testing.assert_array_equal(centre, annotated[int(position * len(annotated))])


BOXES = [
    ((0, 0, 0), SHAPE),
    ((1, 4, 2), (3, 2, 5)),
    ((-2, -3, -1), (5, 6, 4)),
    ((4, 5, 6), (6, 7, 5)),
    ((-3, -2, -4), (13, 13, 16)),
    ((6, 8, 7), (1, 1, 1)),
    ((-9, 0, 0), (4, 3, 3)),
    ((0, 0, 8), (2, 2, 4)),
    ((20, -30, 40), (2, 3, 4)),
]


def cut(array: np.ndarray, start, size, fill: int) -> np.ndarray:
    """The box of an array that is surrounded by `fill`."""
    margin = 50
    padded = np.pad(
        array, [(margin, margin)] * 3 + [(0, 0)] * (array.ndim - 3), constant_values=fill
    )
    return padded[
        tuple(slice(margin + s, margin + s + n) for s, n in zip(start, size, strict=True))
    ]


def both_ways(cropped, start, size) -> list[np.ndarray]:
    start, size = tf.constant(start, tf.int64), tf.constant(size, tf.int64)
    in_graph = tf.data.Dataset.from_tensors((start, size)).map(cropped)
    return [cropped(start, size).numpy(), next(iter(in_graph)).numpy()]


@pytest.mark.parametrize(("start", "size"), BOXES)
def test_crop_labels_equals_slicing(rng, start, size):
    labels = rng.choice(np.array([0, 0, 1, 2, 3, IGNORE, IGNORE], np.uint8), SHAPE)
    case = make_case(labels)
    for found in both_ways(lambda *box: patches.crop_labels(case, *box), start, size):
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, cut(labels, start, size, IGNORE))


@pytest.mark.parametrize("labels", [None, np.zeros(SHAPE, np.uint8)])
def test_crop_labels_of_no_run_and_of_one(labels):
    case = make_case(labels)
    expected = np.full(SHAPE, IGNORE, np.uint8) if labels is None else labels
    for start, size in BOXES:
        found = patches.crop_labels(case, tf.constant(start, tf.int64), tf.constant(size, tf.int64))
        np.testing.assert_array_equal(found, cut(expected, start, size, IGNORE))


@pytest.mark.parametrize(("start", "size"), BOXES)
def test_crop_image_pads_with_the_floor(start, size):
    image = make_case(None).words
    floor = tf.fill([image.shape[-1]], -7.0)
    for found in both_ways(lambda *box: patches.crop_image(image, *box, floor), start, size):
        np.testing.assert_array_equal(found, cut(image.numpy(), start, size, -7))
