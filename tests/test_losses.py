"""Masked losses: no influence of unannotated voxels, equal on replicas, at home in Keras."""

import numpy as np
import pytest
import tensorflow as tf
from helpers import random_batch

from tl3d_keras.annotation import IGNORE
from tl3d_keras.errors import InputError
from tl3d_keras.losses import LOSSES, MaskedDice, make
from tl3d_keras.metrics import MaskedDiceMetric

ALL = pytest.mark.parametrize("name", list(LOSSES))


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


@ALL
def test_the_label_of_unannotated_voxels_is_no_class(name):
    labels = tf.fill([1, 2, 2, 2], IGNORE)
    with pytest.raises(InputError, match="expected at most 255 classes, .* found 256"):
        LOSSES[name](from_logits=True).value(labels, tf.zeros([1, 2, 2, 2, 256]))


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
@pytest.mark.parametrize("replicas", [2, 4])
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


def unit(classes=4):
    """A model that one convolution makes, and images for it."""
    inputs = tf.keras.Input((5, 6, 7, 1))
    model = tf.keras.Model(inputs, tf.keras.layers.Conv3D(classes, 1, activation="softmax")(inputs))
    return model, tf.random.stateless_normal((4, 5, 6, 7, 1), (0, 1))


@ALL
def test_keras_users_compile_with_it(name, tmp_path):
    labels, _ = random_batch()
    model, image = unit()
    metrics = [MaskedDiceMetric(4), MaskedDiceMetric(4, structure=2, name="liver")]
    model.compile("sgd", loss=LOSSES[name](), metrics=metrics)
    before = LOSSES[name]()(labels, model(image))
    expected = MaskedDiceMetric(4)
    expected.update_state(labels, model(image))
    history = model.fit(image, labels, batch_size=4, epochs=2, verbose=0).history
    np.testing.assert_allclose(history["loss"][0], before, rtol=1e-5)
    np.testing.assert_allclose(history["dice"][0], expected.result(), rtol=1e-5)
    np.testing.assert_allclose(history["liver"][0], expected.per_structure()[1], rtol=1e-5)
    assert history["loss"][1] < history["loss"][0]
    model.save(tmp_path / "model.keras")
    loaded = tf.keras.models.load_model(tmp_path / "model.keras")
    assert loaded.loss.get_config() == model.loss.get_config()
    np.testing.assert_allclose(
        loaded.evaluate(image, labels, verbose=0), model.evaluate(image, labels, verbose=0)
    )


@ALL
def test_configuration_round_trip(name):
    options = {"focal": {"gamma": 3.0}, "focal_dice": {"gamma": 3.0}, "tversky": {"beta": 0.6}}
    loss = make(name, True, options.get(name))
    again = tf.keras.losses.deserialize(tf.keras.losses.serialize(loss))
    assert type(again) is type(loss) and again.from_logits
    assert again.get_config() == loss.get_config()
    labels, logits = random_batch()
    np.testing.assert_array_equal(again(labels, logits), loss(labels, logits))


def test_fit_of_a_keras_user_on_replicas(mirrored):
    labels, _ = random_batch()
    labels = tf.concat([tf.fill((1, *labels.shape[1:]), np.uint8(IGNORE)), labels[1:]], 0)
    weights = []
    for strategy in (tf.distribute.get_strategy(), mirrored(4)):
        tf.keras.utils.set_random_seed(0)
        with strategy.scope():
            model, image = unit()
            model.compile(tf.keras.optimizers.SGD(1.0), loss=MaskedDice())
        start = model.get_weights()
        data = tf.data.Dataset.from_tensors((image, labels))
        model.fit(data, epochs=2, verbose=0, shuffle=False)
        weights.append(model.get_weights())
    assert np.abs(weights[0][0] - start[0]).max() > 1e-3
    for one, four in zip(*weights, strict=True):
        np.testing.assert_allclose(one, four, atol=1e-6)


@ALL
def test_sample_weights_are_refused(name):
    labels, logits = random_batch()
    with pytest.raises(InputError, match="expected no sample_weight, found one; unannotated"):
        LOSSES[name](from_logits=True)(labels, logits, tf.ones(4))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 4, 4, 4, 3), "found .2, 4, 4, 4, 3.; tf.argmax.labels, -1. makes them"),
        ((2, 8, 4, 4), "expected labels .2, 4, 4, 4. .* found .2, 8, 4, 4.; with valid padding"),
    ],
)
def test_labels_of_another_shape_are_refused(shape, message):
    labels, prediction = tf.zeros(shape), tf.fill((2, 4, 4, 4, 3), 1 / 3)
    for take in (make("dice"), MaskedDiceMetric(3).update_state):
        with pytest.raises(InputError, match=message):
            take(labels, prediction)


@pytest.mark.parametrize("label", [3, -1])
def test_labels_that_are_no_class_are_refused(label):
    labels, prediction = tf.fill((1, 2, 2, 2), label), tf.fill((1, 2, 2, 2, 3), 1 / 3)
    for loss in (make("dice"), tf.function(make("dice"))):
        with pytest.raises(tf.errors.InvalidArgumentError, match="expected labels 0 to 2, or 255"):
            loss(labels, prediction)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("hinge",), "expected a loss of cross_entropy, dice, .* found 'hinge'"),
        (("focal", True, {"beta": 1.0}), "focal: expected options of gamma, alpha, found 'beta'"),
        (("dice", True, {"gamma": 1.0}), "dice: expected options of none, found 'gamma'"),
        (("tversky", True, None, [1.0]), "tversky: expected no class weights, found some"),
        (("focal", True, {"gamma": -1.0}), "expected gamma of 0 or more, found -1.0"),
        (("focal", True, {"alpha": 2.0}), "expected alpha of 0 to 1, found 2.0"),
        (("focal", True, {"alpha": 0.5}, [1.0]), "expected alpha or class weights, found both"),
        (("tversky", True, {"alpha": 0.0}), "expected alpha above 0, found 0.0"),
        (("tversky", True, {"beta": float("nan")}), "expected beta above 0, found nan"),
    ],
)
def test_wrong_settings(arguments, message):
    with pytest.raises(InputError, match=message):
        make(*arguments)


@pytest.mark.parametrize("name", ["cross_entropy", "focal", "focal_dice", "cross_entropy_dice"])
def test_a_wrong_number_of_class_weights(name):
    labels, logits = random_batch()
    with pytest.raises(InputError, match="expected 4 class weights, background first, found 3"):
        make(name, True, None, [1.0, 2.0, 3.0])(labels, logits)
