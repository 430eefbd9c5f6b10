"""Models as a single file for other runtimes: `<folder>/<version>/model.<format>`."""

import importlib
import json
import os
from pathlib import Path

import numpy as np

from tl3d_keras import artifact, model_info
from tl3d_keras.artifact import Artifact
from tl3d_keras.errors import InputError
from tl3d_keras.whole_folder import whole_folder

# Each module has `convert` and `run`; imported when asked for, as not all are installed.
_MODULES = {"onnx": "tl3d_keras.onnx_model", "tflite": "tl3d_keras.tflite_model"}
FORMATS = tuple(_MODULES)
_TOLERANCE = 1e-4


def write(model: Artifact, folder: str | os.PathLike, name: str) -> tuple[Path, float]:
    """Converts a model, runs it against the Keras network, and writes it when that agrees.

    Args:
        model: the model.
        folder: gets a new version, with `model.<name>`, `tl3d_keras.json` and `MODEL_CARD.md`.
        name: one of FORMATS.

    Returns:
        The version's folder, and the largest difference of a probability.

    Raises:
        InputError: the format's packages are not installed or cannot convert the network, the
            folder cannot be written, or a probability differs by more than 1e-4.
    """
    module = importlib.import_module(_MODULES[name])
    content = module.convert(model)
    size = model.network.geometry.input_size(1)
    shape = (1, size, size + model.network.geometry.stride, size, len(model.info.channels))
    image = np.random.default_rng(0).normal(scale=200, size=shape).astype(np.float32)
    expected = model.network(model.info.intensity.normalise(image), training=False)
    largest = float(np.abs(module.run(content, image) - expected.numpy()).max())
    if not largest <= _TOLERANCE:
        raise InputError(f"the {name} model differs from the network by {largest:.1e}")
    target = artifact.next_version(folder)
    described = model_info.to_json(model.info, model.network.get_config())
    with whole_folder(target) as building:
        (building / f"model.{name}").write_bytes(content)
        (building / "tl3d_keras.json").write_text(json.dumps(described, indent=1) + "\n", "utf-8")
        card = model_info.card(Path(folder).resolve().name, described)
        (building / "MODEL_CARD.md").write_text(card, "utf-8")
    return target, largest
