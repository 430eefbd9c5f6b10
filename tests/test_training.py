"""Training: replicas, stages, frozen layers, precision, resume after a kill."""

import csv
import dataclasses
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import helpers
import numpy as np
import pytest
import tensorflow as tf

from tl3d_keras import (
    artifact,
    devices,
    losses,
    manifest,
    run_parts,
    run_settings,
    training_run,
)
from tl3d_keras.errors import InputError
from tl3d_keras.run_folder import RunFolder
from tl3d_keras.run_settings import RunSettings
from tl3d_keras.trainer import MaskedTrainer
from tl3d_keras.training_state import TrainingState
from tl3d_keras.unet3d import named_weights

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """Four sparsely annotated cases."""
    return helpers.write_records(tmp_path_factory.mktemp("records"))


def settings(records, **changes):
    return RunSettings(
        **{
            "records_dir": str(records),
            "filters": 4,
            "levels": 2,
            "padding": "same",
            "patch_size": (8, 16, 16),
            "batch_size": 2,
            "steps": 8,
            "steps_per_epoch": 3,
            "learning_rate": 1e-2,
            "precision": "float32",
            "strategy": "one",
            **changes,
        }
    )


def rows(folder):
    with open(folder / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def batches(count=6, batch=4):
    """Batches of which the first cases hold little annotation and the second none."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, (count, batch, 8, 8, 8)).astype(np.uint8)
    labels[:, 0][rng.random(labels[:, 0].shape) > 0.05] = 255
    labels[:, 1] = 255
    image = rng.normal(size=(*labels.shape, 1)) + 2.0 * (labels[..., None] == 1)
    annotated = np.ones((count, batch, 3), np.uint8)
    annotated[:, 2, 2] = 0
    labels[:, 2][labels[:, 2] == 2] = 0
    return tf.data.Dataset.from_tensor_slices(
        {"image": image.astype("f"), "labels": labels, "annotated": annotated}
    )


@pytest.mark.parametrize("replicas", [2, 4])
def test_replicas_end_in_the_weights_of_one_device(replicas, mirrored):
    def fitted(strategy):
        with strategy.scope():
            network = helpers.network()
            trainer = MaskedTrainer(network, losses.LOSSES["cross_entropy_dice"](from_logits=True))
            # Plain gradient descent, for Adam turns rounding of tiny gradients into steps.
            trainer.compile(tf.keras.optimizers.SGD(0.05), jit_compile=False)
        history = trainer.fit(batches(), epochs=2, verbose=0, shuffle=False).history
        return network, history

    network, history = fitted(tf.distribute.get_strategy())
    replicated, replicated_history = fitted(mirrored(replicas))
    start = named_weights(helpers.network())
    moved = max(np.abs(v - start[name]).max() for name, v in named_weights(network).items())
    assert moved > 0.01
    helpers.assert_equal_weights(network, replicated, atol=1e-5)
    for name in ("loss", "dice"):
        np.testing.assert_allclose(history[name], replicated_history[name], rtol=1e-4)


@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_every_precision_learns_and_keeps_float32_weights(records, tmp_path, precision):
    model = training_run.run(
        settings(records, precision=precision, steps=40, steps_per_epoch=20), tmp_path / "run"
    )
    found = rows(tmp_path / "run")
    assert float(found[-1]["loss"]) < 0.8 * float(found[0]["loss"])
    assert all(v.dtype == tf.float32 for v in named_weights(artifact.load(model).network).values())


def test_run_folder_holds_what_is_promised(records, tmp_path, capsys):
    said = []
    model = training_run.run(settings(records, num_validation=1), tmp_path / "run", said.append)
    assert model == tmp_path / "run" / "model" / "1"
    assert [(row["step"], row["stage"]) for row in rows(tmp_path / "run")] == [
        ("3", "scratch"),
        ("6", "scratch"),
        ("8", "scratch"),
    ]
    assert float(rows(tmp_path / "run")[0]["validation_dice"]) >= 0
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run["done"] and run["seconds"] > 0 and run["peak_memory_gib"] > 0
    assert run["training_cases"] == ["case_0", "case_1", "case_2"]
    assert run["validation_cases"] == ["case_3"]
    assert run["settings"]["augmentation"] == "light"
    assert run["augmentation"]["contrast"] == [0.85, 1.15, 1.0]
    assert run["settings"]["data"] and run["versions"]["tensorflow"] == tf.__version__
    assert list((tmp_path / "run" / "logs").glob("events*"))
    info = artifact.load(model).info
    assert info.structures == ("liver", "spleen") and info.patch_size == (8, 16, 16)
    assert info.intensity.mode == "window"
    assert 0 < info.provenance["annotated_fraction"] < 0.5
    # No case shows a structure whole.
    assert info.provenance["structure_volumes_ml"] == {}
    assert -150 < info.provenance["lowest_intensities"][0] < -40
    assert str(Path(sys.argv[0]).parent) not in info.provenance["command"]
    assert (
        training_run.run(settings(records, num_validation=1), tmp_path / "run", said.append)
        == model
    )
    assert said[-1].endswith("this run is complete")


def test_the_best_weights_by_validation_are_kept(records, tmp_path, monkeypatch):
    dice, seen = iter([[0.2, 0.4], [0.9, None], [0.1, 0.1]]), []

    def validate(segmenter, *_):
        seen.append({k: v.numpy() for k, v in named_weights(segmenter.network).items()})
        return next(dice)

    monkeypatch.setattr(training_run.validation, "validate", validate)
    model = training_run.run(settings(records, num_validation=1), tmp_path / "run")
    for name, value in named_weights(artifact.load(model).network).items():
        np.testing.assert_array_equal(value, seen[1][name])
        assert not name.endswith("kernel") or not np.array_equal(value, seen[2][name])
    assert artifact.inspect(model)["metrics"] == {"best_step": 6, "validation_dice": 0.9}
    assert rows(tmp_path / "run")[1]["validation_dice/spleen"] == ""


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


class Killed(BaseException):
    """Stands for kill -9 at a point of the run."""


EVERYTHING = {
    "optimizer": "adamw",
    "schedule": "polynomial",
    "warmup_steps": 1,
    "weight_decay": 0.1,
    "clip_norm": 0.05,
    "ema": 0.9,
    "layer_rates": (("encoder_*", 0.1), ("head", 2.0)),
}


@pytest.mark.parametrize(
    ("kill_at", "options"),
    [
        ("before_save", {"deep_supervision": True}),
        ("after_save", EVERYTHING | {"precision": "mixed_float16"}),
        (
            "between_epochs",
            EVERYTHING
            | {"optimizer": "sgd_nesterov", "num_validation": 0, "warmup_steps": 0}
            | {"stages": ("head:2@0.1", "decoder+head:5", "all"), "head_steps": None},
        ),
        (
            "after_save",
            {"mode": "adapter", "stages": ("decoder:4", "all"), "head_steps": None}
            | {"gradient_checkpointing": True},
        ),
    ],
)
def test_a_killed_run_ends_in_the_same_weights(records, tmp_path, monkeypatch, kill_at, options):
    network = helpers.network(filters=4, levels=3 if "deep_supervision" in options else 2)
    base = artifact.save(network, helpers.info(), tmp_path / "base")
    changes = {"num_validation": 1, "mode": "finetune", "base": str(base), "head_steps": 3}
    changes |= options
    whole = training_run.run(settings(records, **changes), tmp_path / "whole")
    save, log, epochs = RunFolder.save, RunFolder.log, []

    def killed_save(folder, state):
        epochs.append(state.step)
        if len(epochs) in (1, 3):
            if kill_at == "after_save":
                save(folder, state)
            raise Killed
        save(folder, state)

    def killed_log(folder, row, *others):
        epochs.append(row["step"])
        if len(epochs) in (1, 3):
            raise Killed
        log(folder, row, *others)

    if kill_at == "between_epochs":
        monkeypatch.setattr(RunFolder, "log", killed_log)
    else:
        monkeypatch.setattr(RunFolder, "save", killed_save)
    kills = 0
    for _ in range(6):
        try:
            resumed = training_run.run(settings(records, **changes), tmp_path / "run")
            break
        except Killed:
            kills += 1
    assert kills >= 2
    helpers.assert_equal_weights(artifact.load(whole).network, artifact.load(resumed).network)
    assert rows(tmp_path / "run") == rows(tmp_path / "whole")


def test_kill_9_and_the_same_command_again(records, tmp_path):
    command = [
        sys.executable,
        "-m",
        "experiments.train_base",
        f"--records_dir={records}",
        "--filters=2",
        "--levels=2",
        "--padding=same",
        "--patch_size=8,16,16",
        "--steps=60",
        "--steps_per_epoch=4",
        "--precision=float32",
    ]
    run = subprocess.Popen(
        [*command, f"--output_dir={tmp_path / 'run'}"],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while not list((tmp_path / "run" / "checkpoints").glob("*.index")):
        assert run.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert not (tmp_path / "run" / "model").exists()
    for folder in ("run", "whole"):
        done = subprocess.run(
            [*command, f"--output_dir={tmp_path / folder}"],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
    helpers.assert_equal_weights(
        artifact.load(tmp_path / "run" / "model").network,
        artifact.load(tmp_path / "whole" / "model").network,
    )
    assert rows(tmp_path / "run") == rows(tmp_path / "whole")


@pytest.mark.parametrize("num_validation", [0, 1])
def test_the_moving_average_is_validated_and_saved(records, tmp_path, monkeypatch, num_validation):
    validated, trained = [], []

    def validate(segmenter, *_):
        validated.append({k: v.numpy() for k, v in named_weights(segmenter.network).items()})
        return [0.1 * len(validated)] * 2

    def save(folder, state):
        trained.append({k: v.numpy() for k, v in state._weights.items()})

    monkeypatch.setattr(training_run.validation, "validate", validate)
    monkeypatch.setattr(RunFolder, "save", save)
    # Decays of 1/10, 2/11 and so on, for the run is short.
    averaged = {"ema": 0.9, "steps": 3, "steps_per_epoch": 1, "num_validation": num_validation}
    start = {}
    make = run_parts.make_network

    def kept(*arguments):
        network, origins = make(*arguments)
        start.update({k: v.numpy() for k, v in named_weights(network).items()})
        return network, origins

    monkeypatch.setattr(run_parts, "make_network", kept)
    model = training_run.run(settings(records, **averaged), tmp_path / "run")
    for name, value in named_weights(artifact.load(model).network).items():
        expected = start[name]
        for step, weights in enumerate(trained):
            decay = (1 + step) / (10 + step)
            expected = decay * expected + (1 - decay) * weights[name]
            if num_validation:
                np.testing.assert_allclose(validated[step][name], expected, atol=1e-6)
        np.testing.assert_allclose(value, expected, atol=1e-6)
        assert not np.array_equal(value, trained[-1][name])


def test_a_wrong_name_of_a_later_stage_ends_before_the_first(records, tmp_path):
    base = artifact.save(helpers.network(filters=4), helpers.info(), tmp_path / "base")
    changes = {"mode": "finetune", "base": str(base), "stages": ("head:2", "decoder_7:5", "all")}
    with pytest.raises(InputError, match="found 'decoder_7'; the layers are encoder_0_conv_0"):
        training_run.run(settings(records, **changes), tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_another_run_in_the_folder_is_refused(records, tmp_path):
    training_run.run(settings(records, steps=1), tmp_path / "run")
    with pytest.raises(InputError, match="holds a run with steps=1, found steps=2"):
        training_run.run(settings(records, steps=2), tmp_path / "run")
    folder = RunFolder(tmp_path / "locked", {})
    with pytest.raises(InputError, match="locked: another run is writing there"):
        training_run.run(settings(records), tmp_path / "locked")
    folder.close()


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


def test_transfer_from_another_number_of_channels_and_structures(records, tmp_path):
    base = helpers.network(num_classes=4, structures=("spleen", "aorta", "lung"), input_channels=2)
    information = helpers.info(
        ("spleen", "aorta", "lung"), ("T1", "T2"), helpers.Intensity("zscore")
    )
    folder = artifact.save(base, information, tmp_path / "base")
    said = []
    model = training_run.run(
        settings(records, mode="transfer", base=str(folder), steps=2), tmp_path / "run", said.append
    )
    loaded = artifact.load(model)
    assert loaded.info.structures == ("liver", "spleen") and loaded.info.channels == ("CT",)
    table = {
        line.split()[0]: line for line in said if line.startswith(("head", "encoder_0_conv_0"))
    }
    assert table["head"].endswith("copied 2 of 3")
    assert table["encoder_0_conv_0"].endswith("2 -> 1 channels by mean")


def test_precision_and_strategy_without_a_gpu(monkeypatch):
    for flags, expected in (({"avx512_bf16"}, "mixed_bfloat16"), ({"avx2"}, "float32")):
        monkeypatch.setattr(devices, "_processor_flags", lambda flags=flags: flags)
        assert devices.choose_precision("auto") == expected
    assert devices.choose_precision("mixed_float16") == "mixed_float16"
    assert devices.choose_strategy("auto").num_replicas_in_sync == 1
    assert devices.choose_strategy("mirrored").num_replicas_in_sync == 4


@pytest.mark.parametrize(
    "capability, expected",
    [((9, 0), "mixed_bfloat16"), ((7, 5), "mixed_float16"), ((6, 1), "float32")],
)
def test_precision_by_gpu(monkeypatch, capability, expected):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda _: ["gpu"])
    monkeypatch.setattr(
        tf.config.experimental, "get_device_details", lambda _: {"compute_capability": capability}
    )
    assert devices.choose_precision("auto") == expected


def test_mirrored_run_of_the_command(records, tmp_path):
    """The whole run on four virtual processors, like that on one."""
    changes = EVERYTHING | {"batch_size": 4, "steps": 6, "optimizer": "sgd", "num_validation": 1}
    one = training_run.run(settings(records, **changes), tmp_path / "one")
    four = training_run.run(settings(records, strategy="mirrored", **changes), tmp_path / "four")
    assert json.loads((tmp_path / "four" / "run.json").read_text())["replicas"] == 4
    helpers.assert_equal_weights(artifact.load(one).network, artifact.load(four).network, atol=1e-4)
