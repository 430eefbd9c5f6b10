"""Clipping, layer rates, moving average and loss scaling: by hand, on one replica and on many."""

import helpers
import numpy as np
import pytest
import tensorflow as tf

from tl3d_keras import losses, optimizers
from tl3d_keras.layers_by_name import freeze
from tl3d_keras.optimizers import OptimizerPlan
from tl3d_keras.run_folder import RunFolder
from tl3d_keras.trainer import MaskedTrainer
from tl3d_keras.training_state import TrainingState
from tl3d_keras.unet3d import named_weights
from tl3d_keras.weight_update import MovingAverage, WeightUpdate


class Weights(tf.keras.Model):
    """Two layers with two weights each."""

    def __init__(self):
        super().__init__()
        self.first = tf.keras.layers.Dense(1, name="first")
        self.second = tf.keras.layers.Dense(1, name="second")
        for layer in (self.first, self.second):
            layer.build((None, 2))
            layer.set_weights([np.float32([[1.0], [-2.0]]), np.float32([3.0])])
        self.built = True


GRADIENTS = [np.float32([[3.0], [0.0]]), np.float32([4.0]), np.float32([[0.0], [12.0]]), [0.0]]
NORM = 13.0


def step(strategy, update, name="sgd", shares=None, times=1, precision="float32", scale=None):
    """Applies GRADIENTS (by replica, times `shares`) and gives the model and its optimizer."""
    with strategy.scope():
        model = Weights()
        update = update(model)
        plan = OptimizerPlan(name, "constant")
        rule = optimizers.make_optimizer(plan, 0.1, 10, precision)
        if scale:
            rule = tf.keras.mixed_precision.LossScaleOptimizer(
                optimizers.make_optimizer(plan, 0.1, 10, "float32"), initial_scale=scale
            )
        optimizers.build(rule, model.trainable_weights)
    replicas = strategy.num_replicas_in_sync
    shares = tf.constant(shares or [1.0 / replicas] * replicas)

    @tf.function
    def run():
        def replica():
            share = shares[tf.distribute.get_replica_context().replica_id_in_sync_group]
            update.apply(rule, [share * g for g in GRADIENTS], model)

        strategy.run(replica)

    for _ in range(times):
        run()
    return model, rule


def plain(_):
    return WeightUpdate()


@pytest.mark.parametrize("replicas", [1, 2, 4])
def test_clipping_is_of_the_summed_gradient(replicas, mirrored):
    """Of uneven shares, one of which would be clipped by itself and another not."""
    strategy = mirrored(replicas) if replicas > 1 else tf.distribute.get_strategy()
    shares = {1: [1.0], 2: [1.5, -0.5], 4: [2.0, -1.5, 0.25, 0.25]}[replicas]
    start = Weights().get_weights()
    for limit, factor in ((6.5, 0.5), (26.0, 1.0), (0.0, 1.0)):
        model, _ = step(strategy, lambda _, limit=limit: WeightUpdate(limit), shares=shares)
        for now, before, gradient in zip(model.get_weights(), start, GRADIENTS, strict=True):
            np.testing.assert_allclose(now, before - 0.1 * factor * np.array(gradient), atol=1e-6)


