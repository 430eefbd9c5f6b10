"""Masked losses against numbers computed by hand: sparse, partially labelled, empty."""

import numpy as np
import pytest
import tensorflow as tf

from tl3d_keras.annotation import IGNORE
from tl3d_keras.losses import LOSSES, MaskedCaseDice, MaskedDice, MaskedFocal, MaskedSum, make

# Probabilities of background and two structures in four voxels.
ROWS = ((0.5, 0.25, 0.25), (0.25, 0.5, 0.25), (0.1, 0.1, 0.8), (0.2, 0.4, 0.4))
ALL, FIRST_UNKNOWN, SECOND_UNKNOWN, NONE = (1, 1, 1), (1, 0, 1), (1, 1, 0), (1, 0, 0)
UNSEEN = (IGNORE,) * 4


def volume(labels: tuple[int, ...]) -> tf.Tensor:
    """Labels [1, 1, 1, N]."""
    return tf.constant(labels, tf.uint8)[tf.newaxis, tf.newaxis, tf.newaxis]


PREDICTION = tf.constant(ROWS, tf.float32)[tf.newaxis, tf.newaxis, tf.newaxis]


def log_mean(*p: float) -> float:
    """Cross-entropy of the labels' probabilities."""
    return float(-np.log(p).mean())


def focal_mean(*p: float) -> float:
    """Focal loss with gamma 2."""
    return float(np.mean([-((1 - q) ** 2) * np.log(q) for q in p]))


# Structure 1: overlap 0.5 of 1.25 predicted and 1 true; structure 2: 0.8 of 1.7 and 1.
DICE = (1.0 / 2.25, 1.6 / 2.7)
TVERSKY = (0.5 / (0.5 + 0.3 * 0.75 + 0.7 * 0.5), 0.8 / (0.8 + 0.3 * 0.9 + 0.7 * 0.2))


@pytest.mark.parametrize(
    ("labels", "annotated", "cross_entropy", "focal", "dice", "tversky"),
    [
        (
            (0, 1, 2, 0),
            ALL,
            log_mean(0.5, 0.5, 0.8, 0.2),
            focal_mean(0.5, 0.5, 0.8, 0.2),
            1 - np.mean(DICE),
            1 - np.mean(TVERSKY),
        ),
        # Unannotated voxels leave the mean to the others, and structure 2 is not in the batch.
        (
            (0, 1, IGNORE, IGNORE),
            ALL,
            log_mean(0.5, 0.5),
            focal_mean(0.5, 0.5),
            1 - 1.0 / 1.75,
            1 - 0.5 / (0.5 + 0.3 * 0.25 + 0.7 * 0.5),
        ),
        # Structure 1 was not annotated: a 0 may be background or structure 1.
        (
            (0, 0, 2, 0),
            FIRST_UNKNOWN,
            log_mean(0.75, 0.75, 0.8, 0.6),
            focal_mean(0.75, 0.75, 0.8, 0.6),
            1 - DICE[1],
            1 - TVERSKY[1],
        ),
        (
            (0, 1, 0, 0),
            SECOND_UNKNOWN,
            log_mean(0.75, 0.5, 0.9, 0.6),
            focal_mean(0.75, 0.5, 0.9, 0.6),
            1 - DICE[0],
            1 - TVERSKY[0],
        ),
        # Every 0 may be anything, so there is nothing to learn.
        ((0, 0, 0, 0), NONE, 0, 0, 0, 0),
        (UNSEEN, ALL, 0, 0, 0, 0),
    ],
)
def test_one_case(labels, annotated, cross_entropy, focal, dice, tversky):
    expected = {
        "cross_entropy": cross_entropy,
        "focal": focal,
        "dice": dice,
        "case_dice": dice,
        "tversky": tversky,
        "cross_entropy_dice": cross_entropy + dice,
        "focal_dice": focal + dice,
    }
    assert expected.keys() == LOSSES.keys()
    mask = np.array([annotated], bool)
    for name, number in expected.items():
        value = make(name).value(volume(labels), PREDICTION, mask)
        np.testing.assert_allclose(value, number, atol=2e-6, err_msg=name)
        logits = tf.math.log(PREDICTION) + 3.0
        value = make(name, from_logits=True).value(volume(labels), logits, mask)
        np.testing.assert_allclose(value, number, atol=2e-6, err_msg=name)


