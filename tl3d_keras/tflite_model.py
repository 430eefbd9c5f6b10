"""A network as a TFLite model, by TensorFlow's own converter."""

import warnings

import numpy as np
import tensorflow as tf

from tl3d_keras.artifact import Artifact
from tl3d_keras.errors import InputError
from tl3d_keras.serving_graph import ServedModel


def convert(model: Artifact) -> bytes:
    """The model's file: from `image` [N, Z, Y, X, C] to `probabilities` [N, z, y, x, K + 1].

    As the signature `serving_default`, in TFLite's own ops alone, so that any of its runtimes will
    do.

    Raises:
        InputError: this TensorFlow's converter cannot.
    """
    info = model.info
    network = model.network.rebuilt(dtype="float32")
    for layer in network.layers:
        if isinstance(layer, tf.keras.layers.MaxPooling3D):
            layer.call = _pooled
    module = ServedModel(network, info.intensity, info.spacing, info.patch_size)
    try:
        function = module.probabilities.get_concrete_function()
        converter = tf.lite.TFLiteConverter.from_concrete_functions([function], module)
        return converter.convert()
    # The converter of TensorFlow 2.15 knows no normalisation; some builds have none at all.
    except Exception as error:
        raise InputError(
            f"expected a converter to TFLite that can convert this network, found that of "
            f"TensorFlow {tf.__version__}, which fails ({type(error).__name__})"
        ) from error


def _pooled(image: tf.Tensor) -> tf.Tensor:
    """The maximum of each 2 x 2 x 2 voxels, of which TFLite has no op of its own."""
    for axis in (1, 2, 3):
        before = (slice(None),) * axis
        image = tf.maximum(image[(*before, slice(0, None, 2))], image[(*before, slice(1, None, 2))])
    return image


def run(content: bytes, image: np.ndarray) -> np.ndarray:
    """What TFLite's interpreter gives for a batch of raw images."""
    with warnings.catch_warnings():
        # Of its move to a package of its own, which TensorFlow does not bring.
        warnings.simplefilter("ignore", UserWarning)
        interpreter = tf.lite.Interpreter(model_content=content)
    (given,), (result,) = interpreter.get_input_details(), interpreter.get_output_details()
    interpreter.resize_tensor_input(given["index"], image.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(given["index"], image)
    interpreter.invoke()
    return interpreter.get_tensor(result["index"])
