"""Training: replicas, precision, what a run leaves and which weights it keeps."""

import json
import sys
from pathlib import Path

import helpers
import numpy as np
import pytest
import tensorflow as tf
from runs import EVERYTHING, rows, settings

from tl3d_keras import (
    artifact,
    devices,
    losses,
    run_parts,
    training_run,
)
from tl3d_keras.run_folder import RunFolder
from tl3d_keras.trainer import MaskedTrainer
from tl3d_keras.unet3d import named_weights

ROOT = Path(__file__).resolve().parents[1]


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
