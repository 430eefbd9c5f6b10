"""Models of Keras 2, those with tensorflow-addons' normalisation included, on whichever Keras."""

import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import tensorflow as tf

from tl3d_keras import keras_files
from tl3d_keras.errors import InputError
from tl3d_keras.keras_files import StoredModel

# Layers of which both Kerases compute the same. None runs code that a file could bring.
_LAYERS = (
    *(
        f"{kind}{n}D"
        for kind in ("Conv", "UpSampling", "Cropping", "ZeroPadding")
        for n in (1, 2, 3)
    ),
    *(f"{kind}Pooling{n}D" for kind in ("Max", "Average") for n in (1, 2, 3)),
    *(f"Global{kind}Pooling{n}D" for kind in ("Max", "Average") for n in (1, 2, 3)),
    *(f"Conv{n}DTranspose" for n in (1, 2, 3)),
    *("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum", "Concatenate"),
    *("Activation", "ReLU", "LeakyReLU", "PReLU", "ELU", "Softmax"),
    *("BatchNormalization", "LayerNormalization", "GroupNormalization"),
    *("Dropout", "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D", "GaussianNoise"),
    *("Dense", "Flatten", "Reshape", "Permute", "Rescaling"),
)
_SPATIAL = ("Conv", "UpSampling", "Cropping", "ZeroPadding", "MaxPooling", "AveragePooling")
_ADDONS = ("Addons>GroupNormalization", "Addons>InstanceNormalization")
# What starts or regularises training, and what only Keras 2 asks for.
_LEFT_OUT = ("_initializer", "_regularizer", "_constraint", "batch_input_shape", "noise_shape")


def import_keras_model(path: str | os.PathLike) -> tf.keras.Model:
    """Rebuilds a functional or sequential model that Keras 2 has saved.

    The file is read as data: layers are made from their configuration and filled by name. Layers
    of tensorflow-addons become those of Keras's core. Initializers, regularizers, constraints,
    optimizer and loss are not taken over.

    Args:
        path: a `.keras` or `.h5` file or a SavedModel folder.

    Returns:
        An uncompiled model with the same outputs.

    Raises:
        InputError: the file cannot be read, holds layers that are not known, such as a Lambda, or
            weights that do not fit; the message names them.
    """
    stored = keras_files.read(path)
    with keras_files.reading(path):
        model = _build(stored.config, path)
        _fill(model, stored, path)
    return model


def _build(config: Mapping[str, Any], path: str | os.PathLike) -> tf.keras.Model:
    kind, inner = config["class_name"], config["config"]
    if kind not in ("Functional", "Model", "Sequential"):
        raise InputError(f"{path}: expected a functional or sequential model, found {kind}")
    layers = {entry["config"]["name"]: _make_layer(entry, path) for entry in inner["layers"]}
    if kind == "Sequential":
        if not isinstance(next(iter(layers.values())), list):
            first = inner["layers"][0]["config"]
            shape = first.get("batch_input_shape") or inner["build_input_shape"]
            layers = {"": _make_input({"batch_input_shape": shape}), **layers}
        (inputs,), *rest = layers.values()
        outputs = inputs
        for layer in rest:
            outputs = layer(outputs)
        return tf.keras.Model(inputs, outputs, name=inner["name"])
    tensors = _connect(inner["layers"], layers, path)
    ends = ([tensors[_key(end)] for end in inner[f"{end}_layers"]] for end in ("input", "output"))
    inputs, outputs = (end[0] if len(end) == 1 else end for end in ends)
    return tf.keras.Model(inputs, outputs, name=inner["name"])


def _connect(
    entries: Sequence[Mapping[str, Any]], layers: Mapping[str, Any], path: str | os.PathLike
) -> dict[tuple[str, int], Any]:
    """Calls each layer on its inputs; the tensors by layer name and how many calls came before."""
    tensors: dict[tuple[str, int], Any] = {}
    waiting = []
    for entry in entries:
        name = entry["config"]["name"]
        if isinstance(layers[name], list):
            tensors[name, 0] = layers[name][0]
        waiting += [((name, i), node) for i, node in enumerate(entry["inbound_nodes"])]
    while waiting:
        ready = [w for w in waiting if all(_key(source) in tensors for source in w[1])]
        if not ready:
            raise InputError(f"{path}: the inputs of layer {waiting[0][0][0]} are missing")
        for (name, call), node in ready:
            arguments = {k: v for source in node for k, v in source[3].items() if v is not None}
            if arguments.keys() - {"training"}:
                raise InputError(f"{path}: layer {name} is called with {', '.join(arguments)}")
            inputs = [tensors[_key(source)] for source in node]
            layer = layers[name]
            tensors[name, call] = layer(inputs[0] if len(inputs) == 1 else inputs, **arguments)
        waiting = [w for w in waiting if w[0] not in tensors]
    return tensors


