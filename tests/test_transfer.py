"""Transfer: heads by name, channels."""

import helpers
import numpy as np
import pytest
import tensorflow as tf

from tl3d_keras import transfer, weight_surgery
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


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"structures": "liver"}, "expected a list of names as structures, found 'liver'"),
        ({"structures": []}, "expected a list of names as structures"),
        ({"structures": ["liver", "liver"]}, "different names, found liver twice"),
        ({"architecture": {"depth": 3}}, "expected architecture of filters, .* found depth"),
        ({"base": tf.keras.Sequential()}, "expected a network of base_model or load .* Sequential"),
    ],
)
def test_wrong_arguments(base, wrong, message):
    with pytest.raises(InputError, match=message):
        transfer.transfer_model(**{"base": base, "structures": BASE, **wrong})


@pytest.mark.parametrize("channels", [2, 3])
def test_equal_new_channels_give_the_bases_response(base, channels):
    network, origins = transfer.transfer_model(base, BASE, input_channels=channels)
    image = tf.random.stateless_normal((1, 8, 8, 8, 1), (0, 1))
    np.testing.assert_allclose(network(tf.repeat(image, channels, -1)), base(image), atol=1e-5)
    assert origins["encoder_0_conv_0"] == f"1 -> {channels} channels by mean"


@pytest.mark.parametrize(("old", "new"), [(1, 2), (2, 3), (3, 2), (2, 5), (4, 1)])
@pytest.mark.parametrize("by", weight_surgery.CHANNELS_BY)
def test_any_number_of_channels_becomes_any_other(old, new, by):
    base = helpers.network(input_channels=old)
    network, origins = transfer.transfer_model(base, BASE, input_channels=new, input_channels_by=by)
    assert origins["encoder_0_conv_0"] == f"{old} -> {new} channels by {by}"
    given = named_weights(base)["encoder_0_conv_0/kernel"].numpy()
    found = named_weights(network)["encoder_0_conv_0/kernel"].numpy()
    common = min(old, new)
    if by == "mean":
        expected = np.repeat(given.mean(3, keepdims=True) * old / new, new, axis=3)
    elif by == "zero":
        expected = np.zeros_like(found)
        expected[:, :, :, :common] = given[:, :, :, :common]
    else:
        expected = given[:, :, :, np.arange(new) % old]
        expected /= np.bincount(np.arange(new) % old)[np.arange(new) % old, np.newaxis]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    bias = "encoder_0_conv_0/bias"
    np.testing.assert_array_equal(named_weights(network)[bias], named_weights(base)[bias])
    with pytest.raises(InputError, match="expected input channels by mean, copy, zero, found 'x'"):
        transfer.transfer_model(base, BASE, input_channels=new, input_channels_by="x")


@pytest.mark.parametrize("by", ["zero", "copy"])
def test_channels_of_equal_name_go_on_wherever_they_are(by):
    base = helpers.network(input_channels=2)
    image = tf.random.stateless_normal((1, 8, 8, 8, 3), (0, 1))
    network, _ = transfer.transfer_model(
        base,
        ["liver", "x"],
        3,
        input_channels_by=by,
        channel_names=(["T1", "T2"], ["PD", "t2", "T1"]),
    )
    if by == "copy":
        # The further channel shares the kernel of the first.
        image = tf.stack([image[..., 2], image[..., 1], image[..., 2]], -1)
    expected = base.trunk(tf.gather(image, [2, 1], axis=-1))[-1]
    np.testing.assert_allclose(network.trunk(image)[-1], expected, rtol=1e-5, atol=1e-4)


def test_as_many_channels_are_put_in_the_order_of_their_names():
    base = helpers.network(input_channels=2)
    names = (["T1", "FLAIR"], ["FLAIR", "T1"])
    network, origins = transfer.transfer_model(base, ["a"], 2, channel_names=names)
    image = tf.random.stateless_normal((1, 8, 8, 8, 2), (0, 1))
    np.testing.assert_allclose(
        network.trunk(image)[-1], base.trunk(image[..., ::-1])[-1], rtol=1e-5, atol=1e-4
    )
    assert origins["encoder_0_conv_0"] == "copied, channels by name"


@pytest.mark.parametrize(
    ("old", "new", "sources"),
    [
        (["CT"], ["MR"], [0]),
        (["a", "b"], ["b", "c"], [1, 0]),
        (["a", "b"], ["c", "b", "d"], [0, 1, None]),
        (["a", "a"], ["a", "b"], [0, 1]),
        (["a"], ["a", "a"], [0, None]),
    ],
)
def test_channel_sources(old, new, sources):
    assert weight_surgery.channel_sources(old, new) == sources


def test_names_differ_in_writing_alone():
    base = helpers.network(structures=("Left Kidney", "right-kidney"))
    network, origins = transfer.transfer_model(base, ["right_kidney", "left kidney"])
    assert origins["head"] == "copied"
    kernels = [named_weights(n)["head/kernel"].numpy() for n in (network, base)]
    np.testing.assert_array_equal(kernels[0], kernels[1][..., [0, 2, 1]])


def test_a_base_without_names_shares_background_alone():
    _, origins = transfer.transfer_model(helpers.network(), ["structure_1", "structure_2"])
    assert origins["head"] == "copied 1 of 3"


def test_of_another_depth_what_fits_is_copied_and_the_rest_named(base):
    deeper, origins = transfer.transfer_model(base, BASE, architecture={"levels": 3})
    new = {name for name, origin in origins.items() if origin == "new, not in the base"}
    assert new == {f"{part}_conv_{i}" for part in ("encoder_2", "decoder_1") for i in (0, 1)}
    assert {origins[name] for name in origins if name not in new} == {"copied"}
    old, found = named_weights(base), named_weights(deeper)
    for name in old:
        np.testing.assert_array_equal(old[name], found[name])
    again, origins = transfer.transfer_model(deeper, BASE, architecture={"levels": 2})
    helpers.assert_equal_weights(again, base)
    assert weight_surgery.unused_layers(origins) == [
        "encoder_2_conv_0",
        "encoder_2_conv_1",
        "decoder_1_conv_0",
        "decoder_1_conv_1",
    ]


def test_of_other_filters_nothing_is_copied_in_part(base):
    wider, origins = transfer.transfer_model(
        base, BASE, architecture={"filters": 4, "normalization": "instance"}
    )
    assert origins.pop("head") == "new, of another shape than the base's"
    assert {o for n, o in origins.items() if "norm" in n} == {"new, not in the base"}
    assert {o for n, o in origins.items() if "conv" in n} == {
        "new, of another shape than the base's"
    }
    # Random weights of a new network have no bias.
    weights = named_weights(wider)
    assert not any(np.any(v) for n, v in weights.items() if n.endswith("bias"))
    rows = transfer.layer_table(wider, origins | {"head": "new"}, [])
    assert all(row.origin.startswith("new") for row in rows)
