"""Masked Dice as sums: hand-computed, over batches, replicas and partially labelled cases."""

import numpy as np
import pytest
import tensorflow as tf

from tl3d_keras.annotation import IGNORE
from tl3d_keras.errors import InputError
from tl3d_keras.metrics import DiceSums, MaskedDiceMetric

LABELS = np.array([[0, 1, 1, 2, IGNORE, IGNORE], [1, 0, 0, 0, IGNORE, 0]], np.uint8)
PREDICTED = np.array([[0, 1, 2, 2, 1, 2], [1, 1, 2, 0, 2, 0]], np.uint8)
ANNOTATED = np.array([[1, 1, 1], [1, 1, 0]], bool)
# Structure 1: 2 * (1 + 1) / (2 + 1 + 1 + 2); structure 2, in the first case: 2 * 1 / (1 + 2).
EXPECTED = [4 / 6, 2 / 3]


def test_by_hand():
    metric = MaskedDiceMetric(3)
    metric.update_state(
        LABELS[:, None, None],
        tf.one_hot(PREDICTED, 3)[:, None, None],
        annotated=tf.constant(ANNOTATED),
    )
    np.testing.assert_allclose(metric.per_structure(), EXPECTED, rtol=1e-6)
    np.testing.assert_allclose(metric.result(), np.mean(EXPECTED), rtol=1e-6)


# With the second case's annotation of structure 2, where it was predicted once for nothing.
@pytest.mark.parametrize(("structure", "expected"), [(1, 4 / 6), (2, 2 / 4)])
def test_one_structure(structure, expected):
    metric = MaskedDiceMetric(3, structure=structure)
    assert float(metric.result()) == 0.0
    metric.update_state(LABELS[:, None, None], tf.one_hot(PREDICTED, 3)[:, None, None])
    np.testing.assert_allclose(metric.result(), expected, rtol=1e-6)
    assert MaskedDiceMetric.from_config(metric.get_config()).structure == structure


def test_what_it_does_not_take():
    with pytest.raises(InputError, match="dice: expected at most 255 classes, .* found 256"):
        MaskedDiceMetric(256)
    for structure in (0, 3):
        with pytest.raises(InputError, match=f"expected a structure of 1 to 2, found {structure}"):
            MaskedDiceMetric(3, structure=structure)
    with pytest.raises(InputError, match="dice: expected no sample_weight, found one"):
        MaskedDiceMetric(3).update_state(
            LABELS[:, None, None], tf.one_hot(PREDICTED, 3)[:, None, None], tf.ones(2)
        )


def test_another_number_of_classes_is_refused():
    with pytest.raises(InputError, match="dice: expected num_classes=3 .* found 2"):
        MaskedDiceMetric(2).update_state(
            LABELS[:, None, None], tf.one_hot(PREDICTED, 3)[:, None, None]
        )


def test_epoch_is_an_aggregate_not_a_mean_of_batches():
    metric = MaskedDiceMetric(3)
    for i in (0, 1):
        metric.update_state(
            LABELS[i : i + 1, None, None],
            tf.one_hot(PREDICTED[i : i + 1], 3)[:, None, None],
            annotated=tf.constant(ANNOTATED[i : i + 1]),
        )
    np.testing.assert_allclose(metric.per_structure(), EXPECTED, rtol=1e-6)
    metric.reset_state()
    assert float(metric.result()) == 0.0


def test_numpy_sums_agree():
    sums = DiceSums(2)
    sums.add(LABELS[0].reshape(1, 2, 3), PREDICTED[0].reshape(1, 2, 3), [1, 2])
    sums.add(LABELS[1].reshape(1, 2, 3), PREDICTED[1].reshape(1, 2, 3), [1])
    np.testing.assert_allclose(sums.dice(), EXPECTED)
    assert DiceSums(2).dice() == [None, None]


@pytest.mark.parametrize("replicas", [1, 2, 4])
def test_equal_on_replicas(replicas, mirrored):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, (4, 2, 3, 4)).astype(np.uint8)
    logits = rng.normal(size=(4, 2, 3, 4, 3)).astype(np.float32)
    single = MaskedDiceMetric(3)
    single.update_state(labels, logits)
    strategy = mirrored(replicas)
    with strategy.scope():
        metric = MaskedDiceMetric(3)
    dataset = strategy.experimental_distribute_dataset(
        tf.data.Dataset.from_tensor_slices((labels, logits)).batch(4)
    )
    for batch in dataset:
        strategy.run(metric.update_state, batch)
    np.testing.assert_allclose(metric.result(), single.result(), rtol=1e-6)