def test_clipping_takes_the_loss_scale_into_account():
    scale = 8.0
    strategy = tf.distribute.get_strategy()
    plainly, _ = step(strategy, lambda _: WeightUpdate(NORM / 2))
    with_scale, rule = step(
        strategy, lambda _: WeightUpdate(NORM / 2), scale=scale, shares=[scale], times=1
    )
    assert hasattr(rule, "inner_optimizer")
    for one, other in zip(plainly.get_weights(), with_scale.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize("name", ["sgd", "sgd_nesterov", "adam", "adamw"])
def test_layer_rate_is_a_learning_rate_of_the_layers_own(name, replicas, mirrored):
    strategy = mirrored(replicas) if replicas > 1 else tf.distribute.get_strategy()
    found, _ = step(strategy, lambda _: WeightUpdate(layer_rates={"second": 0.25}), name, times=4)
    usual, _ = step(strategy, plain, name, times=4)
    with strategy.scope():
        slow = optimizers.make_optimizer(OptimizerPlan(name, "constant"), 0.025, 10, "float32")
        other = Weights()
        optimizers.build(slow, other.trainable_weights)
    for _ in range(4):
        strategy.run(lambda: WeightUpdate().apply(slow, shared(GRADIENTS, replicas), other))
    expected = usual.get_weights()[:2] + other.get_weights()[2:]
    for one, two in zip(found.get_weights(), expected, strict=True):
        np.testing.assert_allclose(one, two, atol=1e-6)
    assert np.abs(found.get_weights()[2] - usual.get_weights()[2]).max() > 1e-3


def shared(gradients, replicas):
    return [tf.constant(g) / replicas for g in gradients]


def test_layer_rate_of_zero_keeps_weights_to_the_bit():
    start = Weights().get_weights()
    model, _ = step(
        tf.distribute.get_strategy(), lambda _: WeightUpdate(layer_rates={"first": 0.0}), "adam"
    )
    assert all(map(np.array_equal, model.get_weights()[:2], start[:2]))
    assert not np.array_equal(model.get_weights()[2], start[2])


@pytest.mark.parametrize("replicas", [1, 2, 4])
def test_moving_average_by_hand(replicas, mirrored):
    strategy = mirrored(replicas) if replicas > 1 else tf.distribute.get_strategy()
    averages = []

    def update(model):
        averages.append(MovingAverage({"w": tf_variable(model.trainable_weights[1])}, 0.25))
        return WeightUpdate(average=averages[0])

    step(strategy, update, times=3)
    expected = weight = 3.0
    for count in range(3):
        weight -= 0.1 * 4.0
        decay = min(0.25, (1 + count) / (10 + count))
        expected = decay * expected + (1 - decay) * weight
    assert int(averages[0].updates.numpy()) == 3
    for local in strategy.experimental_local_results(averages[0].values["w"]):
        np.testing.assert_allclose(local, [expected], rtol=1e-6)


def tf_variable(weight):
    return weight if isinstance(weight, tf.Variable) else weight.value


@pytest.mark.parametrize("replicas", [1, 2])
def test_a_too_large_loss_scale_skips_the_step_and_halves(replicas, mirrored):
    """An overflow on one replica alone, the last, skips the step on all."""
    strategy = mirrored(replicas) if replicas > 1 else tf.distribute.get_strategy()
    start = Weights().get_weights()
    model, rule = step(
        strategy,
        lambda _: WeightUpdate(clip_norm=1.0, layer_rates={"first": 0.5}),
        shares=[1.0] * (replicas - 1) + [float("inf")],
        scale=1024.0,
        name="adamw",
    )
    assert all(map(np.array_equal, model.get_weights(), start))
    assert loss_scale(rule) == 512.0


def loss_scale(rule) -> float:
    if hasattr(rule, "dynamic_scale"):
        return float(rule.dynamic_scale.value.numpy())
    return float(rule.loss_scale)


def test_float16_overflow_in_training():
    """The real thing: a scale at which float16 gradients overflow, then one at which they fit."""
    network = helpers.network(dtype="mixed_float16")
    trainer = MaskedTrainer(network, losses.LOSSES["cross_entropy"](from_logits=True))
    rule = tf.keras.mixed_precision.LossScaleOptimizer(
        tf.keras.optimizers.SGD(0.1), initial_scale=2.0**22
    )
    trainer.compile(rule, jit_compile=False)
    optimizers.build(rule, network.trainable_weights)
    start = {name: v.numpy() for name, v in named_weights(network).items()}
    batch = {
        "image": np.ones((1, 8, 8, 8, 1), "f"),
        "labels": np.ones((1, 8, 8, 8), np.uint8),
        "annotated": np.ones((1, 3), np.uint8),
    }
    data = tf.data.Dataset.from_tensors(batch).repeat()
    skipped = 0
    for _ in range(20):
        before = loss_scale(rule)
        trainer.fit(data, steps_per_epoch=1, verbose=0, shuffle=False)
        moved = any(not np.array_equal(v, start[n]) for n, v in named_weights(network).items())
        if moved:
            break
        skipped += 1
        assert loss_scale(rule) == before / 2
    assert moved and skipped >= 1
    assert all(
        np.isfinite(v).all() and v.dtype == tf.float32 for v in named_weights(network).values()
    )


def test_resume_keeps_the_loss_scale(tmp_path):
    network = helpers.network(dtype="mixed_float16")
    scales = []
    for scale in (2.0**22, 2.0**15):
        rule = tf.keras.mixed_precision.LossScaleOptimizer(
            tf.keras.optimizers.Adam(0.1), initial_scale=scale
        )
        optimizers.build(rule, network.trainable_weights)
        state, folder = TrainingState(network), RunFolder(tmp_path, {})
        state.attach(rule)
        if not scales:
            infinite = [tf.fill(w.shape, np.inf) for w in network.trainable_weights]
            WeightUpdate().apply(rule, infinite, network)
            folder.save(state)
        else:
            folder.restore(state)
        folder.close()
        scales.append(loss_scale(rule))
    assert scales == [2.0**21] * 2


REDUCTIONS = {"LogSoftmax", "Softmax", "Exp", "Log", "Sum", "Mean", "RealDiv", "DivNoNan"}


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("loss", list(losses.LOSSES))
def test_softmax_loss_and_sums_are_float32(precision, loss):
    network = helpers.network(dtype=precision)
    trainer = MaskedTrainer(network, losses.LOSSES[loss](from_logits=True))
    rule = optimizers.make_optimizer(OptimizerPlan(), 0.1, 10, precision)
    trainer.compile(rule, jit_compile=False)
    optimizers.build(rule, network.trainable_weights)
    batch = {
        "image": tf.zeros((1, 8, 8, 8, 1)),
        "labels": tf.zeros((1, 8, 8, 8), tf.uint8),
        "annotated": tf.ones((1, 3), tf.uint8),
    }
    graph = tf.function(trainer.train_step).get_concrete_function(batch).graph
    kinds = {
        (op.type, tensor.dtype)
        for function in [graph, network_graph(network)]
        for op in function.get_operations()
        for tensor in op.inputs
        # Keras 3 adds biases by broadcasting, and so sums their gradient in half precision.
        if op.type in REDUCTIONS and tensor.dtype.is_floating and "gradient" not in op.name
    }
    assert {kind for kind, _ in kinds} >= {"LogSoftmax", "Softmax", "Sum"}
    assert {dtype for _, dtype in kinds} == {tf.float32}, kinds
    # While the network itself computes in half precision.
    half = tf.as_dtype(precision.removeprefix("mixed_"))
    convolutions = [op for op in graph.get_operations() if op.type == "Conv3D"]
    assert {op.inputs[0].dtype for op in convolutions} == {half}


def network_graph(network):
    function = tf.function(lambda x: network(x, training=False))
    return function.get_concrete_function(tf.zeros((1, 8, 8, 8, 1))).graph


def test_frozen_layers_keep_their_rate_out():
    """A rate for a layer that the stage freezes is no error and changes nothing."""
    network = helpers.network()
    freeze(network, ("encoder_*",))
    trainer = MaskedTrainer(
        network,
        losses.LOSSES["dice"](from_logits=True),
        update=WeightUpdate(layer_rates={"encoder_0_conv_0": 0.5, "head": 0.5}),
    )
    trainer.compile(tf.keras.optimizers.SGD(0.1), jit_compile=False)
    trainer.fit(
        tf.data.Dataset.from_tensors(
            {
                "image": np.ones((1, 8, 8, 8, 1), "f"),
                "labels": np.ones((1, 8, 8, 8), np.uint8),
                "annotated": np.ones((1, 3), np.uint8),
            }
        ),
        verbose=0,
        shuffle=False,
    )
    start = named_weights(helpers.network())
    for name, value in named_weights(network).items():
        assert np.array_equal(value, start[name]) == name.startswith("encoder_"), name
