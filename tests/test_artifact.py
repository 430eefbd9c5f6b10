"""The artifact: Keras, TensorFlow alone, the TF1 loader and the other stack give the same."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import helpers
import numpy as np
import pytest
import tensorflow as tf

from tl3d_keras import artifact, served_check
from tl3d_keras.errors import InputError
from tl3d_keras.intensity import Intensity
from tl3d_keras.serving_graph import ServedModel
from tl3d_keras.unet3d import named_weights

ROOT = Path(__file__).resolve().parents[1]
OTHER_STACK = os.environ.get("TL3D_OTHER_STACK")
MODELS = {
    "same": {},
    "valid": {"padding": "valid"},
    "group": {"normalization": "group", "filters": 8},
    "two_channels": {"input_channels": 2},
}


def saved(tmp_path, name="same", intensity=None):
    arguments = MODELS[name]
    channels = ("CT", "PET")[: arguments.get("input_channels", 1)]
    if intensity is None:
        intensity = Intensity("window", (-100.0,) * len(channels), (300.0,) * len(channels))
    network = helpers.network(**arguments)
    return network, artifact.save(
        network, helpers.info(channels=channels, intensity=intensity), tmp_path / "model"
    )


def raw_image(channels=1):
    return np.random.default_rng(2).normal(scale=200, size=(2, 24, 20, 28, channels)).astype("f")


@pytest.mark.parametrize("name", list(MODELS))
def test_keras_round_trip_and_served_signature(tmp_path, name):
    network, folder = saved(tmp_path, name)
    assert folder == tmp_path / "model" / "1"
    loaded = artifact.load(folder)
    assert loaded.info == helpers.info(
        loaded.info.structures, loaded.info.channels, loaded.info.intensity
    )
    helpers.assert_equal_weights(network, loaded.network)
    image = raw_image(len(loaded.info.channels))
    expected = network(loaded.info.intensity.normalise(image))
    served = tf.saved_model.load(str(folder)).signatures["serving_default"]
    assert list(served.structured_outputs) == ["probabilities"]
    assert served.structured_input_signature[1] == {
        "image": tf.TensorSpec((None, None, None, None, image.shape[-1]), tf.float32, name="image")
    }
    # The served graph computes the same sums in fewer operations, which round differently.
    np.testing.assert_allclose(
        served(image=tf.constant(image))["probabilities"], expected, atol=1e-5
    )
    assert served_check.check(folder) <= 1e-5


def test_zscore_is_each_examples_own(tmp_path):
    network, folder = saved(tmp_path, intensity=Intensity("zscore"))
    served = tf.saved_model.load(str(folder)).signatures["serving_default"]
    image = raw_image()
    image[1] = 40 * image[1] + 1000
    each = [served(image=tf.constant(image[i : i + 1]))["probabilities"] for i in (0, 1)]
    both = served(image=tf.constant(image))["probabilities"]
    np.testing.assert_allclose(both, tf.concat(each, 0), atol=1e-6)


def test_loads_with_the_session_loader(tmp_path):
    """As TF Serving's runtime does."""
    network, folder = saved(tmp_path)
    image = raw_image()
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        graph = tf.compat.v1.saved_model.load(session, ["serve"], str(folder))
        signature = graph.signature_def["serving_default"]
        found = session.run(
            signature.outputs["probabilities"].name, {signature.inputs["image"].name: image}
        )
    np.testing.assert_allclose(found, network(helpers.WINDOW.normalise(image)), atol=1e-6)


