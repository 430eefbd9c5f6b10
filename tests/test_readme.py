"""The README's Python lines run as they stand."""

import re
from pathlib import Path

import helpers
import tensorflow as tf

from tl3d_keras import artifact

README = Path(__file__).resolve().parents[1] / "README.md"


def test_python_lines(tmp_path, monkeypatch):
    lines = re.search(r"## In Python\n\n```python\n(.*?)```", README.read_text(), re.DOTALL)[1]
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
