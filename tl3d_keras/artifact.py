"""The SavedModel folder that TF Serving loads and `transfer` retrains: save, load, inspect.

`<name>/<version>/` holds a SavedModel whose variables lie under `<layer name>/<weight name>`, and
`assets.extra/tl3d_keras.json`, from which the Keras model is rebuilt and filled by name. Loading
reads the checkpoint as data and runs no code from the folder.
"""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import tensorflow as tf

from tl3d_keras import argument_checks, json_file, memory, model_info, shipped
from tl3d_keras.errors import InputError
from tl3d_keras.model_info import ModelInfo
from tl3d_keras.serving_graph import ServedModel
from tl3d_keras.unet3d import UNet3D, named_weights
from tl3d_keras.whole_folder import whole_folder

EXTRA = "assets.extra"
CONFIG_FILE = f"{EXTRA}/tl3d_keras.json"
CARD_FILE = f"{EXTRA}/MODEL_CARD.md"
_VARIABLES = "variables_by_name"
_CHECKPOINT_KEY = _VARIABLES + "/{}/.ATTRIBUTES/VARIABLE_VALUE"


class Artifact(NamedTuple):
    """A loaded model: the Keras network and its `ModelInfo`."""

    network: UNet3D
    info: ModelInfo


def save(
    network: UNet3D,
    info: ModelInfo,
    folder: str | os.PathLike,
    tile: int | None = None,
    extend: Callable[[Path], None] = lambda version: None,
) -> Path:
    """Writes `folder/<version>/`, the version one above the highest there; it appears when whole.

    Args:
        network: any precision; saved with float32 weights and a float32 graph.
        info: of the network.
        folder: the model's folder.
        tile: most voxels along an axis that the `segment` signature gives the network at once; None
            takes what should need no more than 8 GiB.
        extend: adds files to the version's folder before it appears.

    Returns:
        The version's folder.

    Raises:
        InputError: an argument of another kind, the structures, channels and network do not fit
            together, or the folder cannot be written.
    """
    argument_checks.check_kind(network, UNet3D, "a network of base_model or load")
    argument_checks.check_kind(info, ModelInfo, "a ModelInfo")
    model_info.check(info, network.get_config())
    served = network.rebuilt(dtype="float32", structures=list(info.structures))
    target = next_version(folder)
    with whole_folder(target) as building:
        module = ServedModel(served, info.intensity, info.spacing, info.patch_size, tile)
        tf.saved_model.save(module, str(building), signatures=module.signatures)
        (building / EXTRA).mkdir()
        content = model_info.to_json(info, served.get_config())
        (building / CONFIG_FILE).write_text(json.dumps(content, indent=1) + "\n", "utf-8")
        card = model_info.card(Path(folder).resolve().name, content)
        (building / CARD_FILE).write_text(card, "utf-8")
        extend(building)
    return target


def load(path: str | os.PathLike, dtype: Any = None) -> Artifact:
    """Rebuilds the Keras model of an artifact.

    Args:
        path: a version's folder, or a model's, of which the highest version is taken; or the name
            of a base model that ships.
        dtype: a Keras dtype or mixed-precision policy; the weights stay float32.

    Raises:
        InputError: not an artifact, damaged, too large for the memory, or its weights and
            configuration do not fit together.
    """
    folder = latest(path)
    info, config = _read(folder)
    checkpoint = folder / "variables" / "variables"
    try:
        reader = tf.train.load_checkpoint(str(checkpoint))
        _check_width(config, reader, folder)
        network = UNet3D(**{**config, "dtype": dtype})
        _fill(network, reader, folder)
    except InputError:
        raise
    except (tf.errors.OpError, ValueError, IndexError, MemoryError) as error:
        if memory.ran_out(error):
            raise InputError(
                f"{folder}: expected memory for the network's weights ({config['filters']} "
                f"filters, {config['levels']} levels), found too little"
            ) from error
        raise InputError(
            f"{checkpoint}: cannot read the variables: damaged or incomplete"
        ) from error
    return Artifact(network, info)


