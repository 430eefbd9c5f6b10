"""The SavedModel folder that TF Serving loads and `transfer` retrains: save, load, inspect.

`<name>/<version>/` holds a SavedModel whose variables lie under `<layer name>/<weight name>`, and
`assets.extra/tl3d_keras.json`, from which the Keras model is rebuilt and filled by name. Loading
reads the checkpoint as data and runs no code from the folder.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import tensorflow as tf

from tl3d_keras import __version__, json_file, shipped
from tl3d_keras.errors import InputError
from tl3d_keras.intensity import Intensity
from tl3d_keras.unet3d import UNet3D, named_weights
from tl3d_keras.whole_folder import whole_folder

SCHEMA_VERSION = 1
EXTRA = "assets.extra"
CONFIG_FILE = f"{EXTRA}/tl3d_keras.json"
CARD_FILE = f"{EXTRA}/MODEL_CARD.md"
_SERVED_TOLERANCE = 1e-4
_VARIABLES = "variables_by_name"
_CHECKPOINT_KEY = _VARIABLES + "/{}/.ATTRIBUTES/VARIABLE_VALUE"


@dataclass(frozen=True)
class ModelInfo:
    """What a model needs besides weights, as `assets.extra/tl3d_keras.json` keeps it.

    Attributes:
        structures: names of output channels 1..K; channel 0 is background.
        channels: names of the input channels.
        spacing: (z, y, x) in mm of the volumes it was trained on.
        intensity: the normalisation of raw intensities.
        patch_size: (Z, Y, X) of the training patches.
        provenance: data, steps, seed, versions, command.
        metrics: what was measured on it.
    """

    structures: tuple[str, ...]
    channels: tuple[str, ...]
    spacing: tuple[float, float, float]
    intensity: Intensity
    patch_size: tuple[int, int, int]
    provenance: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)


class Artifact(NamedTuple):
    """A loaded model: the Keras network and its `ModelInfo`."""

    network: UNet3D
    info: ModelInfo


def save(network: UNet3D, info: ModelInfo, folder: str | os.PathLike) -> Path:
    """Writes `folder/<version>/`, the version one above the highest there; it appears when whole.

    Args:
        network: any precision; saved with float32 weights and a float32 graph.
        info: of the network.
        folder: the model's folder.

    Returns:
        The version's folder.

    Raises:
        InputError: the structures, channels and network do not fit together, or the folder cannot
            be written.
    """
    config = network.get_config()
    for what, names, expected in (
        ("structures", info.structures, config["num_classes"] - 1),
        ("channels", info.channels, config["input_channels"]),
    ):
        if len(names) != expected:
            raise InputError(f"expected {expected} {what} for this network, found {len(names)}")
    served = network.rebuilt(dtype="float32", structures=list(info.structures))
    target = Path(folder) / str(1 + max(_versions(Path(folder)), default=0))
    with whole_folder(target) as building:
        module = _ServedModel(served, info.intensity)
        signatures = {"serving_default": module.probabilities}
        tf.saved_model.save(module, str(building), signatures=signatures)
        (building / EXTRA).mkdir()
        content = _to_json(served, info)
        (building / CONFIG_FILE).write_text(json.dumps(content, indent=1) + "\n")
        (building / CARD_FILE).write_text(_card(Path(folder).name, content))
    return target


def load(path: str | os.PathLike, dtype: Any = None) -> Artifact:
    """Rebuilds the Keras model of an artifact.

    Args:
        path: a version's folder, or a model's, of which the highest version is taken; or the name
            of a base model that ships.
        dtype: a Keras dtype or mixed-precision policy; the weights stay float32.

    Raises:
        InputError: not an artifact, damaged, or its weights and configuration do not fit together.
    """
    folder = latest(path)
    content = _read_json(folder)
    info = _info(content, folder)
    network = UNet3D(**{**content["network"], "dtype": dtype})
    checkpoint = folder / "variables" / "variables"
    try:
        reader = tf.train.load_checkpoint(str(checkpoint))
        _fill(network, reader, folder)
    except (tf.errors.OpError, ValueError, IndexError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{checkpoint}: cannot read the variables: damaged or incomplete"
        ) from error
    return Artifact(network, info)


def inspect(path: str | os.PathLike) -> dict[str, Any]:
    """The content of `assets.extra/tl3d_keras.json`, without building the network."""
    return _read_json(latest(path))


def check_served(path: str | os.PathLike) -> float:
    """Runs an artifact's signature as a server does, on random input, against the Keras network.

    Returns:
        The largest absolute difference of a probability.

    Raises:
        InputError: the folder does not load, or the difference exceeds 1e-4.
    """
    folder = latest(path)
    network, info = load(folder)
    size = network.geometry.input_size(1)
    shape = (1, size, size, size, len(info.channels))
    image = 200 * tf.random.stateless_normal(shape, (0, 0))
    served = tf.saved_model.load(str(folder)).signatures["serving_default"]
    expected = network(info.intensity.normalise(image), training=False)
    largest = float(tf.reduce_max(tf.abs(served(image=image)["probabilities"] - expected)))
    if not largest <= _SERVED_TOLERANCE:
        raise InputError(f"{folder}: the served graph differs from the network by {largest:.1e}")
    return largest


def latest(path: str | os.PathLike) -> Path:
    """The folder of a model's highest version; a version's folder stays as it is."""
    path = shipped.resolve(path)
    if (path / CONFIG_FILE).is_file():
        return path
    versions = _versions(path)
    if not versions:
        what = (
            "a SavedModel that tl3d-keras did not write"
            if (path / "saved_model.pb").is_file()
            else "no version of a model"
        )
        if not path.exists():
            what += f"; the base models that ship are {', '.join(shipped.names()) or 'none'}"
        raise InputError(f"{path}: expected a model folder with {CONFIG_FILE}, found {what}")
    return path / str(max(versions))


class _ServedModel(tf.Module):
    def __init__(self, network: UNet3D, intensity: Intensity) -> None:
        super().__init__()
        self.variables_by_name = named_weights(network)
        channels = network.get_config()["input_channels"]

        def probabilities(image: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"probabilities": network(intensity.normalise(image), training=False)}

        self.probabilities = tf.function(
            probabilities,
            input_signature=[tf.TensorSpec([None, None, None, None, channels], name="image")],
            autograph=False,
        )


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


def _versions(folder: Path) -> list[int]:
    if not folder.is_dir():
        return []
    return [int(entry.name) for entry in folder.iterdir() if entry.name.isdigit()]


def _read_json(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG_FILE
    content = json_file.read_object(path, "a model folder that tl3d-keras has written")
    version = content.get("schema_version")
    if version != SCHEMA_VERSION:
        raise InputError(f"{path}: expected schema_version {SCHEMA_VERSION}, found {version}")
    return content


def _to_json(network: UNet3D, info: ModelInfo) -> dict[str, Any]:
    config = network.get_config()
    del config["dtype"]
    content = {
        "schema_version": SCHEMA_VERSION,
        "tool_version": __version__,
        "network": config,
        **asdict(info),
    }
    content["intensity"] = info.intensity.to_json()
    content["structures"] = ["background", *info.structures]
    return content


def _info(content: Mapping[str, Any], folder: Path) -> ModelInfo:
    try:
        return ModelInfo(
            structures=tuple(content["structures"][1:]),
            channels=tuple(content["channels"]),
            spacing=tuple(content["spacing"]),
            intensity=Intensity.from_json(content["intensity"]),
            patch_size=tuple(content["patch_size"]),
            provenance=content["provenance"],
            metrics=content["metrics"],
        )
    except (KeyError, TypeError) as error:
        raise InputError(f"{folder / CONFIG_FILE}: incomplete: {error}") from error


def _card(name: str, content: Mapping[str, Any]) -> str:
    network, intensity = content["network"], content["intensity"]
    window = (
        f"clipped to {intensity['low']} .. {intensity['high']} and scaled to -1 .. 1"
        if intensity["mode"] == "window"
        else "z-score of each volume"
    )
    lines = [
        f"# {name}",
        "",
        f"A 3D U-Net of tl3d-keras {content['tool_version']} for research; not for clinical use.",
        "",
        f"- Structures: {', '.join(content['structures'][1:])}",
        f"- Input: {', '.join(content['channels'])} at {content['spacing']} mm (z, y, x), {window}",
        f"- Network: {network['filters']} filters, {network['levels']} levels, "
        f"{network['padding']} padding, normalization {network['normalization']}",
        f"- Trained on patches of {content['patch_size']} voxels",
        "",
    ]
    for title, values in (("Provenance", content["provenance"]), ("Metrics", content["metrics"])):
        lines += [f"## {title}", "", *(f"- {key}: {value}" for key, value in values.items()), ""]
    return "\n".join(lines)
