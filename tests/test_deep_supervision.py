"""Deep supervision: labels that lie where the voxels lie, heads that stay out of the network."""

import json

import helpers
import numpy as np
import pytest
import tensorflow as tf

from tl3d_keras import (
    artifact,
    class_weights,
    deep_supervision,
    losses,
    manifest,
    training_run,
)
from tl3d_keras.annotation import IGNORE
from tl3d_keras.errors import InputError
from tl3d_keras.run_settings import RunSettings
from tl3d_keras.trainer import MaskedTrainer
from tl3d_keras.unet3d import named_weights


def pass_on_the_maxima(model):
    """Gives weights by which every level's output is the maximum of its pooling window."""
    for name, variable in named_weights(model).items():
        weights = np.zeros(variable.shape)
        if name.endswith("kernel"):
            size, of, to = variable.shape[0], *variable.shape[3:]
            # After a concatenation, what came over the skip connection stands last.
            joined = name.startswith("decoder") and "conv_0" in name
            weights[size // 2, size // 2, size // 2, of - to if joined else 0, 0] = 1
        variable.assign(weights)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(("padding", "levels"), [("valid", 4), ("same", 4), ("valid", 3)])
def test_labels_lie_where_the_voxels_of_their_level_do(padding, levels, axis):
    network = helpers.network(filters=1, levels=levels, padding=padding)
    supervised = deep_supervision.with_heads(network)
    pass_on_the_maxima(supervised)
    geometry = network.geometry
    shape = [geometry.input_size(1)] * 3
    shape[axis] += 2 * geometry.stride
    along = [-1 if a == axis else 1 for a in range(3)]
    # Image and labels say where they lie along the axis; the image from 100, to be positive.
    place = 100.0 + np.arange(shape[axis]) - geometry.margin
    image = np.broadcast_to(place.reshape(along), shape).astype(np.float32)
    size = [geometry.output_size(n) for n in shape]
    labels = np.broadcast_to(np.arange(size[axis]).reshape(along), size).astype(np.uint8)
    outputs = supervised(image[None, ..., None])
    assert len(outputs) == levels - 1
    for level, output in enumerate(outputs):
        centres, covered = deep_supervision.at_level(
            tf.constant(labels[None]), output, level, padding
        )
        assert centres.shape == covered.shape[:4] and centres.shape[axis + 1] > 1
        # A window's last voxel is its maximum, and lies half a window behind its centre.
        behind = max(2**level // 2 - 1, 0)
        last = covered.numpy()[..., 0] - 100
        np.testing.assert_array_equal(centres.numpy() + behind, last)
        # No voxel whose centre has a label was left out.
        assert centres.shape[axis + 1] == np.sum(
            (np.unique(output.numpy()[..., 0]) - 100 - behind >= 0)
            & (np.unique(output.numpy()[..., 0]) - 100 - behind < size[axis])
        )


def test_value_is_the_weighted_mean_over_levels():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, (2, 8, 8, 8)).astype(np.uint8)
    labels[:, ::2] = IGNORE
    logits = [tf.constant(rng.normal(size=(2, n, n, n, 3)).astype(np.float32)) for n in (8, 4, 2)]
    annotated = np.array([[1, 1, 1], [1, 1, 0]], np.uint8)
    labels[1][labels[1] == 2] = 0
    loss = losses.MaskedCrossEntropyDice(from_logits=True)
    found = deep_supervision.value(loss, tf.constant(labels), logits, annotated, "same")
    # At a quarter, only slices 2 and 6 would be seen, which nobody annotated.
    parts = [
        loss.value(labels, logits[0], annotated),
        loss.value(labels[:, 1::2, 1::2, 1::2], logits[1], annotated),
    ]
    np.testing.assert_allclose(found, 4 / 7 * parts[0] + 2 / 7 * parts[1], rtol=1e-6)
    alone = deep_supervision.value(loss, tf.constant(labels), logits[:1], annotated, "same")
    np.testing.assert_array_equal(alone, parts[0])


def test_unannotated_voxels_have_no_gradient_at_any_level():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, (1, 8, 8, 8)).astype(np.uint8)
    labels[:, :, :5] = IGNORE
    logits = [tf.Variable(rng.normal(size=(1, n, n, n, 3)).astype(np.float32)) for n in (8, 4, 2)]
    loss = losses.MaskedDice(from_logits=True)
    with tf.GradientTape() as tape:
        value = deep_supervision.value(loss, tf.constant(labels), logits, None, "same")
    for level, gradient in enumerate(tape.gradient(value, logits)):
        centre = 2**level // 2
        seen = labels[:, centre :: 2**level, centre :: 2**level, centre :: 2**level] != IGNORE
        np.testing.assert_array_equal(np.abs(gradient.numpy()).sum(-1) > 0, seen)


