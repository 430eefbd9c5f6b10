"""Adapters: kernels move by updates of low rank alone, alike on replicas and in half precision."""

import json

import helpers
import numpy as np
import pytest
import tensorflow as tf

from tl3d_keras import artifact, losses, optimizers, training_run
from tl3d_keras.adapters import Adapters, trained_parameters
from tl3d_keras.layers_by_name import freeze
from tl3d_keras.run_settings import RunSettings
from tl3d_keras.trainer import MaskedTrainer
from tl3d_keras.unet3d import named_weights
from tl3d_keras.weight_update import WeightUpdate

RATES = {"encoder_0_conv_1": 0.0, "head": 0.5}


def batch():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, (4, 8, 8, 8)).astype(np.uint8)
    image = (rng.normal(size=labels.shape) + labels)[..., None].astype("f")
    return {"image": image, "labels": labels, "annotated": np.ones((4, 3), np.uint8)}


def fitted(strategy=None, precision="float32", rank=2, frozen=(), steps=4, rate=1e-3, **arguments):
    """A network with adapters after some steps, and its start."""
    strategy = strategy or tf.distribute.get_strategy()
    with strategy.scope():
        network = helpers.network(filters=4, dtype=precision, **arguments)
        start = {name: v.numpy() for name, v in named_weights(network).items()}
        tf.keras.utils.set_random_seed(1)
        adapters = Adapters(network.layers, rank)
        update = WeightUpdate(layer_rates=RATES, adapters=adapters)
        loss = losses.LOSSES["cross_entropy"](from_logits=True)
        trainer = MaskedTrainer(network, loss, update=update)
        freeze(network, frozen)
        rule = tf.keras.optimizers.SGD(rate)
        if precision == "mixed_float16":
            rule = tf.keras.mixed_precision.LossScaleOptimizer(rule, initial_scale=64.0)
        trainer.compile(rule, jit_compile=False)
        optimizers.build(rule, update.trained(network))
    data = tf.data.Dataset.from_tensors(batch()).repeat()
    trainer.fit(data, steps_per_epoch=steps, verbose=0, shuffle=False)
    return network, start, adapters


def ranks(network, start):
    """By name the rank of what was added to each 3x3x3 kernel; rounding counts for nothing."""
    found = {}
    for name, v in named_weights(network).items():
        if v.shape.rank == 5 and v.shape[0] == 3:
            added = (v.numpy() - start[name]).reshape(-1, v.shape[-1])
            singular = np.linalg.svd(added, compute_uv=False)
            found[name.split("/")[0]] = int(np.sum(singular > max(1e-6, 1e-4 * singular[0])))
    return found


@pytest.mark.parametrize(
    ("precision", "normalization", "rate"),
    [("float32", None, 1e-3), ("mixed_bfloat16", "instance", 0.1), ("mixed_float16", None, 1e-3)],
)
def test_kernels_move_by_low_rank_alone(precision, normalization, rate):
    network, start, _ = fitted(precision=precision, normalization=normalization, rate=rate)
    found = ranks(network, start)
    # A rate of 0 keeps a layer with its adapter.
    assert found.pop("encoder_0_conv_1") == 0
    assert set(found.values()) == {2}
    moved = {
        name
        for name, v in named_weights(network).items()
        if not np.array_equal(v, start[name]) and not name.startswith("encoder_0_conv_1/")
    }
    # Biases, the head and what scales after normalisation are trained as they are.
    assert {"head/kernel", "head/bias"} <= moved
    assert len(moved) >= len(start) - 2 - len(found)


