"""A network as a TFLite model, by TensorFlow's own converter."""

import warnings

import numpy as np
import tensorflow as tf

from tl3d_keras.artifact import Artifact
from tl3d_keras.errors import InputError
from tl3d_keras.serving_graph import ServedModel


def convert(model: Artifact) -> bytes:
    """The model's file: from `image` [N, Z, Y, X, C] to `probabilities` [N, z, y, x, K + 1].

    As the signature `serving_default`. Pooling in three dimensions is no op of TFLite's own, so the
    runtime needs the Flex delegate, which has TensorFlow's.

    Raises:
        InputError: this TensorFlow's converter cannot.
    """
    info = model.info
    network = model.network.rebuilt(dtype="float32")
    module = ServedModel(network, info.intensity, info.spacing, info.patch_size)
    try:
        function = module.probabilities.get_concrete_function()
        converter = tf.lite.TFLiteConverter.from_concrete_functions([function], module)
        converter.target_spec.supported_ops = [
            tf.lite.OpsSet.TFLITE_BUILTINS,
            tf.lite.OpsSet.SELECT_TF_OPS,
        ]
        return converter.convert()
    # The converter of TensorFlow 2.15 knows no normalisation; some builds have none at all.
    except Exception as error:
        raise InputError(
            f"expected a converter to TFLite that can convert this network, found that of "
            f"TensorFlow {tf.__version__}, which fails ({type(error).__name__})"
        ) from error


def run(content: bytes, image: np.ndarray) -> np.ndarray | None:
    """What TFLite's interpreter gives for a batch of raw images; None where it has no Flex ops."""
    with warnings.catch_warnings():
        # Of its move to a package of its own, which TensorFlow does not bring.
        warnings.simplefilter("ignore", UserWarning)
        interpreter = tf.lite.Interpreter(model_content=content)
    (given,), (result,) = interpreter.get_input_details(), interpreter.get_output_details()
    interpreter.resize_tensor_input(given["index"], image.shape)
    try:
        interpreter.allocate_tensors()
        interpreter.set_tensor(given["index"], image)
        interpreter.invoke()
    except RuntimeError as error:
        if "Flex" not in str(error):
            raise
        return None
    return interpreter.get_tensor(result["index"])
