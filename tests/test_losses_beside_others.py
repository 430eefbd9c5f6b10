"""Masked losses against those of Keras and tensorflow-addons, where these say the same."""

import numpy as np
import pytest
import tensorflow as tf
from helpers import random_batch

from tl3d_keras.annotation import IGNORE
from tl3d_keras.losses import MaskedCrossEntropy, MaskedDice, MaskedFocal, MaskedTversky

WEIGHTS = [0.1, 0.2, 0.3, 0.4]


def test_cross_entropy_is_keras_own():
    labels, logits = random_batch(annotated_fraction=1.0)
    keras = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    ours = MaskedCrossEntropy(from_logits=True)(labels, logits)
    np.testing.assert_allclose(ours, keras(labels, logits), atol=1e-6)
    ours = MaskedCrossEntropy(True, WEIGHTS)(labels, logits)
    weights = tf.gather(WEIGHTS, tf.cast(labels, tf.int32))
    np.testing.assert_allclose(ours, keras(labels, logits, weights), atol=1e-6)


def test_cross_entropy_is_keras_own_with_an_ignored_class():
    labels, logits = random_batch()
    keras = tf.keras.losses.SparseCategoricalCrossentropy(
        from_logits=True, ignore_class=IGNORE, reduction="sum"
    )
    expected = keras(labels, logits) / np.sum(labels != IGNORE)
    np.testing.assert_allclose(MaskedCrossEntropy(True)(labels, logits), expected, atol=1e-6)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_focal_loss_is_keras_own(gamma):
    labels, logits = random_batch(annotated_fraction=1.0)
    keras = tf.keras.losses.CategoricalFocalCrossentropy(WEIGHTS, gamma, from_logits=True)
    ours = MaskedFocal(True, gamma, class_weights=WEIGHTS)(labels, logits)
    np.testing.assert_allclose(ours, keras(tf.one_hot(labels, 4), logits), atol=1e-6)


@pytest.mark.skipif(not hasattr(tf.keras.losses, "Tversky"), reason="Keras 2 has no Tversky loss")
def test_overlap_losses_are_keras_own():
    labels, logits = random_batch(annotated_fraction=1.0)
    truth, guess = tf.one_hot(labels, 4), tf.nn.softmax(logits)

    def mean(loss):
        return np.mean([loss(truth[..., k], guess[..., k]) for k in range(1, 4)])

    keras = tf.keras.losses.Dice(reduction="sum")
    np.testing.assert_allclose(MaskedDice(True)(labels, logits), mean(keras), atol=1e-6)
    # Keras's alpha weighs what was missed, which in Salehi et al. is beta.
    keras = tf.keras.losses.Tversky(alpha=0.7, beta=0.3, reduction="sum")
    ours = MaskedTversky(True, alpha=0.3, beta=0.7)
    np.testing.assert_allclose(ours(labels, logits), mean(keras), atol=1e-6)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("gamma", [0.0, 2.0, 3.5])
def test_focal_loss_is_that_of_tensorflow_addons(gamma):
    addons = pytest.importorskip("tensorflow_addons")
    labels, logits = random_batch(annotated_fraction=1.0, classes=2)
    theirs = addons.losses.SigmoidFocalCrossEntropy(
        from_logits=True, alpha=0.25, gamma=gamma, reduction="sum"
    )
    # A softmax over two logits is the sigmoid of their difference.
    difference = logits[..., 1:] - logits[..., :1]
    expected = (
        theirs(tf.cast(labels[..., None], tf.float32), difference) / labels.shape.num_elements()
    )
    ours = MaskedFocal(True, gamma, alpha=0.25)(labels, logits)
    np.testing.assert_allclose(ours, expected, rtol=1e-5)