def inspect(path: str | os.PathLike) -> dict[str, Any]:
    """The content of `assets.extra/tl3d_keras.json`, without building the network."""
    folder = latest(path)
    _read(folder)
    return _read_json(folder)


def latest(path: str | os.PathLike) -> Path:
    """The folder of a model's highest version; a version's folder stays as it is."""
    path = shipped.resolve(path)
    if (path / CONFIG_FILE).is_file():
        return path
    found = versions(path)
    newest = path / str(found[-1]) if found else path
    if (newest / CONFIG_FILE).is_file():
        return newest
    if (newest / "saved_model.pb").is_file():
        what = "a SavedModel that tl3d-keras did not write"
    elif not path.exists():
        what = "no such folder, nor one of the models that ship: "
        what += ", ".join(shipped.names()) or "none"
    elif path.is_file():
        what = "a file"
    else:
        what = f"a version without {CONFIG_FILE}" if found else "no version of a model"
        if versions(path / "model"):
            what = f"the folder of a run, whose model is {path / 'model'}"
    raise InputError(f"{newest}: expected a model folder with {CONFIG_FILE}, found {what}")


def next_version(folder: str | os.PathLike) -> Path:
    """The folder of the version one above a model's highest."""
    return Path(folder) / str(1 + max(versions(Path(folder)), default=0))


def _fill(network: UNet3D, reader: Any, folder: Path) -> None:
    shapes = reader.get_variable_to_shape_map()
    stored = {key for key in shapes if key.startswith(_VARIABLES + "/")}
    expected = {_key(name): (name, variable) for name, variable in named_weights(network).items()}
    missing = sorted(expected[key][0] for key in expected.keys() - stored)
    if missing:
        raise InputError(f"{folder}: the weights {', '.join(missing[:5])} are missing")
    extra = sorted(stored - expected.keys())
    if extra:
        raise InputError(f"{folder}: the weights {', '.join(extra[:5])} are not of this network")
    for key, (name, variable) in expected.items():
        if list(variable.shape) != list(shapes[key]):
            raise InputError(
                f"{folder}: expected the shape {tuple(variable.shape)} for {name}, "
                f"found {tuple(shapes[key])}"
            )
        variable.assign(reader.get_tensor(key))


def _key(name: str) -> str:
    # TensorFlow's checkpoints escape the separator of their own paths.
    return _CHECKPOINT_KEY.format(name.replace(".", "..").replace("/", ".S"))


def versions(folder: Path) -> list[int]:
    """The versions in a model's folder, lowest first: names that are numbers without zeros before.

    Raises:
        OSError: the folder cannot be read.
    """
    if not folder.is_dir():
        return []
    names = [entry.name for entry in folder.iterdir() if entry.name.isdecimal()]
    return sorted(int(name) for name in names if name == str(int(name)))


def _read_json(folder: Path) -> dict[str, Any]:
    return json_file.read_object(folder / CONFIG_FILE, "a model folder that tl3d-keras has written")


def _read(folder: Path) -> tuple[ModelInfo, dict[str, Any]]:
    try:
        return model_info.from_json(_read_json(folder))
    except InputError as error:
        place = str(folder / CONFIG_FILE)
        message = str(error)
        raise InputError(
            message if place in message else f"{place}: {message}"
        ) from error.__cause__


def _check_width(config: Mapping[str, Any], reader: Any, folder: Path) -> None:
    """Refuses a network far wider than the stored weights before it takes the memory."""
    shapes = reader.get_variable_to_shape_map().values()
    widest = max((size for shape in shapes for size in shape), default=0)
    width = config["filters"] * 2 ** config["levels"]
    if width > 4 * max(widest, 1):
        raise InputError(
            f"{folder}: expected a network for weights of {widest} features at most, found one of "
            f"{config['filters']} filters and {config['levels']} levels"
        )
