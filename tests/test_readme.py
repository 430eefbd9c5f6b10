"""The Python lines of the README and of docs/keras.md run as they stand."""

import re
from pathlib import Path

import helpers
import numpy as np
import pytest
import tensorflow as tf
from test_keras_import import unpack

from tl3d_keras import artifact, volume_io
from tl3d_keras.unet3d import named_weights
from tl3d_keras.volumes import Volume

ROOT = Path(__file__).resolve().parents[1]


def python_lines(text: str) -> str:
    return "\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL))


def test_python_lines(tmp_path, monkeypatch):
    readme = (ROOT / "README.md").read_text()
    lines = python_lines(re.search(r"## In Python\n(.*?)\n## ", readme, re.DOTALL)[1])
    artifact.save(helpers.network(), helpers.info(), tmp_path / "my_run" / "model")
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(lines, names)
    assert names["features"][-1].shape[1] == 8
    loaded = artifact.load(tmp_path / "new_model")
    assert loaded.info.structures == ("left_kidney", "right_kidney")
    helpers.assert_equal_weights(loaded.network, names["network"])
    image = tf.random.stateless_normal((2, 8, 8, 8, 1), (0, 1))
    labels = tf.cast(image[..., 0] > 1, tf.uint8)
    assert names["network"].fit(image, labels, verbose=0).history["loss"][0] > 0


# Keras 3 says so of every tf.data.Dataset.
@pytest.mark.filterwarnings("ignore:`shuffle=True` was passed:UserWarning")
def test_keras_page(tmp_path, monkeypatch, capsys):
    base = helpers.network(padding="valid", structures=("liver", "spleen"))
    artifact.save(base, helpers.info(), tmp_path / "run" / "model")
    unpack(tmp_path)
    (tmp_path / "unet.keras").rename(tmp_path / "old.keras")
    scan = Volume(np.zeros((9, 12, 11, 1), np.float32), (2.0, 1.0, 1.0))
    volume_io.write(tmp_path / "scan.nii.gz", scan)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(python_lines((ROOT / "docs" / "keras.md").read_text()), names)
    said = capsys.readouterr().out
    assert said.startswith("copied 2 of 3\n")
    assert "'encoder_0_conv_0': '1 -> 2 channels by zero'" in said
    loaded = artifact.load("mine").network
    moved = named_weights(loaded)
    assert not np.array_equal(moved["encoder_0_conv_0/kernel"], base.weights[0])
    assert volume_io.read("labels.nii.gz").array.shape == (9, 12, 11, 1)
    assert names["finest"].shape[1] == 8 and names["logits"].shape[-1] == 3
    image = np.zeros((1, *names["both"].input_shape[1:]), np.float32)
    targets = {"labels": np.zeros((1, 8, 8, 8), np.uint8), "malignant": np.ones((1, 1))}
    assert names["both"].fit(image, targets, verbose=0).history["loss"][0] > 0