def test_training_starts_at_the_bases_function_and_needs_no_merge():
    network, start, adapters = fitted(steps=1)
    # `up` is 0, so the first gradient of `down` is too, unless it were read after its update.
    fresh = helpers.network(filters=4)
    tf.keras.utils.set_random_seed(1)
    drawn = Adapters(fresh.layers, 2).state
    for name, variable in adapters.state.items():
        if name.endswith("down"):
            np.testing.assert_array_equal(variable, drawn[name])
        else:
            assert not np.any(drawn[name])
    weights, state = named_weights(network), adapters.state
    for name, kernel in start.items():
        adapter = f"{name.split('/')[0]}_adapter"
        if name.endswith("/kernel") and f"{adapter}/up" in state:
            update = state[f"{adapter}/down"].numpy() @ state[f"{adapter}/up"].numpy()
            merged = kernel + update.reshape(kernel.shape)
            np.testing.assert_allclose(weights[name], merged, atol=1e-6)


def test_gradients_are_those_of_the_product():
    network = helpers.network(filters=2)
    adapters = Adapters(network.layers, 2)
    kernel = network.get_layer("encoder_1_conv_0").trainable_weights[0]
    down, up = adapters.trained([kernel])
    up.assign(tf.random.stateless_normal(up.shape, (0, 1)))
    wanted = tf.random.stateless_normal(kernel.shape, (0, 2))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(wanted * tf.reshape(tf.matmul(down, up), kernel.shape))
    expected = tape.gradient(loss, [tf_variable(down), tf_variable(up)])
    for ours, theirs in zip(adapters.gradients([kernel], [wanted]), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def tf_variable(weight):
    return weight if isinstance(weight, tf.Variable) else weight.value


def test_frozen_layers_keep_their_kernels():
    network, start, _ = fitted(frozen=("encoder",), steps=2)
    for name, v in named_weights(network).items():
        assert np.array_equal(v, start[name]) == name.startswith("encoder"), name


@pytest.mark.parametrize("replicas", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_replicas_end_in_the_weights_of_one_device(replicas, mirrored):
    one, _, _ = fitted(steps=2)
    several, _, _ = fitted(mirrored(replicas), steps=2)
    helpers.assert_equal_weights(one, several, atol=1e-5)


def test_trained_parameters():
    network = helpers.network(filters=8)
    for name, rank, expected in (
        ("encoder_0_conv_1", 0, 27 * 8 * 16 + 16),
        ("encoder_0_conv_1", 3, 3 * (27 * 8 + 16) + 16),
        ("encoder_0_conv_0", 99, 8 * (27 + 8) + 8),
        ("head", 3, 16 * 3 + 3),
    ):
        assert trained_parameters(network.get_layer(name), rank) == expected


def test_a_run_gives_an_ordinary_model_and_tells_what_it_trains(tmp_path):
    records = helpers.write_records(tmp_path)
    base = artifact.save(helpers.network(filters=4), helpers.info(), tmp_path / "base")
    said = []
    settings = RunSettings(
        str(records),
        mode="adapter",
        base=str(base),
        adapter_rank=2,
        patch_size=(8, 16, 16),
        steps=2,
        steps_per_epoch=2,
        num_validation=1,
        learning_rate=0.03,
        ema=0.9,
        precision="float32",
        strategy="one",
    )
    model = training_run.run(settings, tmp_path / "run", said.append)
    network = artifact.load(model).network
    start = {name: v.numpy() for name, v in named_weights(artifact.load(base).network).items()}
    assert list(named_weights(network)) == list(start)
    assert not any(np.array_equal(v, start[name]) for name, v in named_weights(network).items())
    trained = sum(trained_parameters(layer, 2) for layer in network.layers)
    parameters = network.count_params()
    assert trained < parameters / 2
    line = (
        f"stage adapter: 2 steps at 0.03, trains {trained:,} parameters, "
        f"the network has {parameters:,}"
    )
    assert line in said
    row = next(line.split() for line in said if line.startswith("encoder_0_conv_1"))
    assert row[1:] == ["872", str(2 * (27 * 4 + 8) + 8), "copied"]
    assert json.loads((tmp_path / "run" / "run.json").read_text())["done"]
