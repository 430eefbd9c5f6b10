"""Gradient checkpointing: the gradients of the plain step, wherever it trains."""

import helpers
import numpy as np
import pytest
import tensorflow as tf

from tl3d_keras import deep_supervision, layers_by_name, losses
from tl3d_keras.gradient_checkpointing import Checkpointed
from tl3d_keras.trainer import MaskedTrainer


def make_batch(network, size, batch=2):
    output = network.geometry.output_size(size)
    labels = tf.random.stateless_uniform([batch, *[output] * 3], (0, 2)) * 3
    return {
        "image": tf.random.stateless_normal([batch, *[size] * 3, 1], (0, 1)),
        "labels": tf.cast(labels, tf.uint8),
        "annotated": tf.ones([batch, 3], tf.uint8),
    }


@pytest.mark.parametrize(
    ("size", "arguments"),
    [
        (44, {"padding": "valid", "levels": 3}),
        (22, {"padding": "valid"}),
        (20, {"padding": "valid", "normalization": "group"}),
        (16, {"padding": "same", "levels": 4}),
        (8, {"padding": "same", "levels": 3, "normalization": "instance"}),
        (8, {"padding": "same", "levels": 1}),
    ],
)
def test_logits_and_gradients_are_those_of_the_plain_network(size, arguments):
    network = helpers.network(**arguments)
    # Else activations grow from layer to layer, and rounding with them.
    network.set_weights([weight / 2 for weight in network.get_weights()])
    # In slabs there are other sums; of 10^5 products the plain kernel's are off by 5e-6.
    sliced = arguments["padding"] == "valid" and "normalization" not in arguments
    most = 1e-5 if sliced else 1e-7
    batch = make_batch(network, size)
    loss = losses.MaskedCrossEntropyDice(from_logits=True)

    def gradients(call):
        with tf.GradientTape() as tape:
            logits = tf.nest.flatten(call(batch["image"]))[0]
            value = loss.value(batch["labels"], logits)
        return [logits, *tape.gradient(value, network.trainable_weights)]

    plain, twice = (
        tf.function(gradients)(call)
        for call in (network.logits, Checkpointed(network, network.logits))
    )
    for found, expected in zip(twice, plain, strict=True):
        assert float(tf.norm(found - expected)) <= most * float(tf.norm(expected))


@pytest.mark.parametrize(
    "options",
    [
        {"replicas": 2},
        {"frozen": ("encoder_0*", "decoder_*")},
        {"supervised": True, "dtype": "mixed_bfloat16"},
        {"dtype": "mixed_float16"},
    ],
    ids=str,
)
def test_steps_end_in_equal_weights(options, mirrored):
    replicas, dtype = options.get("replicas", 1), options.get("dtype")
    strategy = mirrored(replicas) if replicas > 1 else tf.distribute.get_strategy()
    trained = []
    for checkpointing in (False, True):
        with strategy.scope():
            network = helpers.network(levels=3, dtype=dtype)
            logits = network.logits
            if options.get("supervised"):
                logits = deep_supervision.with_heads(network)
                head = logits.get_layer("head_1")
                head.set_weights([np.ones_like(weight) for weight in head.get_weights()])
            layers_by_name.freeze(
                network, layers_by_name.matching(network, options.get("frozen", ()))
            )
            loss = losses.MaskedCrossEntropyDice(from_logits=True)
            trainer = MaskedTrainer(network, loss, logits, checkpointing=checkpointing)
            trainer.compile(tf.keras.optimizers.SGD(0.1), jit_compile=False)
        data = tf.data.Dataset.from_tensors(make_batch(network, 8)).repeat()
        trainer.fit(data, steps_per_epoch=2, shuffle=False, verbose=0)
        trained.append(network)
    start, found = helpers.network(levels=3).get_weights(), trained[1].get_weights()
    moved = [not np.array_equal(a, b) for a, b in zip(found, start, strict=True)]
    assert any(moved) and all(moved) == ("frozen" not in options)
    helpers.assert_equal_weights(*trained, atol=1e-6)
