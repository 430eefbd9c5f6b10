"""What Keras's core has taken over from tensorflow-addons gives the same numbers as there."""

import warnings

import helpers
import numpy as np
import pytest
import tensorflow as tf

from tl3d_keras import artifact, optimizers, training_run
from tl3d_keras.errors import InputError
from tl3d_keras.layers_by_name import match_rates
from tl3d_keras.optimizers import OptimizerPlan
from tl3d_keras.run_settings import RunSettings
from tl3d_keras.unet3d import named_weights
from tl3d_keras.weight_update import MovingAverage, WeightUpdate

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    tfa = pytest.importorskip(
        "tensorflow_addons", reason="tensorflow-addons needs TensorFlow 2.15 and Keras 2"
    )


@pytest.mark.parametrize("normalization", ["group", "instance"])
def test_normalization(normalization, rng):
    network = helpers.network(normalization=normalization, filters=16)
    ours = network.get_layer("encoder_0_norm_1")
    x = rng.normal(2.0, 3.0, (2, 4, 5, 6, 32)).astype("f")
    kind, arguments = tfa.layers.InstanceNormalization, {}
    if normalization == "group":
        kind, arguments = tfa.layers.GroupNormalization, {"groups": ours.groups}
    theirs = kind(epsilon=ours.epsilon, **arguments)
    theirs.build(x.shape)
    theirs.set_weights(ours.get_weights())
    np.testing.assert_allclose(ours(x), theirs(x), atol=1e-5)


def gradients(network, rng):
    return [tf.constant(rng.normal(size=w.shape), tf.float32) for w in network.trainable_weights]


@pytest.mark.parametrize("decay", [0.3, 0.999])
def test_moving_average(decay, rng):
    ours, theirs = helpers.network(), helpers.network()
    average = MovingAverage(named_weights(ours), decay)
    rule = optimizers.make_optimizer(OptimizerPlan("sgd", "constant"), 0.1, 10, "float32")
    wrapped = tfa.optimizers.MovingAverage(
        tf.keras.optimizers.legacy.SGD(0.1), average_decay=decay, dynamic_decay=True
    )
    for _ in range(5):
        step = gradients(ours, rng)
        WeightUpdate(average=average).apply(rule, step, ours)
        wrapped.apply_gradients(zip(step, theirs.trainable_weights, strict=True))
    wrapped.assign_average_vars(theirs.trainable_weights)
    for name, value in named_weights(theirs).items():
        np.testing.assert_allclose(average.values[name], value, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_layer_rates_are_those_of_multi_optimizer(name, rng):
    ours, theirs = helpers.network(), helpers.network()
    kind = {"sgd": tf.keras.optimizers.legacy.SGD, "adam": tf.keras.optimizers.legacy.Adam}[name]
    rates = match_rates(ours, (("encoder_*", 0.1), ("head", 2.0)))
    multi = tfa.optimizers.MultiOptimizer(
        [
            (kind(0.01 * rates.get(layer.name, 1.0)), layer)
            for layer in theirs.layers
            if layer.weights
        ]
    )
    rule = optimizers.make_optimizer(OptimizerPlan(name, "constant"), 0.01, 10, "float32")
    for _ in range(5):
        step = gradients(ours, rng)
        WeightUpdate(layer_rates=rates).apply(rule, step, ours)
        multi.apply_gradients(zip(step, theirs.trainable_weights, strict=True))
    start = named_weights(helpers.network())
    for layer, least in (("encoder_0_conv_0/kernel", 1e-3), ("head/kernel", 0.03)):
        assert np.abs(named_weights(ours)[layer] - start[layer]).max() > least
    helpers.assert_equal_weights(ours, theirs, atol=1e-6)


class Killed(BaseException):
    """Stands for kill -9."""


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": "Addons>LAMB", "precision": "mixed_float16", "clip_norm": 0.1, "ema": 0.9},
        {"optimizer": "Addons>AdamW", "weight_decay": 1e-3, "layer_rates": (("head", 2.0),)},
        {"optimizer": "Addons>NovoGrad", "mode": "finetune", "head_steps": 2, "warmup_steps": 1},
    ],
)
def test_its_optimizers_train_and_resume(records, tmp_path, monkeypatch, changes):
    base = artifact.save(helpers.network(filters=4), helpers.info(), tmp_path / "base")
    settings = RunSettings(
        **{
            "records_dir": str(records),
            "mode": "transfer",
            "base": str(base),
            "patch_size": (8, 16, 16),
            "steps": 5,
            "steps_per_epoch": 1,
            "learning_rate": 1e-2,
            "precision": "float32",
            "strategy": "one",
            "num_validation": 0,
            **changes,
        }
    )
    whole = training_run.run(settings, tmp_path / "whole")
    start = named_weights(artifact.load(base).network)
    moved = named_weights(artifact.load(whole).network)
    assert all(
        not np.array_equal(value, start[name]) for name, value in moved.items() if "kernel" in name
    )
    save = training_run.RunFolder.save

    def killed(folder, state):
        save(folder, state)
        if state.step == 3:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(training_run.RunFolder, "save", killed)
        with pytest.raises(Killed):
            training_run.run(settings, tmp_path / "run")
    resumed = training_run.run(settings, tmp_path / "run")
    helpers.assert_equal_weights(artifact.load(whole).network, artifact.load(resumed).network)


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (OptimizerPlan("Addons>AdamW"), "Addons>AdamW: expected --weight_decay, found none"),
        (OptimizerPlan("Addons>Yogi", weight_decay=0.1), "--weight_decay: Addons>Yogi has none"),
        (OptimizerPlan("Addons>LAMBDA"), "--optimizer: expected one that Keras knows"),
        (OptimizerPlan("Addons>GroupNormalization"), "--optimizer: expected one that Keras knows"),
    ],
)
def test_wrong_names(plan, message):
    with pytest.raises(InputError, match=message):
        optimizers.check(plan, [10])


def test_a_wrapper_needs_what_a_name_cannot_say():
    with pytest.raises(InputError, match="Lookahead: cannot be made by name: .*'optimizer'"):
        optimizers.make_optimizer(OptimizerPlan("Addons>Lookahead"), 0.1, 10, "float32")
