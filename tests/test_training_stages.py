"""Which layers the stages of a run train, and which stay to the bit."""

import json

import helpers
import numpy as np
import pytest
import tensorflow as tf
from runs import rows, settings

from tl3d_keras import (
    artifact,
    training_run,
)
from tl3d_keras.errors import InputError
from tl3d_keras.run_folder import RunFolder
from tl3d_keras.training_state import TrainingState
from tl3d_keras.unet3d import named_weights


def test_frozen_layers_stay_and_all_else_moves(records, tmp_path):
    base = training_run.run(settings(records, steps=3), tmp_path / "base")
    before = named_weights(artifact.load(base).network)
    changes = {"mode": "transfer", "base": str(base), "freeze": ("encoder",)}
    # What would move a frozen weight, if anything did.
    changes |= {"optimizer": "adamw", "weight_decay": 0.1, "ema": 0.9}
    said = []
    model = training_run.run(settings(records, **changes), tmp_path / "run", said.append)
    for name, value in named_weights(artifact.load(model).network).items():
        same = np.array_equal(value, before[name])
        assert same == name.startswith("encoder_"), name
    layers = json.loads((tmp_path / "run" / "run.json").read_text())["layers"]
    assert [row["layer"] for row in layers if row["frozen"]] == [
        "encoder_0_conv_0",
        "encoder_0_conv_1",
        "encoder_1_conv_0",
        "encoder_1_conv_1",
    ]
    assert {row["origin"] for row in layers} == {"copied"}
    assert "stage transfer: 4 frozen layers are unchanged to the bit" in said
    (kept,) = json.loads((tmp_path / "run" / "run.json").read_text())["frozen"]
    assert kept["unchanged_to_step"] == 8 and len(kept["layers"]) == 4
    parameters = sum(row["parameters"] for row in layers)
    trained = sum(row["parameters"] for row in layers if not row["frozen"])
    assert (
        f"stage transfer: 8 steps at 0.01, trains {trained:,} parameters, "
        f"the network has {parameters:,}"
    ) in said


def test_frozen_weights_in_the_result_that_moved_are_an_error(records, tmp_path, monkeypatch):
    base = artifact.save(helpers.network(filters=4), helpers.info(), tmp_path / "base")
    changes = {"mode": "transfer", "base": str(base), "freeze": ("encoder",), "ema": 0.9}
    monkeypatch.setattr(
        TrainingState,
        "recall_average",
        lambda state: state.weights["encoder_0_conv_0/bias"].assign_add(tf.ones(4)),
    )
    with pytest.raises(RuntimeError, match=r"found \['encoder_0_conv_0'\] changed"):
        training_run.run(settings(records, steps=1, num_validation=0, **changes), tmp_path / "run")
    assert not (tmp_path / "run" / "model").exists()


def test_stages_train_what_they_name(records, tmp_path, monkeypatch):
    base = artifact.save(helpers.network(filters=4), helpers.info(), tmp_path / "base")
    seen = [{k: v.numpy() for k, v in named_weights(artifact.load(base).network).items()}]
    save = RunFolder.save

    def watched_save(folder, state):
        seen.append({k: v.numpy() for k, v in state.weights.items()})
        save(folder, state)

    monkeypatch.setattr(RunFolder, "save", watched_save)
    changes = {"stages": ("head:2@0.1", "encoder_1:decoder_0:4", "all@1e-3"), "num_validation": 0}
    training_run.run(
        settings(records, mode="finetune", base=str(base), steps_per_epoch=4, **changes),
        tmp_path / "run",
    )
    moved = [
        {name.split("_conv")[0].split("/")[0] for name in a if not np.array_equal(a[name], b[name])}
        for a, b in zip(seen, seen[1:], strict=False)
    ]
    assert moved == [
        {"head"},
        {"encoder_1", "decoder_0"},
        {"encoder_0", "encoder_1", "decoder_0", "head"},
    ]
    assert [row["stage"] for row in rows(tmp_path / "run")] == [
        "head",
        "encoder_1:decoder_0",
        "all",
    ]
    noted = json.loads((tmp_path / "run" / "run.json").read_text())["frozen"]
    assert [(entry["first_step"], entry["unchanged_to_step"]) for entry in noted] == [
        (1, 2),
        (3, 6),
        (7, 8),
    ]


def test_finetune_trains_the_head_then_all(records, tmp_path):
    base = training_run.run(settings(records, steps=3), tmp_path / "base")
    before = named_weights(artifact.load(base).network)
    changes = {"mode": "finetune", "base": str(base), "head_steps": 8}
    model = training_run.run(settings(records, **changes), tmp_path / "head_only")
    for name, value in named_weights(artifact.load(model).network).items():
        assert np.array_equal(value, before[name]) != name.startswith("head/"), name
    model = training_run.run(settings(records, **changes | {"head_steps": 3}), tmp_path / "run")
    for name, value in named_weights(artifact.load(model).network).items():
        assert not np.array_equal(value, before[name]), name
    assert [row["stage"] for row in rows(tmp_path / "run")] == ["head", "all", "all"]


def test_a_wrong_name_of_a_later_stage_ends_before_the_first(records, tmp_path):
    base = artifact.save(helpers.network(filters=4), helpers.info(), tmp_path / "base")
    changes = {"mode": "finetune", "base": str(base), "stages": ("head:2", "decoder_7:5", "all")}
    with pytest.raises(InputError, match="found 'decoder_7'; the layers are encoder_0_conv_0"):
        training_run.run(settings(records, **changes), tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoints").exists()
