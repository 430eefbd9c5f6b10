"""Models of Keras 2 with layers of tensorflow-addons give what they gave, on either Keras."""

import json
import os
import subprocess
import tarfile
import warnings
import zipfile
from pathlib import Path

import h5py
import helpers
import keras2_models
import numpy as np
import pytest
import tensorflow as tf

from tl3d_keras import (
    base_file,
    devices,
    keras_import,
    published,
    run_parts,
    unet3d_recognition,
)
from tl3d_keras.errors import InputError
from tl3d_keras.run_settings import RunSettings
from tl3d_keras.unet3d import named_weights

TESTS = Path(__file__).parent
OTHER_STACK = os.environ.get("TL3D_OTHER_STACK")
KINDS = (".keras", ".h5", "")


def unpack(folder):
    """Puts what `keras2_models` has written into a folder."""
    with tarfile.open(TESTS / "keras2_models.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture(scope="module", params=["kept", "made_now"])
def models(request, tmp_path_factory):
    """A folder that `keras2_models` has written."""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "kept":
        return unpack(folder)
    if devices.keras_version().startswith("2."):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pytest.importorskip("tensorflow_addons", reason="tensorflow-addons is not installed")
        keras2_models.write(folder)
        return folder
    if not OTHER_STACK:
        pytest.skip("TL3D_OTHER_STACK names no Python with tensorflow-addons")
    done = subprocess.run(
        [OTHER_STACK, "-m", "tests.keras2_models", str(folder)],
        cwd=TESTS.parent,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return folder


def stored(folder, name, kind):
    with np.load(folder / f"{name}.npz") as arrays:
        return [arrays[name] for name in arrays if name.startswith(kind)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["unet", "many", "sequence"])
def test_outputs_are_those_of_keras_2(models, name, kind):
    model = keras_import.import_keras_model(models / f"{name}{kind}")
    images = stored(models, name, "in")
    found = model(images if len(images) > 1 else images[0])
    found = found if isinstance(found, list) else [found]
    # The policy of `sequence` has three digits.
    tolerance = 0.02 if name == "sequence" else 1e-5
    for one, expected in zip(found, stored(models, name, "out"), strict=True):
        assert np.ptp(expected) > 0.1
        np.testing.assert_allclose(one, expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("kind", KINDS)
def test_a_unet_becomes_ours_and_starts_a_transfer(models, kind):
    base = base_file.load(models / f"unet{kind}")
    assert base.info is None
    (image,), (expected,) = (stored(models, "unet", part) for part in ("in", "out"))
    np.testing.assert_allclose(base.network(image), expected, atol=1e-5)
    config = base.network.get_config()
    assert config["normalization"] == "instance" and config["input_channels"] == 2
    manifest = helpers.make_manifest(["liver"], [], channels=["a", "b"])
    settings = RunSettings("records", mode="transfer", base="unet")
    network, origins = run_parts.make_network(settings, manifest, base, "float32")
    assert origins.pop("head") == "copied 1 of 2" and set(origins.values()) == {"copied"}
    intensity = run_parts.choose_intensity(settings, manifest, base)
    patches = run_parts.patch_settings(settings, manifest, network, base, intensity)
    assert patches.image_size == (8, 8, 8)


def test_channels_first_stay_first(models):
    """In `published.h5` axes are as long as there are filters, which Keras 3 takes for channels."""
    model = keras_import.import_keras_model(models / "published.h5")
    (image,), (expected,) = (stored(models, "published", part) for part in ("in", "out"))
    np.testing.assert_allclose(model(image), expected, atol=1e-5)
    network = unet3d_recognition.as_unet3d(model, "published.h5")
    found = np.moveaxis(network(np.moveaxis(image, 1, -1)).numpy(), -1, 1)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_what_is_no_unet_is_refused(models):
    for kind in KINDS:
        with pytest.raises(InputError, match=f"many{kind}: expected the layers of a UNet3D"):
            base_file.load(models / f"many{kind}")
    model = keras_import.import_keras_model(models / "unet.h5")
    assert unet3d_recognition.as_unet3d(model, "x").geometry.padding == "same"
    with pytest.raises(InputError, match="found probabilities that differ by"):
        unet3d_recognition.as_unet3d(tf.keras.Model(model.input, model.output**2), "x")


@pytest.fixture
def kept(tmp_path):
    return unpack(tmp_path)


def edit_config(path, edit):
    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        edit(config["config"]["layers"])
        file.attrs["model_config"] = json.dumps(config)


def test_code_is_refused(kept):
    message = "code.h5: layer lambda is a Lambda, which cannot be imported; known are Conv1D, "
    with pytest.raises(InputError, match=message):
        keras_import.import_keras_model(kept / "code.h5")
    activation = {"module": "os", "class_name": "function", "config": "system"}
    edit_config(kept / "unet.h5", lambda layers: layers[1]["config"].update(activation=activation))
    with pytest.raises(InputError, match="layer conv3d.*: cannot import its activation"):
        keras_import.import_keras_model(kept / "unet.h5")


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda layers: layers[1]["config"].update(filters=5), r"expected the shape .* found \("),
        (lambda layers: layers.pop(), "cannot read as a Keras file: "),
        (lambda layers: layers.pop(2), "the inputs of layer .* are missing"),
        (
            lambda layers: layers[1]["config"].update(strange=1),
            "cannot read as a Keras file: .*stra",
        ),
        (lambda layers: layers[1].update(class_name="a>Conv3D"), "is a a>Conv3D, which cannot be"),
        (lambda layers: layers[2]["config"].update(axis=-2), "expected axis -1 or 1 and more"),
        (lambda layers: layers[2]["config"].update(scale=False), "has no gamma"),
        (lambda layers: layers[2]["inbound_nodes"][0][0].__setitem__(3, {"mask": 1}), "with mask"),
    ],
)
def test_what_does_not_fit_is_named(kept, edit, message):
    edit_config(kept / "unet.h5", edit)
    with pytest.raises(InputError, match=f"^[^\n]*unet.h5: .*{message}") as caught:
        keras_import.import_keras_model(kept / "unet.h5")
    assert "\n" not in str(caught.value)


