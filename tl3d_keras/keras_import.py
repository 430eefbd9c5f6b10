"""Models of Keras 2, those with tensorflow-addons' normalisation included, on whichever Keras."""

import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import tensorflow as tf

from tl3d_keras import keras_files
from tl3d_keras.errors import InputError
from tl3d_keras.keras_files import StoredModel
from tl3d_keras.unet3d import UNet3D, named_weights

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
_TOLERANCE = 1e-4


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


def as_unet3d(model: tf.keras.Model, path: str | os.PathLike) -> UNet3D:
    """The `UNet3D` with a model's weights, if the model computes what that does.

    Layers are taken in their order. Whether the two are one is tried on a random image.

    Args:
        model: with any layer names, channels first or last.
        path: the file that it came from, for messages.

    Raises:
        InputError: another architecture.
    """
    config = _unet_config(model, path)
    network = UNet3D(**config)
    weights = [w for layer in model.layers for w in layer.get_weights()]
    variables = list(named_weights(network).values())
    found, expected = ([tuple(w.shape) for w in ws] for ws in (weights, variables))
    if found != expected:
        first = next((i for i, (a, b) in enumerate(zip(found, expected)) if a != b), -1)  # noqa: B905
        where = (
            f"the shape {found[first]} instead of {expected[first]}"
            if first >= 0
            else f"{len(found)} weights instead of {len(expected)}"
        )
        raise _other_architecture(path, where)
    for variable, value in zip(variables, weights, strict=True):
        variable.assign(value)
    difference = _difference(model, network)
    if not difference <= _TOLERANCE:
        raise _other_architecture(path, f"probabilities that differ by {difference:.1e}")
    return network


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


def _unet_config(model: tf.keras.Model, path: str | os.PathLike) -> dict[str, Any]:
    """The configuration of the `UNet3D` that has as many convolutions and the like widths."""
    convolutions = [layer for layer in model.layers if type(layer).__name__ == "Conv3D"]
    # Two a level and way, one way at the coarsest level, and the head.
    if len(convolutions) < 3 or len(convolutions) % 4 != 3:
        raise _other_architecture(path, f"{len(convolutions)} convolutions of three dimensions")
    norms = [layer for layer in model.layers if type(layer).__name__ == "GroupNormalization"]
    first, head = (layer.get_weights()[0] for layer in (convolutions[0], convolutions[-1]))
    normalization = None
    if norms:
        widths = [norm.get_weights()[0].shape[0] for norm in norms if norm.weights]
        each = [norm.groups for norm in norms] == widths
        normalization = "instance" if each else "group"
    return {
        "num_classes": head.shape[-1],
        "filters": first.shape[-1],
        "levels": (len(convolutions) + 1) // 4,
        "input_channels": first.shape[-2],
        "padding": convolutions[0].padding,
        "normalization": normalization,
    }


def _difference(model: tf.keras.Model, network: UNet3D) -> float:
    """The largest difference of a probability on a random image."""
    channels_first = any(type(layer).__name__ == "Permute" for layer in model.layers)
    shape = list(model.input_shape[1:])
    channels = shape.pop(0 if channels_first else -1)
    least = network.geometry.input_size(1)
    sizes = [n or least for n in shape]
    image = np.random.default_rng(0).normal(size=(1, *sizes, channels)).astype(np.float32)
    try:
        for size in sizes:
            network.geometry.output_size(size)
        if channels_first:
            found = np.moveaxis(model(np.moveaxis(image, -1, 1), training=False).numpy(), 1, -1)
        else:
            found = model(image, training=False).numpy()
        expected = network(image, training=False).numpy()
    except (ValueError, tf.errors.OpError):
        return np.inf
    return float(np.abs(found - expected).max()) if found.shape == expected.shape else np.inf


def _other_architecture(path: str | os.PathLike, found: str) -> InputError:
    return InputError(f"{path}: expected the layers of a UNet3D in their order, found {found}")
