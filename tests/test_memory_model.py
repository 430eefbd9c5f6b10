"""The memory of a training step: measured peaks, what is proposed, and running out of it."""

import helpers
import pytest
import tensorflow as tf

from tl3d_keras import memory, memory_model, training_run
from tl3d_keras.errors import InputError
from tl3d_keras.memory_model import Setup
from tl3d_keras.run_settings import RunSettings
from tl3d_keras.unet3d import UNet3D, named_weights

PAPER = {
    "padding": "valid",
    "levels": 4,
    "filters": 32,
    "num_classes": 23,
    "input_channels": 1,
    "normalization": None,
}


@pytest.mark.parametrize(
    ("padding", "levels", "patch"), [("same", 3, (16, 8, 24)), ("valid", 2, (24, 20, 28))]
)
def test_numbers_are_those_of_the_network(padding, levels, patch):
    network = UNet3D(5, 4, levels, 2, padding)
    counted = memory_model._count(network.get_config(), patch)
    layers = [layer for layer in network.layers if layer.name != "head"]
    ends = tf.keras.Model(network.input, [layer.output for layer in layers])
    outputs = dict(
        zip([layer.name for layer in layers], ends(tf.zeros([1, *patch, 2])), strict=True)
    )

    def total(*parts):
        return sum(int(tf.size(v)) for name, v in outputs.items() if name.endswith(parts))

    assert counted.convolved == total("conv_0", "conv_1")
    assert counted.moved == total("pool", "crop")
    assert counted.logits == total("probabilities")
    kernels = {k: v for k, v in named_weights(network).items() if k.endswith("kernel")}
    assert counted.weights == sum(
        int(tf.size(v)) for k, v in kernels.items() if not k.startswith("head")
    )


def test_what_fits_gives_up_time_then_batch_then_precision_then_voxels():
    setup = Setup((132, 132, 132), 4, "float32")

    def need(setup):
        return memory_model.training_bytes(PAPER, setup)

    assert memory_model.fitting(PAPER, setup, need(setup)) == setup
    tried = setup
    for changes in (
        {"checkpointing": True},
        {"batch_size": 3},
        {"batch_size": 2},
        {"batch_size": 1},
        {"precision": "mixed_bfloat16"},
        {"patch_size": (124, 132, 132)},
    ):
        before, tried = need(tried), tried._replace(**changes)
        assert memory_model.fitting(PAPER, setup, before - 1) == tried
    fewer = memory_model.fitting(PAPER, setup, need(setup._replace(checkpointing=True)) - 1, 2)
    assert fewer == setup._replace(batch_size=2, checkpointing=True)
    assert memory_model.fitting(PAPER, setup, 1 << 20) is None


@pytest.mark.parametrize(
    ("changes", "least", "most"),
    [({}, 0.45, 0.55), ({"padding": "same"}, 0.75, 0.85), ({"normalization": "group"}, 0.75, 0.85)],
)
def test_checkpointing_halves_the_memory_of_the_paper(changes, least, most):
    once, twice = (
        memory_model.training_bytes(PAPER | changes, Setup((132,) * 3, 1, "float32", again))
        for again in (False, True)
    )
    assert least < twice / once < most


def test_doubts():
    setup = Setup((132, 132, 132), 2, "float32")
    need = memory_model.training_bytes(PAPER, setup)
    assert memory_model.doubts(PAPER, setup, need) is None
    assert (
        "; try --patch_size=132,132,132 --batch_size=2 --precision=float32 "
        "--gradient_checkpointing (about " in str(memory_model.doubts(PAPER, setup, need - 1))
    )
    assert str(memory_model.doubts(PAPER, setup, 0)).endswith("; try fewer --filters")


@pytest.mark.parametrize(
    "error", [MemoryError(), tf.errors.ResourceExhaustedError(None, None, "OOM when allocating")]
)
def test_running_out_is_one_line(tmp_path, monkeypatch, error):
    def train(*_):
        raise error

    records, said = helpers.write_records(tmp_path, num_cases=2), []
    monkeypatch.setattr(training_run.training, "train", train)
    monkeypatch.setattr(memory, "free_memory", lambda: 300 << 20)
    settings = RunSettings(
        str(records), padding="same", levels=2, patch_size=(64, 64, 64), precision="float32"
    )
    with pytest.raises(InputError, match="about .* GiB .* try --patch_size=.* --batch_size=1 "):
        training_run.run(settings, tmp_path / "run", said.append)
    assert any(line.startswith("warning: a training step takes about ") for line in said)
