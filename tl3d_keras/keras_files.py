"""Models that Keras 2 has saved, read as data: `.keras`, `.h5` and SavedModel."""

import io
import json
import os
import re
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from tl3d_keras.errors import InputError

METADATA_FILE = "keras_metadata.pb"
SUFFIXES = (".keras", ".h5", ".hdf5")


class StoredModel(NamedTuple):
    """What a file says of a model.

    Attributes:
        config: the model's `class_name` and `config`.
        weights: by layer name, the layer's arrays by their names; by their place, from "0", where
            the file has no names.
    """

    config: Mapping[str, Any]
    weights: Mapping[str, Mapping[str, np.ndarray]]


def read(path: str | os.PathLike) -> StoredModel:
    """Reads a whole model that Keras 2 has saved; nothing in it is executed.

    Raises:
        InputError: not such a model, weights without a model, or damaged.
    """
    path = Path(path)
    with reading(path):
        if path.is_dir():
            return _read_saved_model(path)
        return _read_zip(path) if path.suffix == ".keras" else _read_h5(path)


@contextmanager
def reading(path: str | os.PathLike) -> Iterator[None]:
    """Tells what goes wrong in the block as an `InputError` that names the file."""
    if not Path(path).exists():
        raise InputError(f"{path}: no such file or folder")
    try:
        yield
    except InputError:
        raise
    except (
        OSError,
        LookupError,
        TypeError,
        ValueError,
        AttributeError,
        RecursionError,
        NotImplementedError,
        zipfile.BadZipFile,
        tf.errors.OpError,
    ) as error:
        reason = re.sub(r"\s+", " ", str(error)) or type(error).__name__
        raise InputError(f"{path}: cannot read as a Keras file: {reason}") from error


def arrays_of(group: Any) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """The arrays of each layer of an HDF5 group of weights by name, in the order of the layers."""
    for layer in map(_text, group.attrs["layer_names"]):
        stored = map(_text, group[layer].attrs["weight_names"])
        yield layer, {_short(name): np.asarray(group[layer][name]) for name in stored}


def _read_h5(path: Path) -> StoredModel:
    import h5py

    with h5py.File(path, "r") as file:
        if "model_config" not in file.attrs:
            raise InputError(
                f"{path}: expected a whole model, found weights without its layers; save it with "
                "model.save()"
            )
        config = json.loads(file.attrs["model_config"])
        return StoredModel(config, dict(arrays_of(file["model_weights"])))


def _read_zip(path: Path) -> StoredModel:
    import h5py

    with zipfile.ZipFile(path) as archive:
        version = str(json.loads(archive.read("metadata.json"))["keras_version"])
        if not version.startswith("2."):
            raise InputError(
                f"{path}: expected a model of Keras 2, found one of Keras {version}; "
                "tf.keras.models.load_model reads it"
            )
        config = json.loads(archive.read("config.json"))
        content = archive.read("model.weights.h5")
    weights, seen = {}, Counter()  # type: ignore[var-annotated]
    with h5py.File(io.BytesIO(content), "r") as file:
        for layer in config["config"]["layers"]:
            # Groups are named after the class and numbered in the order of the layers.
            kind = _snake_case(layer["class_name"])
            group = f"layers/{kind}_{seen[kind]}" if seen[kind] else f"layers/{kind}"
            seen[kind] += 1
            stored = file[f"{group}/vars"] if f"{group}/vars" in file else {}
            weights[layer["config"]["name"]] = {
                name: np.asarray(array) for name, array in stored.items()
            }
    return StoredModel(config, weights)


def _read_saved_model(path: Path) -> StoredModel:
    metadata = path / METADATA_FILE
    if not metadata.is_file():
        raise InputError(
            f"{path}: expected a SavedModel of Keras 2, which has a {METADATA_FILE}, found none"
        )
    nodes = _saved_metadata()
    try:
        nodes.ParseFromString(metadata.read_bytes())
    except DecodeError as error:
        raise ValueError(f"{METADATA_FILE} is damaged") from error
    described = {node.node_path: _plain(json.loads(node.metadata)) for node in nodes.nodes}
    names = {
        path.removeprefix("root."): about["name"]
        for path, about in described.items()
        if path.startswith("root.layer_with_weights-")
    }
    reader = tf.train.load_checkpoint(str(path / "variables" / "variables"))
    weights: dict[str, dict[str, np.ndarray]] = {}
    for key in reader.get_variable_to_shape_map():
        layer, _, rest = key.partition("/")
        if layer in names:
            name = rest.removesuffix("/.ATTRIBUTES/VARIABLE_VALUE")
            weights.setdefault(names[layer], {})[name] = reader.get_tensor(key)
    return StoredModel(described["root"]["model_config"], weights)


def _saved_metadata() -> Any:
    """An empty message of `keras_metadata.pb`, whose definition Keras 3 does not bring."""
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="tl3d_keras_metadata.proto", package="tl3d_keras"
    )
    node = file.message_type.add(name="SavedObject")
    for name, number in (("node_path", 3), ("metadata", 5)):
        node.field.add(name=name, number=number, label=field.LABEL_OPTIONAL, type=field.TYPE_STRING)
    file.message_type.add(name="SavedMetadata").field.add(
        name="nodes",
        number=1,
        label=field.LABEL_REPEATED,
        type=field.TYPE_MESSAGE,
        type_name=".tl3d_keras.SavedObject",
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    found = pool.FindMessageTypeByName("tl3d_keras.SavedMetadata")
    return message_factory.GetMessageClass(found)()


def _plain(value: Any) -> Any:
    """Keras's JSON objects for tuples and shapes, as lists."""
    if isinstance(value, dict):
        if value.get("class_name") in ("__tuple__", "TensorShape"):
            return _plain(value["items"])
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def _snake_case(name: str) -> str:
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", name))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def _short(name: str) -> str:
    return name.rsplit("/", 1)[-1].split(":")[0]


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