def test_heads_are_no_part_of_the_network():
    network = helpers.network(levels=4, padding="valid", dtype="mixed_bfloat16")
    before, layers = network.count_params(), [layer.name for layer in network.layers]
    supervised = deep_supervision.with_heads(network)
    assert network.count_params() == before
    assert [layer.name for layer in network.layers] == layers
    new = named_weights(supervised).keys() - named_weights(network).keys()
    assert new == {f"head_{i}/{part}" for i in (1, 2) for part in ("kernel", "bias")}
    outputs = supervised(tf.zeros((1, 92, 92, 92, 1)))
    assert [tuple(o.shape[1:4]) for o in outputs] == [(4, 4, 4), (4, 4, 4), (4, 4, 4)]
    assert all(o.dtype == tf.bfloat16 for o in outputs)
    with pytest.raises(InputError, match="--deep_supervision: expected a network of 3 .* found 2"):
        deep_supervision.with_heads(helpers.network(levels=2))


def test_replicas_end_in_the_weights_of_one_device(mirrored):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, (4, 8, 8, 8)).astype(np.uint8)
    labels[0], labels[1, 1:] = IGNORE, IGNORE
    data = {
        "image": rng.normal(size=(*labels.shape, 1)).astype(np.float32),
        "labels": labels,
        "annotated": np.ones((4, 3), np.uint8),
    }
    models = []
    for strategy in (tf.distribute.get_strategy(), mirrored(2)):
        tf.keras.utils.set_random_seed(0)
        with strategy.scope():
            network = helpers.network(filters=1, levels=3)
            supervised = deep_supervision.with_heads(network)
            loss = losses.make("cross_entropy_dice", from_logits=True)
            trainer = MaskedTrainer(network, loss, supervised)
            trainer.compile(tf.keras.optimizers.SGD(0.01), jit_compile=False)
        start = {name: v.numpy() for name, v in named_weights(supervised).items()}
        batches = tf.data.Dataset.from_tensors(data).repeat(2)
        trainer.fit(batches, verbose=0, shuffle=False)
        models.append(supervised)
    for name, variable in named_weights(models[0]).items():
        assert not np.array_equal(variable, start[name]), name
    helpers.assert_equal_weights(*models, atol=1e-5)


def test_a_run_keeps_its_heads_and_the_model_has_none(tmp_path):
    settings = RunSettings(
        str(helpers.write_records(tmp_path)),
        filters=2,
        levels=3,
        padding="same",
        patch_size=(8, 16, 16),
        steps=1,
        precision="float32",
        strategy="one",
        validation_cases=("case_2",),
        num_train=2,
        loss="focal_dice",
        loss_options={"gamma": 1.5},
        class_weights="balanced",
        deep_supervision=True,
    )
    model = training_run.run(settings, tmp_path / "run")
    kept = tf.train.load_checkpoint(tmp_path / "run" / "checkpoints")
    assert any("head_1" in name for name in kept.get_variable_to_shape_map())
    names = named_weights(artifact.load(model).network)
    assert "head/kernel" in names and not any(name.startswith("head_") for name in names)
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run["training_cases"] == ["case_0", "case_1"]
    assert run["validation_cases"] == ["case_2"]
    focal, _ = run["loss"]["losses"]
    assert focal["config"]["gamma"] == 1.5
    cases = manifest.load(settings.records_dir).cases[:2]
    assert focal["config"]["class_weights"] == class_weights.balanced(["liver", "spleen"], cases)