@pytest.mark.skipif(not OTHER_STACK, reason="TL3D_OTHER_STACK names no other stack's Python")
@pytest.mark.parametrize("name", ["same", "group"])
def test_the_other_stack_reads_ours_and_we_read_theirs(tmp_path, name):
    network, folder = saved(tmp_path, name)
    image = raw_image()
    np.save(tmp_path / "image.npy", image)
    code = (
        "import sys; sys.path[:0] = ['tests']\n"
        "from data_tools.command import load_tensorflow; load_tensorflow()\n"
        "import numpy as np, tensorflow as tf\n"
        "from tl3d_keras import artifact\n"
        f"model = artifact.load({str(folder)!r})\n"
        f"image = np.load({str(tmp_path / 'image.npy')!r})\n"
        f"run = tf.saved_model.load({str(folder)!r}).signatures['serving_default']\n"
        "served = run(image=tf.constant(image))['probabilities']\n"
        f"np.save({str(tmp_path / 'served.npy')!r}, served)\n"
        "keras = model.network(model.info.intensity.normalise(image))\n"
        f"np.save({str(tmp_path / 'keras.npy')!r}, keras)\n"
        f"artifact.save(model.network, model.info, {str(tmp_path / 'theirs')!r})\n"
        "print(tf.__version__)\n"
    )
    done = subprocess.run([OTHER_STACK, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() != tf.__version__
    expected = network(helpers.WINDOW.normalise(image))
    theirs = artifact.load(tmp_path / "theirs")
    helpers.assert_equal_weights(network, theirs.network)
    run = tf.saved_model.load(str(tmp_path / "theirs" / "1")).signatures["serving_default"]
    for found in (
        np.load(tmp_path / "served.npy"),
        np.load(tmp_path / "keras.npy"),
        run(image=tf.constant(image))["probabilities"],
        theirs.network(helpers.WINDOW.normalise(image)),
    ):
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_mixed_precision_network_is_saved_in_float32(tmp_path):
    network = helpers.network(dtype="mixed_bfloat16")
    folder = artifact.save(network, helpers.info(), tmp_path / "model")
    image = raw_image()
    served = tf.saved_model.load(str(folder)).signatures["serving_default"]
    exact = helpers.network()(helpers.WINDOW.normalise(image))
    np.testing.assert_allclose(served(image=tf.constant(image))["probabilities"], exact, atol=1e-5)
    again = artifact.load(folder, dtype="mixed_bfloat16").network
    np.testing.assert_array_equal(again(image), network(image))


def test_versions_count_up_and_the_highest_is_loaded(tmp_path):
    artifact.save(helpers.network(seed=1), helpers.info(), tmp_path / "model")
    for _ in range(9):
        shutil.copytree(tmp_path / "model" / "1", tmp_path / "model" / "9", dirs_exist_ok=True)
    # Digits that are no number, or not as TF Serving's folders have them.
    for name in ("\N{SUPERSCRIPT TWO}", "011"):
        (tmp_path / "model" / name).mkdir()
    newest = helpers.network(seed=2)
    assert artifact.save(newest, helpers.info(), tmp_path / "model").name == "10"
    helpers.assert_equal_weights(artifact.load(tmp_path / "model").network, newest)


def test_json_and_card_say_what_it_is(tmp_path):
    _, folder = saved(tmp_path)
    content = artifact.inspect(folder)
    assert content["structures"] == ["background", "liver", "spleen"]
    assert content["spacing"] == [2.0, 1.0, 1.0]
    assert content["network"]["padding"] == "same"
    assert content["provenance"] == {"seed": 7, "command": "train"}
    card = (folder / "assets.extra" / "MODEL_CARD.md").read_text()
    assert "liver, spleen" in card and "not for clinical use" in card
    assert content == json.loads((folder / "assets.extra" / "tl3d_keras.json").read_text())


def test_names_in_any_script_whatever_the_locale(tmp_path, ascii_locale):
    info = helpers.info(structures=("Leber", "\u813e\u81df"))
    folder = artifact.save(helpers.network(), info, tmp_path / "model")
    assert "Leber, \u813e\u81df" in (folder / "assets.extra" / "MODEL_CARD.md").read_text("utf-8")
    assert artifact.load(folder).info.structures == info.structures


def edit(folder, **changes):
    path = folder / "assets.extra" / "tl3d_keras.json"
    content = json.loads(path.read_text())
    network = changes.pop("network", {})
    content["network"] = None if network is None else content["network"] | network
    path.write_text(json.dumps(content | changes))


def cut(folder, name):
    path = folder / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(folder, name):
    path = folder / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda f: edit(f, network={"levels": 3}), "weights decoder_1_conv_0/bias.* are missing"),
        (lambda f: edit(f, network={"levels": 1}), "weights .*decoder_0_conv_0.* are not of this"),
        (
            lambda f: edit(f, network={"filters": 3}),
            r"expected the shape \(3, 3, 3, 1, 3\) for encoder_0_conv_0/kernel, found .*1, 2\)",
        ),
        (lambda f: edit(f, schema_version=99), "expected schema_version 1, found 99"),
        (lambda f: cut(f, "assets.extra/tl3d_keras.json"), "not valid JSON"),
        (lambda f: cut(f, "variables/variables.index"), "cannot read the variables: damaged"),
        (
            lambda f: cut(f, "variables/variables.data-00000-of-00001"),
            "cannot read the variables: damaged",
        ),
        (lambda f: shutil.rmtree(f / "variables"), "cannot read the variables: damaged"),
        (lambda f: shutil.rmtree(f / "assets.extra"), "a SavedModel that tl3d-keras did not write"),
        (lambda f: flip(f, "variables/variables.data-00000-of-00001"), "cannot read the variables"),
        (
            lambda f: edit(f, network={"levels": "many"}),
            "json: edited .*: network.levels: .*integer",
        ),
        (lambda f: edit(f, network={"padding": "half"}), "network.padding: .*'valid' or 'same'"),
        (
            lambda f: edit(f, network={"filters": 1000}),
            "features at most, found one of 1000 filters",
        ),
        (lambda f: edit(f, network=None), "json: edited or incomplete: network: "),
        (
            lambda f: edit(f, spacing=[1, 1]),
            "json: edited or incomplete: spacing.2: Field required",
        ),
        (lambda f: edit(f, spacing=[1, 0, 1]), "json: .*spacing.1: Input should be greater than 0"),
        (lambda f: edit(f, patch_size=None), "json: edited or incomplete: patch_size: "),
        (lambda f: edit(f, structures=["liver", "spleen", "x"]), "json: .* begin with background"),
        (lambda f: edit(f, structures=["background"]), "json: expected 2 structures .* found 0"),
        (
            lambda f: edit(f, structures=["background", "spleen", "liver"]),
            r"json: expected the network's structures \['liver', 'spleen'\], found \['spleen'",
        ),
        (lambda f: edit(f, channels=["CT", "PET"]), "json: expected 1 channels .* found 2"),
        (
            lambda f: edit(f, intensity={"mode": "window", "low": [0, 0], "high": [1, 1]}),
            "json: expected 1 windows of intensity for this network, found 2",
        ),
        (
            lambda f: edit(f, intensity={"mode": "window", "low": [1], "high": [0]}),
            "json: expected a finite window low < high",
        ),
        (
            lambda f: edit(f, intensity={"mode": "zscore"}),
            "json: .*: intensity.low: Field required",
        ),
    ],
)
def test_spoilt_artifacts_are_named(tmp_path, spoil, message):
    _, folder = saved(tmp_path)
    spoil(folder)
    with pytest.raises(InputError, match=message) as found:
        artifact.load(folder)
    assert str(found.value).startswith(str(folder)) and "\n" not in str(found.value)


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda f: cut(f, "saved_model.pb"), "1: TensorFlow cannot load it: damaged or incomplete"),
        (lambda f: (f / "saved_model.pb").unlink(), "1: TensorFlow cannot load it"),
        (lambda f: (f / "saved_model.pb").write_bytes(b""), "1: "),
        (
            lambda f: edit(f, intensity={"mode": "window", "low": [-100], "high": [200]}),
            "1: the served graph differs from the network by",
        ),
        (lambda f: edit(f, spacing=[1, 1, 1]), "1: the served labels differ from the command's at"),
        (lambda f: edit(f, network={"padding": "valid"}), r"1: the served graph gives the shape"),
        (lambda f: save_other(f), "1: expected the signature serving_default, found other"),
    ],
)
def test_graphs_that_do_not_belong_to_the_rest_are_named(tmp_path, spoil, message):
    _, folder = saved(tmp_path)
    spoil(folder)
    with pytest.raises(InputError, match=message) as found:
        served_check.check(folder)
    assert "\n" not in str(found.value)