def test_dice_of_the_batch_and_of_its_cases():
    labels = tf.concat([volume((0, 1, 2, 0)), volume((0, 0, 2, IGNORE)), volume(UNSEEN)], 0)
    prediction = tf.repeat(PREDICTION, 3, 0)
    # Structure 1 is unknown in the second case, so there it is neither right nor wrong.
    annotated = np.array([ALL, FIRST_UNKNOWN, ALL], bool)
    value = MaskedDice().value(labels, prediction, annotated)
    np.testing.assert_allclose(value, 1 - np.mean([DICE[0], 3.2 / (1.7 + 1.3 + 2)]), atol=1e-6)
    value = MaskedCaseDice().value(labels, prediction, annotated)
    np.testing.assert_allclose(value, 1 - np.mean([*DICE, 1.6 / (1.3 + 1)]), atol=1e-6)


WEIGHTED = -np.array([np.log(0.5), 2 * np.log(0.5), 3 * np.log(0.8)])
FADED = np.array([0.25, 0.25, 0.04])


@pytest.mark.parametrize(
    ("name", "options", "weights", "expected"),
    [
        ("cross_entropy", {}, (1, 2, 3), WEIGHTED.mean()),
        ("focal", {}, (1, 2, 3), (WEIGHTED * FADED).mean()),
        ("focal", {"gamma": 0}, (1, 2, 3), WEIGHTED.mean()),
        ("focal", {"gamma": 1}, (1, 2, 3), (WEIGHTED * FADED**0.5).mean()),
        ("focal", {"alpha": 0.2}, None, (WEIGHTED * FADED / (1, 2, 3) * (0.8, 0.2, 0.2)).mean()),
        ("tversky", {"alpha": 0.5, "beta": 0.5}, None, 1 - np.mean([1 / 1.85, 1.6 / 2.3])),
        ("tversky", {"alpha": 1, "beta": 2}, None, 1 - np.mean([0.5 / 1.85, 0.8 / 1.7])),
    ],
)
def test_options_and_class_weights(name, options, weights, expected):
    loss = make(name, options=options, class_weights=weights)
    value = loss.value(volume((0, 1, 2, IGNORE)), PREDICTION)
    np.testing.assert_allclose(value, expected, atol=1e-6)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_focal_gradient_of_certain_voxels_is_finite(gamma):
    # Certain and right, certain and wrong, unannotated.
    logits = tf.constant([[200.0, 0, 0], [0, 200, 0], [0, 0, 200]])[None, None, None]
    with tf.GradientTape() as tape:
        tape.watch(logits)
        value = MaskedFocal(True, gamma).value(volume((0, 2, IGNORE)), logits)
    np.testing.assert_allclose(value, 100.0, rtol=1e-6)
    gradient = tape.gradient(value, logits).numpy()[0, 0, 0]
    np.testing.assert_allclose(gradient[1], [0, 0.5, -0.5], atol=1e-5)
    np.testing.assert_allclose(gradient[[0, 2]], 0, atol=1e-6)


def test_a_sum_of_any_losses():
    labels = volume((0, 1, 2, IGNORE))
    parts = [make(name) for name in ("focal", "tversky", "case_dice")]
    loss = MaskedSum(parts)
    expected = sum(part.value(labels, PREDICTION) for part in parts)
    np.testing.assert_allclose(loss.value(labels, PREDICTION), expected, rtol=1e-6)
    again = tf.keras.losses.deserialize(tf.keras.losses.serialize(loss))
    np.testing.assert_allclose(again.value(labels, PREDICTION), expected, rtol=1e-6)


@pytest.mark.parametrize(
    "parts, found",
    [((), "no loss"), ((("dice", True), ("focal", False)), "from_logits=True, .*=False")],
)
def test_sums_that_make_no_sense(parts, found):
    message = f"expected losses that are all from logits or none, found .*{found}"
    with pytest.raises(ValueError, match=message):
        MaskedSum([make(*part) for part in parts])
