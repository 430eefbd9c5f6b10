"""Layers by name: patterns, ranges of levels, freezing and rates; what is frozen stays."""

import helpers
import numpy as np
import pytest
import tensorflow as tf

from tl3d_keras import frozen_weights, losses, transfer
from tl3d_keras.errors import InputError
from tl3d_keras.frozen_weights import FrozenWeights
from tl3d_keras.layers_by_name import freeze, match_rates, matching
from tl3d_keras.run_folder import RunFolder
from tl3d_keras.trainer import MaskedTrainer
from tl3d_keras.training_state import TrainingState
from tl3d_keras.unet3d import named_weights

CONVOLUTIONS = [
    f"{level}_conv_{i}"
    for level in ("encoder_0", "encoder_1", "encoder_2", "decoder_1", "decoder_0")
    for i in (0, 1)
]


@pytest.fixture
def network():
    return helpers.network(levels=3)


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        ([], []),
        (["all"], [*CONVOLUTIONS, "head"]),
        (["head"], ["head"]),
        (["encoder"], CONVOLUTIONS[:6]),
        (["encoder_1"], CONVOLUTIONS[2:4]),
        (["encoder_1_conv_0"], CONVOLUTIONS[2:3]),
        (["*_conv_1"], CONVOLUTIONS[1::2]),
        (["head", "decoder_[01]_conv_0"], [CONVOLUTIONS[6], CONVOLUTIONS[8], "head"]),
        (["encoder_0:encoder_1"], CONVOLUTIONS[:4]),
        (["encoder_1:encoder_0"], CONVOLUTIONS[:4]),
        # In the network's order, in which the coarse levels of the decoder come first.
        (["encoder_2:decoder_1"], CONVOLUTIONS[4:8]),
        (["encoder_0:decoder_1"], CONVOLUTIONS[:8]),
        (["decoder_0:head"], [*CONVOLUTIONS[8:], "head"]),
        (["encoder_1_conv_1:encoder_2_conv_0"], CONVOLUTIONS[3:5]),
    ],
)
def test_patterns_and_ranges(network, patterns, expected):
    assert matching(network, patterns) == expected


def test_a_name_is_not_the_beginning_of_others():
    model = tf.keras.Sequential([tf.keras.layers.Dense(1, name=n) for n in ("head", "head_1")])
    model.build((None, 1))
    assert matching(model, ["head"]) == ["head"]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("encodr_*", r"encodr_\*"),
        ("enc", "enc"),
        ("encoder_0:encoder_3", "encoder_3"),
        ("encoder_0:", ""),
        (":head", ""),
        ("encoder_0:encoder_1:head", "encoder_1:head"),
        ("", ""),
        ("encoder_0_pool", "encoder_0_pool"),
    ],
)
def test_what_matches_nothing_lists_the_names(network, pattern, found):
    message = f"found '{found}'; the layers are encoder_0_conv_0, encoder_0_conv_1, .*, head"
    with pytest.raises(InputError, match=message):
        freeze(network, ["head", pattern])
    assert len(network.trainable_weights) == 22


def test_freezing():
    network = helpers.network()
    assert freeze(network, "head") == ["head"]
    frozen = freeze(network, ["encoder_*", "decoder_0_conv_1"])
    assert frozen == [
        "encoder_0_conv_0",
        "encoder_0_conv_1",
        "encoder_1_conv_0",
        "encoder_1_conv_1",
        "decoder_0_conv_1",
    ]
    assert len(network.trainable_weights) == 4
    rows = transfer.layer_table(network, {"head": "new"}, frozen)
    assert [row.layer for row in rows if not row.frozen] == ["decoder_0_conv_0", "head"]
    assert sum(row.parameters for row in rows) == network.count_params()
    assert freeze(network, []) == []
    assert len(network.trainable_weights) == 14


def test_match_rates():
    network = helpers.network()
    rates = match_rates(network, (("*", 0.1), ("encoder", 0.5), ("head", 2.0)))
    assert rates["head"] == 2.0 and rates["encoder_1_conv_0"] == 0.5
    assert rates["decoder_0_conv_1"] == 0.1
    with pytest.raises(InputError, match="found 'haed'; the layers are encoder_0_conv_0, .*head"):
        match_rates(network, (("haed", 2.0),))


def with_batch_normalisation():
    """A network of logits, as an imported model may be: statistics are no trainable weights."""
    layers = tf.keras.layers
    return tf.keras.Sequential(
        [
            tf.keras.Input((8, 8, 8, 1)),
            layers.Conv3D(2, 1, name="conv"),
            layers.BatchNormalization(name="norm"),
            layers.Conv3D(3, 1, name="head"),
        ]
    )


@pytest.mark.parametrize("patterns", [("norm",), ("head",)])
def test_frozen_normalisation_runs_frozen(patterns):
    model = with_batch_normalisation()
    trainer = MaskedTrainer(helpers.network(), losses.LOSSES["cross_entropy"](True), model)
    freeze(model, patterns)
    trainer.compile(tf.keras.optimizers.SGD(0.1), jit_compile=False)
    image = 3 + np.random.default_rng(0).normal(size=(2, 8, 8, 8, 1)).astype("f")
    batch = {
        "image": image,
        "labels": (image[..., 0] > 3).astype(np.uint8),
        "annotated": np.ones((2, 3), np.uint8),
    }
    before = frozen_weights.hashes(model, ["conv", "norm", "head"])
    trainer.fit(tf.data.Dataset.from_tensors(batch), verbose=0, shuffle=False)
    after = frozen_weights.hashes(model, ["conv", "norm", "head"])
    assert {name for name in before if before[name] == after[name]} == set(patterns)
    is_same = np.array_equal(trainer(image, training=True), trainer(image, training=False))
    assert is_same == ("norm" in patterns)


@pytest.fixture
def folder(tmp_path):
    folder = RunFolder(tmp_path / "run", {})
    yield folder
    folder.close()


def end_epoch(kept, steps=1):
    kept.set_params({"steps": steps})
    kept.on_epoch_end(0)


def test_frozen_weights_that_move_are_an_error(folder):
    network = helpers.network()
    kept = FrozenWeights(
        network, ["encoder_0_conv_0", "head"], folder, TrainingState(network), "a", 0
    )
    end_epoch(kept, 3)
    assert folder.noted("frozen", [])[0]["unchanged_to_step"] == 3
    assert kept.summary == "stage a: 2 frozen layers are unchanged to the bit"
    bias = named_weights(network)["head/bias"]
    bias.assign(np.nextafter(bias.numpy(), np.float32(9)))
    with pytest.raises(RuntimeError, match=r"found \['head'\] changed"):
        end_epoch(kept)
    assert FrozenWeights(network, [], folder, TrainingState(network), "b", 3).summary == ""


def test_a_resumed_stage_is_compared_with_its_start(folder):
    network = helpers.network()
    state = TrainingState(network)
    FrozenWeights(network, ["head"], folder, state, "first", 0)
    state.advance(4)
    kept = FrozenWeights(network, ["head"], folder, state, "second", 3)
    named_weights(network)["head/bias"].assign_add(tf.ones(3))
    # A stage of which nothing was kept begins anew.
    end_epoch(FrozenWeights(network, ["head"], folder, state, "third", 4))
    with pytest.raises(RuntimeError, match="head"):
        end_epoch(FrozenWeights(network, ["head"], folder, state, "second", 3))
    with pytest.raises(RuntimeError, match="head"):
        end_epoch(kept)
    assert [entry["stage"] for entry in folder.noted("frozen", [])] == ["first", "second"]
