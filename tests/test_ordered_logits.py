"""Logits in a fixed order: the network's own, and each skip connection convolved before pooling."""

import helpers
import numpy as np
import pytest
import tensorflow as tf

from tl3d_keras.ordered_logits import ordered_logits


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize(
    ("padding", "normalization"), [("valid", None), ("same", "instance"), ("same", "group")]
)
def test_the_logits_are_those_of_the_network(padding, normalization, dtype):
    network = helpers.network(padding=padding, normalization=normalization, dtype=dtype)
    size = network.geometry.input_size(4)
    image = np.random.default_rng(0).normal(size=(2, size, size, size, 1)).astype(np.float32)
    expected, found = network.logits(image), ordered_logits(network)(tf.constant(image))
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(*(tf.cast(x, tf.float32) for x in (found, expected)))


@pytest.mark.parametrize("padding", ["valid", "same"])
def test_skip_connections_are_convolved_before_they_are_pooled(padding):
    network = helpers.network(padding=padding, levels=3)
    spec = tf.TensorSpec([1, None, None, None, 1])
    graph = tf.function(ordered_logits(network)).get_concrete_function(spec).graph
    pools = [op for op in graph.get_operations() if op.type == "MaxPool3D"]
    assert len(pools) == 2
    for pool in pools:
        (last,) = pool.control_inputs
        assert _between(last, pool.inputs[0].op) >= {"Conv3D", "AddV2"}


def _between(op, source):
    """The kinds of the operations that `op` is computed by, up to `source`."""
    if op is source:
        return set()
    return {op.type}.union(*(_between(x.op, source) for x in op.inputs if x.op.inputs))
