"""A network as an ONNX model, written op by op from its configuration and its weights.

A converter of any graph would be a large dependency, and a U-Net is few ops.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tl3d_keras.artifact import Artifact
from tl3d_keras.errors import InputError
from tl3d_keras.intensity import Intensity
from tl3d_keras.model_info import to_json
from tl3d_keras.unet3d import HEAD, UNet3D, named_weights

try:
    import onnx
    import onnxruntime
    from onnx import helper, numpy_helper
except ImportError as error:
    raise InputError(
        f"expected the extra onnx, found no {error.name}; pip install 'tl3d-keras[onnx]'"
    ) from error

# Old enough for every runtime of these years, new enough for all that is here.
_OPSET = 17
_IR_VERSION = 8
_FLOAT = onnx.TensorProto.FLOAT


def convert(model: Artifact) -> bytes:
    """The model's file: from `image` [N, Z, Y, X, C] to `probabilities` [N, z, y, x, K + 1].

    As the signature `serving_default`: raw units go in, both are float32. The metadata hold the
    content of `tl3d_keras.json`, and one by one the structures, channels and spacing.
    """
    config = model.network.get_config()
    graph = _Graph(named_weights(model.network))
    x = graph.op("Transpose", ["image"], perm=[0, 4, 1, 2, 3])
    x = _normalised(graph, x, model.info.intensity)
    x = _Layers(graph, model.network).trunk(x)
    x = graph.op("Conv", [x, graph.kernel(HEAD), graph.weight(f"{HEAD}/bias")])
    x = graph.op("Softmax", [x], axis=1)
    graph.op("Transpose", [x], "probabilities", perm=[0, 2, 3, 4, 1])
    proto = helper.make_model(
        helper.make_graph(
            graph.nodes,
            config["name"],
            [_tensor("image", "NZYX", config["input_channels"])],
            [_tensor("probabilities", "Nzyx", config["num_classes"])],
            graph.initializers,
        ),
        producer_name="tl3d-keras",
        opset_imports=[helper.make_opsetid("", _OPSET)],
        ir_version=_IR_VERSION,
    )
    content = to_json(model.info, config)
    metadata = {key: json.dumps(content[key]) for key in ("structures", "channels", "spacing")}
    helper.set_model_props(proto, {**metadata, "tl3d_keras.json": json.dumps(content)})
    onnx.checker.check_model(proto, full_check=True)
    return proto.SerializeToString()


def run(content: bytes, image: np.ndarray) -> np.ndarray:
    """What onnxruntime gives for a batch of raw images."""
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return session.run(["probabilities"], {"image": image})[0]


def _tensor(name: str, axes: str, channels: int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, _FLOAT, [*axes, channels])


class _Graph:
    """Nodes and constants of a graph as it grows."""

    def __init__(self, weights: Mapping[str, Any]) -> None:
        self._weights = weights
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def op(
        self, kind: str, inputs: Sequence[str], output: str | None = None, **attributes: Any
    ) -> str:
        """Adds a node and returns its output's name."""
        output = output or f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [output], output, **attributes))
        return output

    def constant(self, value: np.ndarray, name: str | None = None) -> str:
        """Adds a constant and returns its name."""
        name = name or f"constant_{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def floats(self, values: Sequence[float] | np.ndarray) -> str:
        """A constant for each channel."""
        return self.constant(np.array(values, np.float32).reshape(-1, 1, 1, 1))

    def weight(self, name: str) -> str:
        """A weight as it is."""
        return self.constant(self._weights[name].numpy().astype(np.float32), name)

    def kernel(self, layer: str) -> str:
        """A convolution's kernel, output channels first."""
        kernel = self._weights[f"{layer}/kernel"].numpy().astype(np.float32)
        return self.constant(kernel.transpose(4, 3, 0, 1, 2), f"{layer}/kernel")


