"""Settings of a run: how they split the cases, and what they may not be."""

import dataclasses

import helpers
import pytest
from runs import settings

from tl3d_keras import (
    manifest,
    run_parts,
    run_settings,
    training_run,
)
from tl3d_keras.errors import InputError


@pytest.mark.parametrize(
    "changes, train, validation",
    [
        ({}, "0123", ""),
        ({"num_validation": 1}, "012", "3"),
        ({"num_train": 3, "num_validation": 1}, "01", "2"),
        ({"validation_cases": ("2",)}, "01", "23"),
        ({"validation_cases": ("case_3", "case_1", "case_3")}, "02", "31"),
        ({"validation_cases": ("case_1",), "num_train": 2}, "02", "1"),
    ],
)
def test_cases_are_split(records, changes, train, validation):
    found = run_settings.split_cases(settings(records, **changes), manifest.load(records))
    expected = [[f"case_{number}" for number in part] for part in (train, validation)]
    assert [[case.case_id for case in part] for part in found] == expected


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"mode": "transfer"}, "--mode=transfer: expected --base"),
        (
            {"mode": "other"},
            "expected a mode of scratch, transfer, finetune, adapter, found 'other'",
        ),
        ({"architecture": {"depth": 3}}, "expected architecture of filters, .* found depth"),
        ({"freeze": ("head",)}, "--freeze: expected no layers with --mode=scratch"),
        ({"stages": ("head:1", "all")}, "--stages: expected no layers with --mode=scratch"),
        ({"base": "b", "mode": "transfer", "stages": ("head:9", "all")}, r"--stages: .* 9 \+ -1"),
        (
            {"base": "b", "mode": "transfer", "stages": ("all",), "head_steps": 1},
            "expected --stages, which names what is trained, or --freeze and --head_steps",
        ),
        ({"base": "b", "mode": "finetune", "head_steps": 9}, "--head_steps: expected 0 to 8"),
        ({"base": "b", "mode": "finetune", "fine_rate": 0.0}, "--fine_rate: expected more than 0"),
        ({"base": "b", "mode": "adapter", "adapter_rank": 0}, "--adapter_rank: expected 1 or more"),
        ({"num_train": 5}, "--num_train: expected 1 to 4 cases, found 5"),
        ({"num_validation": 4}, "expected fewer validation cases than the 4 cases, found 4"),
        ({"patch_size": (8, 15, 16)}, "expected an input size such as 12, 14, 16 .* found 15"),
        (
            {"optimizer": "adum"},
            "expected one that Keras knows, such as adam.* found 'adum'",
        ),
        ({"loss": "hinge"}, "expected a loss of cross_entropy, .* found 'hinge'"),
        ({"class_weights": "all"}, "expected class weights of none, balanced, found 'all'"),
        (
            {"loss": "dice", "class_weights": "balanced"},
            "the loss dice: expected no class weights, found some",
        ),
        (
            {"loss": "tversky", "loss_options": {"gamma": 2.0}},
            "the loss tversky: expected options of alpha, beta, found 'gamma'",
        ),
        ({"deep_supervision": True}, "--deep_supervision: expected a network of 3 levels or more"),
        ({"validation_cases": ("case_9",)}, "expected case names of the records .* case_9"),
        (
            {"validation_cases": ("case_0",), "num_validation": 1},
            "expected --validation_cases or --num_validation, found both",
        ),
        (
            {"validation_cases": ("case_0",), "num_train": 4},
            "--num_train: expected 1 to 3 cases, found 4",
        ),
        ({"validation_cases": ("4",)}, "expected fewer validation cases than the 4 cases, found 4"),
        (
            {"warmup_steps": 8},
            "--warmup_steps: expected fewer than the 8 steps of a stage, found 8",
        ),
        (
            {"layer_rates": (("haed", 2.0),)},
            "expected a pattern that matches a layer, found 'haed'",
        ),
        ({"weight_decay": float("nan")}, "--weight_decay: expected 0 or more, found nan"),
        ({"learning_rate": float("nan")}, "--learning_rate: expected 0 or more, found nan"),
        ({"seed": 2**32}, "--seed: expected 0 to 4294967295, found 4294967296"),
        ({"batch_size": 0}, "--batch_size: expected 1 or more, found 0"),
        ({"augmentation": "heavy"}, "expected an augmentation of none, .* found 'heavy'"),
        ({"records_dir": "nowhere"}, "nowhere/manifest.json: cannot read"),
    ],
)
def test_wrong_settings(records, tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        training_run.run(dataclasses.replace(settings(records), **changes), tmp_path / "run")
    assert not (tmp_path / "run" / "model").exists()


def test_flipping_one_side_is_refused_before_anything_is_written(tmp_path):
    records = helpers.write_records(tmp_path, num_cases=1, structures=("left_kidney", "liver"))
    with pytest.raises(InputError, match="expected no flip along x, or .* found 'left_kidney'"):
        training_run.run(settings(records, flip_axes=(0, 2)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_architecture_holds_without_a_base_too(records):
    chosen = settings(records, filters=4, architecture={"levels": 3, "normalization": "group"})
    network, _ = run_parts.make_network(chosen, manifest.load(records), None, "float32")
    config = network.get_config()
    assert (config["filters"], config["levels"], config["normalization"]) == (4, 3, "group")
