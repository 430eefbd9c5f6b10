"""Optimizers by name, schedules, and what is said about wrong ones."""

import helpers
import numpy as np
import pytest
import tensorflow as tf
from absl import flags

from experiments import training_flags
from tl3d_keras import optimizers
from tl3d_keras.errors import InputError
from tl3d_keras.optimizers import OptimizerPlan
from tl3d_keras.schedules import WarmUp, make_schedule

KERAS_3 = tf.keras.Model.__module__.startswith("keras.src.models")


@pytest.mark.parametrize(
    ("kind", "progress"),
    [
        ("constant", lambda p: 1.0),
        ("polynomial", lambda p: (1 - p) ** 0.9),
        ("cosine", lambda p: 0.01 + 0.99 * (1 + np.cos(np.pi * p)) / 2),
    ],
)
@pytest.mark.parametrize("warmup", [0, 4])
def test_schedule_by_hand(kind, progress, warmup):
    schedule = make_schedule(kind, 0.2, 20, warmup)
    rise = [0.2 * (s + 1) / (warmup + 1) for s in range(warmup)]
    fall = [0.2 * progress(s / (20 - warmup)) for s in range(20 - warmup)]
    found = [float(schedule(tf.constant(s, tf.int64))) for s in range(20)]
    np.testing.assert_allclose(found, rise + fall, rtol=1e-5)


@pytest.mark.parametrize("kind", ["constant", "polynomial", "cosine"])
def test_schedule_is_serialisable(kind):
    schedule = make_schedule(kind, 0.2, 20, 4)
    schedules = tf.keras.optimizers.schedules
    again = schedules.deserialize(schedules.serialize(schedule))
    assert isinstance(again, WarmUp)
    assert [float(again(s)) for s in range(21)] == [float(schedule(s)) for s in range(21)]


@pytest.mark.parametrize("name", ["adam", "AdamW", "sgd", "sgd_nesterov", "rmsprop", "Lion"])
def test_optimizer_follows_its_schedule(name):
    plan = OptimizerPlan(name, "polynomial", warmup_steps=2, weight_decay=0.0)
    rule = optimizers.make_optimizer(plan, 0.1, 10, "float32")
    variable = tf.Variable([1.0])
    optimizers.build(rule, [variable])
    steps = []
    for _ in range(3):
        before = float(variable[0])
        rule.apply_gradients([(tf.constant([1.0]), variable)])
        steps.append(before - float(variable[0]))
    if name in ("sgd", "adam", "AdamW", "Lion"):
        # A constant gradient of 1: each step is the rate.
        np.testing.assert_allclose(steps, [0.1 / 3, 0.2 / 3, 0.1], rtol=1e-3)
    assert steps[0] < steps[1] < steps[2]


def test_sgd_nesterov_by_hand():
    rule = optimizers.make_optimizer(OptimizerPlan("sgd_nesterov", "constant"), 0.1, 10, "float32")
    variable, expected, velocity = tf.Variable([1.0]), 1.0, 0.0
    optimizers.build(rule, [variable])
    for gradient in (1.0, -0.5, 2.0):
        rule.apply_gradients([(tf.constant([gradient]), variable)])
        velocity = 0.99 * velocity - 0.1 * gradient
        expected += 0.99 * velocity - 0.1 * gradient
    np.testing.assert_allclose(variable, [expected], rtol=1e-5)


def test_weight_decay_reaches_the_optimizer():
    rule = optimizers.make_optimizer(
        OptimizerPlan("adamw", "constant", weight_decay=0.5), 0.1, 10, "float32"
    )
    variable = tf.Variable([2.0])
    optimizers.build(rule, [variable])
    rule.apply_gradients([(tf.constant([0.0]), variable)])
    np.testing.assert_allclose(variable, [2.0 - 0.1 * 0.5 * 2.0], rtol=1e-6)


def test_a_registered_name_of_the_users_own():
    @tf.keras.utils.register_keras_serializable("test_optimizers")
    class Halved(tf.keras.optimizers.SGD):
        """Of a user."""

    plan = OptimizerPlan("test_optimizers>Halved")
    optimizers.check(plan, [10])
    assert isinstance(optimizers.make_optimizer(plan, 0.1, 10, "float32"), Halved)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "adum"}, "--optimizer: expected one that Keras knows, .* found 'adum'"),
        ({"name": "Optimizer"}, "--optimizer: expected one that Keras knows"),
        ({"schedule": "linear"}, "--schedule: expected one of cosine, .* found 'linear'"),
        ({"warmup_steps": 5}, "--warmup_steps: expected fewer than the 5 steps of a stage"),
        ({"ema": 1.0}, "--ema: expected a decay from 0 to below 1, found 1.0"),
        ({"ema": float("nan")}, "--ema: expected"),
        ({"clip_norm": -1.0}, "--clip_norm: expected 0 or more, found -1.0"),
        ({"clip_norm": float("nan")}, "--clip_norm: expected 0 or more"),
        (
            {"layer_rates": (("head", float("inf")),)},
            "--layer_rates: expected 0 or more for 'head'",
        ),
    ],
)
def test_wrong_plans(changes, message):
    with pytest.raises(InputError, match=message):
        optimizers.check(OptimizerPlan(**changes), [10, 5])


@pytest.mark.skipif(not KERAS_3, reason="the addons stack has them")
def test_addons_name_on_the_current_stack():
    with pytest.raises(InputError, match=r"Addons>LAMB: expected tensorflow-addons with .* 2\.15"):
        optimizers.check(OptimizerPlan("Addons>LAMB"), [10])


def test_build_makes_what_a_checkpoint_fills():
    network = helpers.network()
    rule = optimizers.make_optimizer(OptimizerPlan(), 0.1, 10, "float32")
    optimizers.build(rule, network.trainable_weights)
    assert len(rule.variables) >= 2 * len(network.trainable_weights)


@pytest.mark.parametrize("text", ["head", "=2", "head=fast", "encoder_*="])
def test_wrong_layer_rate_flags(text):
    command_flags = flags.FlagValues()
    training_flags.define(command_flags)
    arguments = ["train", "--records_dir=a", "--output_dir=b", "--layer_rates=head=2,*=0.5"]
    command_flags(arguments)
    assert training_flags.settings(command_flags)["layer_rates"] == (("head", 2.0), ("*", 0.5))
    command_flags([*arguments, f"--layer_rates={text}"])
    with pytest.raises(InputError, match="--layer_rates: expected a layer pattern and a number"):
        training_flags.settings(command_flags)