def test_damaged_files_are_told_in_one_line(kept):
    for name in (
        "unet.h5",
        "unet.keras",
        "unet/keras_metadata.pb",
        "unet/variables/variables.index",
    ):
        path = kept / name
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        given = kept / name.split("/")[0]
        with pytest.raises(InputError, match="cannot read as a Keras file: .") as caught:
            keras_import.import_keras_model(given)
        assert "\n" not in str(caught.value)
    (kept / "unet" / "keras_metadata.pb").unlink()
    with pytest.raises(InputError, match="which has a keras_metadata.pb, found none"):
        keras_import.import_keras_model(kept / "unet")
    with h5py.File(kept / "weights.h5", "w") as file:
        file.create_group("conv3d")
    with pytest.raises(InputError, match="expected a whole model, found weights without"):
        keras_import.import_keras_model(kept / "weights.h5")
    with zipfile.ZipFile(kept / "new.keras", "w") as archive:
        archive.writestr("metadata.json", '{"keras_version": "3.4.1"}')
    with pytest.raises(InputError, match="expected a model of Keras 2, found one of Keras 3.4.1"):
        keras_import.import_keras_model(kept / "new.keras")


def test_a_file_that_is_not_there_is_told_as_such(tmp_path):
    for read in (keras_import.import_keras_model, base_file.load, published.load):
        with pytest.raises(InputError, match="none.h5: no such file or folder$"):
            read(tmp_path / "none.h5")


def test_weights_are_copied_not_drawn(kept):
    names = named_weights(base_file.load(kept / "unet.keras").network)
    with h5py.File(kept / "unet.h5") as file:
        kernel = file["model_weights/instance_normalization/instance_normalization/gamma:0"][()]
    np.testing.assert_array_equal(names["encoder_0_norm_0/gamma"], kernel)
