"""Masked losses: hand-computed numbers, no influence of unannotated voxels, equal on replicas."""

import numpy as np
import pytest
import tensorflow as tf

from tl3d_keras.annotation import IGNORE
from tl3d_keras.losses import (
    LOSSES,
    MaskedCrossEntropy,
    MaskedCrossEntropyDice,
    MaskedDice,
)

ALL = pytest.mark.parametrize("name", list(LOSSES))


def volume(*labels: int) -> tf.Tensor:
    """Labels [1, 1, 1, N]."""
    return tf.constant(labels, tf.uint8)[tf.newaxis, tf.newaxis, tf.newaxis]


def probabilities(*rows: tuple) -> tf.Tensor:
    """Probabilities [1, 1, 1, N, K + 1]."""
    return tf.constant(rows, tf.float32)[tf.newaxis, tf.newaxis, tf.newaxis]


HALVES = probabilities((0.5, 0.25, 0.25), (0.25, 0.5, 0.25), (0.1, 0.1, 0.8), (0.2, 0.4, 0.4))


@pytest.mark.parametrize(
    ("labels", "annotated", "expected"),
    [
        # Fully annotated: the mean of -log p(label).
        ((0, 1, 2, 0), (1, 1, 1), -np.log([0.5, 0.5, 0.8, 0.2]).mean()),
        # Unannotated voxels leave the mean to the others.
        ((0, IGNORE, 2, IGNORE), (1, 1, 1), -np.log([0.5, 0.8]).mean()),
        # Structure 2 was not annotated: a 0 may be background or structure 2.
        ((0, 1, 0, 0), (1, 1, 0), -np.log([0.75, 0.5, 0.9, 0.6]).mean()),
        # Only background is known: every 0 may be anything, so there is nothing to learn.
        ((0, 0, 0, 0), (1, 0, 0), 0.0),
        ((IGNORE,) * 4, (1, 1, 1), 0.0),
    ],
)
def test_cross_entropy_by_hand(labels, annotated, expected):
    mask = np.array([annotated], bool)
    value = MaskedCrossEntropy().value(volume(*labels), HALVES, mask)
    np.testing.assert_allclose(value, expected, atol=1e-6)
    logits = tf.math.log(HALVES) + 3.0
    value = MaskedCrossEntropy(from_logits=True).value(volume(*labels), logits, mask)
    np.testing.assert_allclose(value, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("labels", "annotated", "expected"),
    [
        # Structure 1: 2 * 0.5 / (1.25 + 1); structure 2: 2 * 0.8 / (1.7 + 1).
        ((0, 1, 2, 0), (1, 1, 1), 1 - np.mean([1.0 / 2.25, 1.6 / 2.7])),
        # Without the last two voxels, structure 2 is not in the batch.
        ((0, 1, IGNORE, IGNORE), (1, 1, 1), 1 - 1.0 / 1.75),
        # Structure 1 was not annotated in the case, so it counts no more.
        ((0, 0, 2, 0), (1, 0, 1), 1 - 1.6 / 2.7),
        ((0, 0, 0, 0), (1, 1, 1), 0.0),
        ((IGNORE,) * 4, (1, 1, 1), 0.0),
    ],
)
def test_dice_by_hand(labels, annotated, expected):
    value = MaskedDice().value(volume(*labels), HALVES, np.array([annotated], bool))
    np.testing.assert_allclose(value, expected, atol=1e-6)


def test_dice_counts_a_structure_in_the_cases_that_annotate_it():
    labels = tf.concat([volume(0, 1, 2, 0), volume(0, 0, 2, 0)], 0)
    prediction = tf.concat([HALVES, HALVES], 0)
    annotated = np.array([(1, 1, 1), (1, 0, 1)], bool)
    value = MaskedDice().value(labels, prediction, annotated)
    np.testing.assert_allclose(value, 1 - np.mean([1.0 / 2.25, 3.2 / 5.4]), atol=1e-6)


def random_batch(annotated_fraction=0.6, batch=4, classes=4):
    rng = np.random.default_rng(3)
    labels = rng.integers(0, classes, (batch, 5, 6, 7)).astype(np.uint8)
    labels[rng.random(labels.shape) > annotated_fraction] = IGNORE
    logits = rng.normal(size=(*labels.shape, classes)).astype(np.float32)
    return tf.constant(labels), tf.constant(logits)


def test_equals_keras_when_all_is_annotated():
    labels, logits = random_batch(annotated_fraction=1.0)
    ours = MaskedCrossEntropy(from_logits=True)(labels, logits)
    keras = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)(labels, logits)
    np.testing.assert_allclose(ours, keras, atol=1e-6)
    if hasattr(tf.keras.losses, "Dice"):
        truth, guess = tf.one_hot(labels, 4), tf.nn.softmax(logits)
        keras = [
            tf.keras.losses.Dice(reduction="sum")(truth[..., k], guess[..., k]) for k in range(1, 4)
        ]
        np.testing.assert_allclose(
            MaskedDice(from_logits=True)(labels, logits), np.mean(keras), atol=1e-6
        )


def test_sum_is_the_sum():
    labels, logits = random_batch()
    parts = [loss(from_logits=True)(labels, logits) for loss in (MaskedCrossEntropy, MaskedDice)]
    total = MaskedCrossEntropyDice(from_logits=True)(labels, logits)
    np.testing.assert_allclose(total, sum(parts), rtol=1e-6)