def _normalised(graph: _Graph, x: str, intensity: Intensity) -> str:
    """`Intensity.normalise`."""
    if intensity.mode == "window":
        low, high = np.array(intensity.low), np.array(intensity.high)
        x = graph.op("Max", [x, graph.floats(low)])
        x = graph.op("Min", [x, graph.floats(high)])
        x = graph.op("Mul", [x, graph.floats(2 / (high - low))])
        return graph.op("Add", [x, graph.floats(-(high + low) / (high - low))])
    space: dict[str, Any] = {"axes": [2, 3, 4], "keepdims": 1}
    difference = graph.op("Sub", [x, graph.op("ReduceMean", [x], **space)])
    square = graph.op("Mul", [difference, difference])
    deviation = graph.op("Sqrt", [graph.op("ReduceMean", [square], **space)])
    highest, lowest = (graph.op(kind, [x], **space) for kind in ("ReduceMax", "ReduceMin"))
    varies = graph.op(
        "And",
        [
            graph.op("Greater", [highest, lowest]),
            graph.op("Greater", [deviation, graph.floats([0])]),
        ],
    )
    # A constant channel becomes 0, not the NaN of its division.
    divided = graph.op("Div", [difference, deviation])
    return graph.op("Where", [varies, divided, graph.floats([0])])


class _Layers:
    """The layers of a `UNet3D` up to its head, channels first."""

    def __init__(self, graph: _Graph, network: UNet3D) -> None:
        self._graph = graph
        self._network = network
        self._config = network.get_config()

    def trunk(self, x: str) -> str:
        """What the head sees."""
        levels = self._config["levels"]
        skips = []
        for level in range(levels):
            x = self._block(x, f"encoder_{level}")
            if level < levels - 1:
                skips.append(x)
                x = self._graph.op("MaxPool", [x], kernel_shape=[2] * 3, strides=[2] * 3)
        for level in reversed(range(levels - 1)):
            scales = self._graph.constant(np.array([1, 1, 2, 2, 2], np.float32))
            x = self._graph.op(
                "Resize",
                [x, "", scales],
                mode="nearest",
                coordinate_transformation_mode="asymmetric",
                nearest_mode="floor",
            )
            x = self._graph.op("Concat", [x, self._cropped(skips[level], level)], axis=1)
            x = self._block(x, f"decoder_{level}")
        return x

    def _cropped(self, skip: str, level: int) -> str:
        if self._config["padding"] == "same":
            return skip
        crop = np.array([side for side, _ in self._layer(f"decoder_{level}_crop").cropping])
        bounds = [crop, -crop, np.array([2, 3, 4])]
        return self._graph.op("Slice", [skip, *(self._graph.constant(b) for b in bounds)])

    def _block(self, x: str, name: str) -> str:
        pads = [1 if self._config["padding"] == "same" else 0] * 6
        for i in (0, 1):
            layer = f"{name}_conv_{i}"
            weights = [self._graph.kernel(layer), self._graph.weight(f"{layer}/bias")]
            x = self._graph.op("Conv", [x, *weights], pads=pads)
            if self._config["normalization"]:
                x = self._group_normalised(x, f"{name}_norm_{i}")
            x = self._graph.op("Relu", [x])
        return x

    def _group_normalised(self, x: str, name: str) -> str:
        """In what every opset has: instances of the groups, then a scale and a shift a channel."""
        graph, layer = self._graph, self._layer(name)
        gamma, beta = (graph.weight(f"{name}/{part}") for part in ("gamma", "beta"))
        per_channel = graph.constant(np.array([-1, 1, 1, 1]))
        groups = int(layer.groups)
        flat = graph.op("Reshape", [x, graph.constant(np.array([0, groups, -1]))])
        one, zero = (graph.constant(np.full(groups, v, np.float32)) for v in (1, 0))
        flat = graph.op("InstanceNormalization", [flat, one, zero], epsilon=float(layer.epsilon))
        x = graph.op("Reshape", [flat, graph.op("Shape", [x])])
        x = graph.op("Mul", [x, graph.op("Reshape", [gamma, per_channel])])
        return graph.op("Add", [x, graph.op("Reshape", [beta, per_channel])])

    def _layer(self, name: str) -> Any:
        return self._network.get_layer(name)