def save_other(folder):
    """Puts another SavedModel's graph into an artifact."""
    module = tf.Module()
    module.other = tf.function(lambda x: x + 1, input_signature=[tf.TensorSpec([])])
    tf.saved_model.save(module, str(folder / "other"), signatures={"other": module.other})
    shutil.move(folder / "other" / "saved_model.pb", folder / "saved_model.pb")


def test_an_artifact_from_before_segment_loads_and_is_checked(tmp_path, monkeypatch):
    only = property(lambda module: {"serving_default": module.probabilities})
    monkeypatch.setattr(ServedModel, "signatures", only)
    network, folder = saved(tmp_path)
    assert list(tf.saved_model.load(str(folder)).signatures) == ["serving_default"]
    helpers.assert_equal_weights(artifact.load(folder).network, network)
    assert served_check.check(folder) <= 1e-5


def make_saved_model(folder):
    tf.saved_model.save(tf.Module(), str(folder))


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda path: None, "model: expected a model folder with .*, found no such folder"),
        (lambda path: path.write_text("weights"), "model: .*, found a file"),
        (lambda path: path.mkdir(), "model: .*, found no version of a model"),
        (
            lambda path: (path / "model" / "1").mkdir(parents=True),
            "model: .*, found the folder of a run, whose model is .*model/model",
        ),
        (lambda path: (path / "1").mkdir(parents=True), "1: .*, found a version without assets"),
        (make_saved_model, "model: .*, found a SavedModel that tl3d-keras did not write"),
        (lambda path: make_saved_model(path / "3"), "model/3: .*, found a SavedModel that tl3d"),
    ],
)
def test_no_model_there(tmp_path, make, message):
    make(tmp_path / "model")
    with pytest.raises(InputError, match=message):
        artifact.load(tmp_path / "model")


def test_information_must_fit_the_network(tmp_path):
    with pytest.raises(InputError, match="expected 2 structures for this network, found 1"):
        artifact.save(helpers.network(), helpers.info(structures=("liver",)), tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_failed_save_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr(tf.saved_model, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        saved(tmp_path)
    assert list((tmp_path / "model").iterdir()) == []


def test_weights_lie_under_their_names(tmp_path):
    network, folder = saved(tmp_path)
    reader = tf.train.load_checkpoint(str(folder / "variables" / "variables"))
    stored = [k for k in reader.get_variable_to_shape_map() if k.startswith("variables_by_name/")]
    assert len(stored) == len(named_weights(network))


@pytest.mark.parametrize(
    "error",
    [MemoryError("Unable to allocate"), tf.errors.ResourceExhaustedError(None, None, "OOM")],
)
def test_a_model_beyond_the_memory_is_not_called_damaged(tmp_path, monkeypatch, error):
    def short(**_):
        raise error

    version = artifact.save(helpers.network(), helpers.info(), tmp_path)
    monkeypatch.setattr(artifact, "UNet3D", short)
    message = r"1: expected memory for the network's weights \(2 filters, 2 levels\), found too"
    with pytest.raises(InputError, match=message):
        artifact.load(version)