@ALL
def test_unannotated_voxels_have_no_influence(name):
    labels, logits = random_batch()
    annotated = np.array([[1, 1, 0, 1]] * 2 + [[1, 1, 1, 1]] * 2, bool)
    labels = tf.where(
        (labels == 2) & ~annotated[:, 2][:, None, None, None], tf.constant(0, tf.uint8), labels
    )
    loss = LOSSES[name](from_logits=True)

    def value_and_gradient(logits):
        with tf.GradientTape() as tape:
            tape.watch(logits)
            value = loss.value(labels, logits, annotated)
        return value, tape.gradient(value, logits)

    value, gradient = value_and_gradient(logits)
    unannotated = labels.numpy() == IGNORE
    assert (gradient.numpy()[unannotated] == 0).all()
    assert (np.abs(gradient.numpy()[~unannotated]).sum(-1) > 0).mean() > 0.9
    changed = tf.where(unannotated[..., None], 50.0, logits)
    other_value, other_gradient = value_and_gradient(changed)
    np.testing.assert_array_equal(value, other_value)
    np.testing.assert_array_equal(
        gradient.numpy()[~unannotated], other_gradient.numpy()[~unannotated]
    )


@ALL
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_empty_batch_gives_zero(name, dtype):
    logits = tf.cast(random_batch()[1], dtype)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        value = LOSSES[name](from_logits=True).value(
            tf.fill(logits.shape[:-1], tf.constant(IGNORE, tf.uint8)), logits
        )
    assert value.dtype == tf.float32
    assert float(value) == 0.0
    assert (tape.gradient(value, logits).numpy() == 0).all()


@ALL
def test_half_precision_predictions_are_computed_with_in_float32(name):
    labels, logits = random_batch()
    half = tf.cast(logits, tf.bfloat16)
    loss = LOSSES[name](from_logits=True)
    np.testing.assert_array_equal(
        loss.value(labels, half), loss.value(labels, tf.cast(half, tf.float32))
    )


def uneven_batch():
    """Eight cases: two without any annotation, the others with much or little."""
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 3, (8, 4, 4, 4)).astype(np.uint8)
    share = np.array([0, 0, 0.02, 1, 0.5, 0.9, 0.1, 0.3])[:, None, None, None]
    labels[rng.random(labels.shape) >= share] = IGNORE
    annotated = np.ones((8, 3), bool)
    annotated[3:5, 2] = False
    labels[3:5][labels[3:5] == 2] = 0
    return {
        "image": rng.normal(size=(8, 4, 4, 4, 2)).astype(np.float32),
        "labels": labels,
        "annotated": annotated,
    }


@ALL
@pytest.mark.parametrize("replicas", [1, 2, 4])
def test_replicas_give_the_loss_and_gradient_of_one_device(name, replicas, mirrored):
    data = uneven_batch()
    kernel = np.random.default_rng(1).normal(size=(1, 1, 1, 2, 3)).astype(np.float32)
    loss = LOSSES[name](from_logits=True)

    def value_and_gradient(strategy):
        with strategy.scope():
            weight = tf.Variable(kernel)

        def replica(batch):
            with tf.GradientTape() as tape:
                logits = tf.nn.conv3d(batch["image"], weight, [1] * 5, "SAME")
                value = loss.value(batch["labels"], logits, batch["annotated"])
                share = value / strategy.num_replicas_in_sync
            gradient = tape.gradient(share, weight)
            context = tf.distribute.get_replica_context()
            return value, context.all_reduce(tf.distribute.ReduceOp.SUM, gradient)

        dataset = tf.data.Dataset.from_tensors(data).unbatch().batch(8)
        batch = next(iter(strategy.experimental_distribute_dataset(dataset)))
        run = tf.function(lambda batch: strategy.run(replica, (batch,)))
        return [strategy.experimental_local_results(result) for result in run(batch)]

    expected_value, expected_gradient = value_and_gradient(tf.distribute.get_strategy())
    strategy = mirrored(replicas)
    values, gradients = value_and_gradient(strategy)
    assert len(values) == replicas
    for value, gradient in zip(values, gradients, strict=True):
        np.testing.assert_allclose(value, expected_value[0], rtol=1e-5)
        np.testing.assert_allclose(gradient, expected_gradient[0], rtol=1e-5, atol=1e-7)


@ALL
def test_keras_users_compile_with_it(name, tmp_path):
    labels, _ = random_batch()
    inputs = tf.keras.Input((5, 6, 7, 1))
    model = tf.keras.Model(inputs, tf.keras.layers.Conv3D(4, 1)(inputs))
    model.compile("sgd", loss=LOSSES[name](from_logits=True))
    image = tf.random.stateless_normal((4, 5, 6, 7, 1), (0, 1))
    before = LOSSES[name](from_logits=True)(labels, model(image))
    history = model.fit(image, labels, batch_size=4, epochs=2, verbose=0).history["loss"]
    np.testing.assert_allclose(history[0], before, rtol=1e-5)
    assert history[1] < history[0]
    config = tf.keras.losses.serialize(LOSSES[name](from_logits=True))
    again = tf.keras.losses.deserialize(config)
    assert type(again) is type(LOSSES[name]()) and again.from_logits
