"""Steps that are not finite: skipped on all replicas alike, told, and ended after five in a row."""

import csv
import json

import helpers
import numpy as np
import pytest
import runs
import tensorflow as tf

from tl3d_keras import artifact, guards, losses, training_run
from tl3d_keras.errors import InputError
from tl3d_keras.guards import Diverged, Guard
from tl3d_keras.optimizers import OptimizerPlan, make_optimizer
from tl3d_keras.trainer import MaskedTrainer
from tl3d_keras.unet3d import named_weights

BAD = float("nan")


def batches(bad_steps, count=6, batch=4):
    """Batches of which some hold a case, the third, with one NaN in its image."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, (count, batch, 8, 8, 8)).astype(np.uint8)
    image = rng.normal(size=(*labels.shape, 1)).astype("f")
    for step in bad_steps:
        image[step - 1, 2, 4, 4, 4] = BAD
    annotated = np.ones((count, batch, 3), np.uint8)
    return tf.data.Dataset.from_tensor_slices(
        {"image": image, "labels": labels, "annotated": annotated}
    )


def fitted(strategy, data, optimizer="adam", precision="float32", guard=None):
    """A network after an epoch, its optimizer and the history."""
    with strategy.scope():
        network = helpers.network(dtype=precision)
        rule = make_optimizer(OptimizerPlan(optimizer), 0.01, 100, precision)
        loss = losses.LOSSES["cross_entropy_dice"](from_logits=True)
        guard = guard or Guard()
        trainer = MaskedTrainer(network, loss, guard=guard)
        trainer.compile(optimizer=rule, jit_compile=False)
        rule.build(network.trainable_weights)
    history = trainer.fit(data, verbose=0, shuffle=False).history
    return network, rule, history, guard


def values(network, rule):
    """All that a step may change."""
    return [np.array(v) for v in (*named_weights(network).values(), *rule.variables)]


@pytest.mark.parametrize("replicas", [1, 2, pytest.param(4, marks=pytest.mark.slow)])
def test_a_bad_batch_is_as_if_it_had_not_been(replicas, mirrored):
    strategy = tf.distribute.get_strategy() if replicas == 1 else mirrored(replicas)
    bad = (2, 4, 5)
    good = [s - 1 for s in range(1, 7) if s not in bad]
    network, rule, history, guard = fitted(strategy, batches(bad))
    without = tf.data.Dataset.from_tensor_slices(
        {
            name: np.stack([b[name] for b in batches(()).as_numpy_iterator()])[good]
            for name in ("image", "labels", "annotated")
        }
    )
    expected_network, expected_rule, expected_history, _ = fitted(strategy, without)
    for ours, expected in zip(
        values(network, rule), values(expected_network, expected_rule), strict=True
    ):
        np.testing.assert_array_equal(ours, expected)
    assert history == expected_history
    assert guard.skipped_since(0) == [2, 4, 5] and guard.skipped_since(2) == [4, 5]
    assert guard.in_a_row == 0


def test_gradients_alone_can_be_bad(monkeypatch):
    start = helpers.network()

    def gradient(tape, target, sources):
        found = [tf.zeros(s.shape) for s in sources]
        return [*found[:-1], found[-1] + float("inf")]

    monkeypatch.setattr(tf.GradientTape, "gradient", gradient)
    network, _, _, guard = fitted(tf.distribute.get_strategy(), batches((), count=2))
    assert guard.skipped_since(0) == [1, 2]
    helpers.assert_equal_weights(start, network)


def test_nothing_moves_after_five_in_a_row_however_late_one_looks():
    network, rule, _, guard = fitted(tf.distribute.get_strategy(), batches(range(1, 6), count=8))
    assert guard.in_a_row == guards.MOST_IN_A_ROW == 5
    assert guard.skipped_since(0) == [1, 2, 3, 4, 5]
    helpers.assert_equal_weights(helpers.network(), network)


def test_float16_overflow_is_for_the_loss_scale(monkeypatch):
    """The first scale, 2^15, is made too much by a loss of thousands."""
    loss = losses.LOSSES["cross_entropy_dice"]
    value = loss.value
    monkeypatch.setattr(loss, "value", lambda *args: 3e3 * value(*args))
    strategy = tf.distribute.get_strategy()
    network, rule, history, guard = fitted(strategy, batches(()), "sgd", "mixed_float16")
    scale = rule.dynamic_scale if hasattr(rule, "dynamic_scale") else rule.loss_scale
    assert float(scale) < 2**15
    assert guard.skipped_since(0) == [] and np.isfinite(history["loss"]).all()
    _, rule, _, guard = fitted(strategy, batches((1, 3)), "sgd", "mixed_float16")
    assert guard.skipped_since(0) == [1, 3]


def settings(records, **changes):
    short = {"filters": 2, "steps": 12, "learning_rate": 1e-3, "num_validation": 0}
    return runs.settings(records, **short | changes)


@pytest.fixture
def poisoned(monkeypatch):
    """Makes the image of a case NaN in some batches: `poisoned(case, first, last)`."""

    def poison(case, first, last=10**9):
        original = training_run.input_pipeline.training_batches

        def training_batches(folder, manifest, cases, patches, first_batch=0):
            data = original(folder, manifest, cases, patches, first_batch)

            def spoil(number, batch):
                hit = (number + 1 >= first) & (number + 1 <= last)
                hit &= tf.reduce_any(batch["case"] == case)
                return {**batch, "image": tf.where(hit, BAD, batch["image"])}

            return data.enumerate(first_batch).map(spoil)

        monkeypatch.setattr(training_run.input_pipeline, "training_batches", training_batches)

    return poison


def test_a_run_names_the_cases_and_goes_on(records, tmp_path, poisoned):
    poisoned(1, 4, 9)
    said = []
    training_run.run(settings(records), tmp_path / "run", said.append)
    told = [line for line in said if "skipped" in line]
    assert told and all("case_1" in line for line in told)
    noted = json.loads((tmp_path / "run" / "run.json").read_text())["skipped_steps"]
    assert [
        f"step {entry['step']} skipped" in line for entry, line in zip(noted, told, strict=True)
    ]
    with open(tmp_path / "run" / "metrics.csv", newline="") as file:
        assert all(np.isfinite(float(row["loss"])) for row in csv.DictReader(file))


def test_five_in_a_row_end_the_run_with_the_best_model(records, tmp_path, monkeypatch):
    dice, kept = iter([[0.2, 0.4], [0.5, 0.9], [0.1, 0.1]]), []

    def validate(segmenter, *_):
        kept.append({k: v.numpy() for k, v in named_weights(segmenter.network).items()})
        return next(dice)

    value = losses.MaskedCrossEntropyDice.value
    step = tf.Variable(0, trainable=False)

    def spoiled(self, *args):
        number = step.assign_add(1)
        return tf.where(number > 7, BAD, 1.0) * value(self, *args)

    monkeypatch.setattr(training_run.validation, "validate", validate)
    monkeypatch.setattr(losses.MaskedCrossEntropyDice, "value", spoiled)
    with pytest.raises(Diverged, match="in 5 steps in a row, up to step 12 with the cases case_"):
        training_run.run(settings(records, steps=30, num_validation=1), tmp_path / "run")
    for name, weight in named_weights(artifact.load(tmp_path / "run" / "model").network).items():
        np.testing.assert_array_equal(weight, kept[1][name])
    assert (tmp_path / "run" / "report.html").is_file()
    assert issubclass(Diverged, InputError)


def test_the_count_survives_a_resume(records, tmp_path, monkeypatch):
    """Three bad steps before a kill and two after it are five in a row."""
    value = losses.MaskedCrossEntropyDice.value
    spoiled = lambda self, *args: BAD * value(self, *args)  # noqa: E731
    monkeypatch.setattr(losses.MaskedCrossEntropyDice, "value", spoiled)
    with pytest.raises(Diverged, match="up to step 5 "):
        training_run.run(settings(records), tmp_path / "run")
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    with pytest.raises(Diverged, match="up to step 5 "):
        training_run.run(settings(records), tmp_path / "run")
    assert (
        json.loads((tmp_path / "run" / "run.json").read_text())["skipped_steps"]
        == run["skipped_steps"]
    )
    assert [entry["step"] for entry in run["skipped_steps"]] == [1, 2, 3, 4, 5]
