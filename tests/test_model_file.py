"""ONNX and TFLite files give what Keras gives, or do not appear."""

import json
import sys

import helpers
import numpy as np
import pytest
import tensorflow as tf

from experiments import export
from tl3d_keras import artifact, model_file, tflite_model
from tl3d_keras.artifact import Artifact
from tl3d_keras.errors import InputError
from tl3d_keras.intensity import Intensity

ZSCORE = Intensity("zscore")
NETWORKS = {
    "same": ({}, helpers.WINDOW),
    "valid": ({"padding": "valid"}, ZSCORE),
    "three levels": ({"padding": "valid", "levels": 3, "filters": 1}, helpers.WINDOW),
    "one level": ({"levels": 1}, helpers.WINDOW),
    "group": ({"normalization": "group"}, ZSCORE),
    "group, valid": ({"normalization": "group", "padding": "valid", "filters": 8}, helpers.WINDOW),
    "instance": ({"normalization": "instance"}, helpers.WINDOW),
    "instance, valid": ({"normalization": "instance", "padding": "valid"}, ZSCORE),
    "two channels": ({"input_channels": 2}, Intensity("window", (-100.0, -300.0), (300.0, 100.0))),
}


def made(arguments, intensity=helpers.WINDOW):
    channels = ("CT", "PET")[: arguments.get("input_channels", 1)]
    return Artifact(
        helpers.network(**arguments), helpers.info(channels=channels, intensity=intensity)
    )


@pytest.mark.parametrize("name", list(NETWORKS))
def test_onnx_gives_the_probabilities_of_keras(name):
    onnx_model = pytest.importorskip("tl3d_keras.onnx_model", exc_type=InputError)
    model = made(*NETWORKS[name])
    geometry = model.network.geometry
    sizes = [geometry.input_size(n) for n in (9, 12, 7)]
    rng = np.random.default_rng(2)
    image = rng.normal(50, 200, (2, *sizes, len(model.info.channels))).astype("f")
    # A constant channel is 0 for a z-score.
    image[1, ..., 0] = 7
    expected = model.network(model.info.intensity.normalise(image), training=False)
    found = onnx_model.run(onnx_model.convert(model), image)
    assert np.ptp(expected[0]) > 0.1
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("name", ["same", "three levels", "group, valid", "instance, valid"])
def test_tflite_gives_the_probabilities_of_keras(name):
    model = made(*NETWORKS[name])
    size = model.network.geometry.input_size(7)
    image = np.random.default_rng(2).normal(50, 200, (2, size, size, size, 1)).astype("f")
    expected = model.network(model.info.intensity.normalise(image), training=False)
    try:
        content = tflite_model.convert(model)
    except InputError:
        if tf.__version__ < "2.16" and "group" in name:
            pytest.skip("the converter of TensorFlow 2.15 knows no group normalisation")
        raise
    # No runtime but TensorFlow's own has its ops.
    assert b"Flex" not in content
    np.testing.assert_allclose(tflite_model.run(content, image), expected, atol=1e-4)


def test_onnx_says_what_it_is():
    onnx_model = pytest.importorskip("tl3d_keras.onnx_model", exc_type=InputError)
    proto = onnx_model.onnx.load_from_string(onnx_model.convert(made({})))
    metadata = {prop.key: json.loads(prop.value) for prop in proto.metadata_props}
    assert metadata["structures"] == ["background", "liver", "spleen"]
    assert metadata["spacing"] == [2.0, 1.0, 1.0]
    assert metadata["tl3d_keras.json"]["intensity"]["low"] == [-100.0]
    (image,), (result,) = proto.graph.input, proto.graph.output
    assert (image.name, result.name) == ("image", "probabilities")
    channels = [t.type.tensor_type.shape.dim[-1].dim_value for t in (image, result)]
    assert channels == [1, 3]


@pytest.mark.parametrize("name", model_file.FORMATS)
def test_export_writes_a_checked_file(tmp_path, command, capsys, name):
    if name == "onnx":
        pytest.importorskip("tl3d_keras.onnx_model", exc_type=InputError)
    model = made({"padding": "valid"})
    folder = artifact.save(*model, tmp_path / "model")
    for version in ("1", "2"):
        command(export, model=folder, output_dir=tmp_path / "other", format=name)
        written = sorted(p.name for p in (tmp_path / "other" / version).iterdir())
        assert written == sorted(["MODEL_CARD.md", f"model.{name}", "tl3d_keras.json"])
    line = capsys.readouterr().out.splitlines()[-1]
    assert f"{tmp_path / 'other' / '2'}: 0.0 MiB, " in line
    assert "largest difference of a probability" in line


def test_a_file_that_gives_something_else_does_not_appear(tmp_path, monkeypatch):
    onnx_model = pytest.importorskip("tl3d_keras.onnx_model", exc_type=InputError)
    run = onnx_model.run
    monkeypatch.setattr(onnx_model, "run", lambda *given: run(*given) + np.float32(1e-3))
    with pytest.raises(InputError, match="the onnx model differs from the network by 1.0e-03"):
        model_file.write(made({}), tmp_path / "other", "onnx")
    assert not (tmp_path / "other").exists()


def test_what_is_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.delitem(sys.modules, "tl3d_keras.onnx_model", raising=False)
    with pytest.raises(InputError, match=r"expected the extra onnx, .*tl3d-keras\[onnx\]"):
        model_file.write(made({}), tmp_path / "other", "onnx")


def test_a_saved_model_that_fails_its_check_does_not_appear(tmp_path, command, monkeypatch):
    from tl3d_keras import served_check

    folder = artifact.save(*made({}), tmp_path / "model")

    def fail(path):
        raise InputError(f"{path}: the served graph differs")

    monkeypatch.setattr(served_check, "check", fail)
    with pytest.raises(InputError, match="differs"):
        command(export, model=folder, output_dir=tmp_path / "liver")
    assert list((tmp_path / "liver").iterdir()) == []