def _key(source: Sequence[Any]) -> tuple[str, int]:
    return source[0], source[1]


def _make_layer(entry: Mapping[str, Any], path: str | os.PathLike) -> Any:
    """A layer, or for an input a list with its tensor."""
    config = dict(entry["config"])
    kind = entry.get("registered_name") or entry["class_name"]
    if kind == "InputLayer":
        return [_make_input(config)]
    if kind not in (*_LAYERS, *_ADDONS):
        raise InputError(
            f"{path}: layer {config['name']} is a {kind}, which cannot be imported; known are "
            f"{', '.join((*_LAYERS, *_ADDONS))}"
        )
    if kind == "Addons>InstanceNormalization":
        config["groups"] = -1
    if kind in _ADDONS and config["axis"] < -1:
        raise InputError(
            f"{path}: layer {config['name']}: expected axis -1 or 1 and more, found "
            f"{config['axis']}, which tensorflow-addons takes for another"
        )
    kind = kind.removeprefix("Addons>").replace("Instance", "Group")
    if kind == "BatchNormalization" and isinstance(config["axis"], list):
        (config["axis"],) = config["axis"]
    if kind == "LeakyReLU" and "negative_slope" in _arguments(tf.keras.layers.LeakyReLU):
        config["negative_slope"] = config.pop("alpha")
    if kind.endswith("Transpose"):
        config.pop("groups", None)
    config["dtype"] = _policy(config["dtype"])
    config = {k: v for k, v in config.items() if not k.endswith(_LEFT_OUT)}
    strange = [k for k, v in config.items() if isinstance(v, dict)]
    if strange:
        raise InputError(f"{path}: layer {config['name']}: cannot import its {strange[0]}")
    trainable = config.pop("trainable", True)
    channels_first = config.get("data_format") == "channels_first" and kind.startswith(_SPATIAL)
    if channels_first:
        config["data_format"] = "channels_last"
    layer = getattr(tf.keras.layers, kind)(**config)
    # Some layers of Keras 3 take it as an attribute alone.
    layer.trainable = trainable
    return partial(_between_transpositions, layer) if channels_first else layer


def _between_transpositions(layer: Any, x: Any, **arguments: Any) -> Any:
    """Calls a layer on channels last, for channels first processors may have no kernels.

    Keras 3.15 moreover adds a convolution's bias along the last axis wherever that is as long as
    there are filters.
    """
    axes = range(1, len(x.shape))
    x = tf.keras.layers.Permute((*axes[1:], 1))(x)
    x = layer(x, **arguments)
    return tf.keras.layers.Permute((axes[-1], *axes[:-1]))(x)


def _make_input(config: Mapping[str, Any]) -> Any:
    batch, *shape = config.get("batch_input_shape") or config["batch_shape"]
    dtype = _policy(config.get("dtype", "float32"))
    return tf.keras.Input(shape, batch_size=batch, name=config.get("name"), dtype=dtype)


def _policy(dtype: Any) -> str:
    """The name of a dtype or of a stored policy."""
    return dtype["config"]["name"] if isinstance(dtype, dict) else dtype


def _arguments(kind: Any) -> Sequence[str]:
    return kind.__init__.__code__.co_varnames


def _fill(model: tf.keras.Model, stored: StoredModel, path: str | os.PathLike) -> None:
    left = {name for name, arrays in stored.weights.items() if arrays}
    for layer in model.layers:
        if not layer.weights:
            continue
        left.discard(layer.name)
        arrays = dict(stored.weights.get(layer.name, {}))
        values = []
        for place, weight in enumerate(layer.weights):
            name = weight.name.rsplit("/", 1)[-1].split(":")[0]
            value = arrays.pop(name, None)
            value = arrays.pop(str(place), None) if value is None else value
            found = None if value is None else tuple(value.shape)
            if found != tuple(weight.shape):
                raise InputError(
                    f"{path}: expected the shape {tuple(weight.shape)} for {layer.name}/{name}, "
                    f"found {found or 'no such weight'}"
                )
            values.append(value)
        if arrays:
            raise InputError(f"{path}: layer {layer.name} has no {', '.join(arrays)}")
        layer.set_weights(values)
    if left:
        raise InputError(f"{path}: no layer has the weights of {', '.join(sorted(left))}")
