"""Transfer: heads by name, channels."""

import helpers
import numpy as np
import pytest
import tensorflow as tf

from tl3d_keras import transfer
from tl3d_keras.errors import InputError
from tl3d_keras.unet3d import named_weights

BASE = ("aorta", "liver", "spleen")


@pytest.fixture
def base():
    return helpers.network(num_classes=4, structures=BASE)


def test_shared_structures_keep_their_row_and_new_ones_are_drawn(base):
    network, origins = transfer.transfer_model(base, ["spleen", "kidney", "aorta"])
    old, new = named_weights(base), named_weights(network)
    for name in old:
        if not name.startswith("head/"):
            np.testing.assert_array_equal(old[name], new[name], err_msg=name)
    for name in ("head/kernel", "head/bias"):
        before, after = old[name].numpy(), new[name].numpy()
        for to, of in ((0, 0), (1, 3), (3, 1)):
            np.testing.assert_array_equal(after[..., to], before[..., of])
        assert not (after[..., 2, None] == before).all(axis=tuple(range(before.ndim - 1))).any()
    assert origins["head"] == "copied 3 of 4"
    assert origins["encoder_0_conv_0"] == "copied"
    assert network.structures == ("spleen", "kidney", "aorta")


def test_equal_structures_give_an_equal_network(base):
    network, origins = transfer.transfer_model(base, BASE)
    helpers.assert_equal_weights(base, network)
    assert set(origins.values()) == {"copied"}


def test_fresh_head_copies_no_row(base):
    network, origins = transfer.transfer_model(base, BASE, head="fresh")
    assert not np.isin(
        named_weights(network)["head/kernel"], named_weights(base)["head/kernel"]
    ).any()
    assert origins["head"] == "new"
    with pytest.raises(InputError, match="expected a head of by_name, fresh, found 'old'"):
        transfer.transfer_model(base, BASE, head="old")


@pytest.mark.parametrize("channels", [2, 3])
def test_equal_new_channels_give_the_bases_response(base, channels):
    network, origins = transfer.transfer_model(base, BASE, input_channels=channels)
    image = tf.random.stateless_normal((1, 8, 8, 8, 1), (0, 1))
    np.testing.assert_allclose(network(tf.repeat(image, channels, -1)), base(image), atol=1e-5)
    assert origins["encoder_0_conv_0"] == f"1 -> {channels} channels by their mean"
