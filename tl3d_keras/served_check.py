"""Whether a server that loads an artifact gives what Keras and the command give."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf

from tl3d_keras import artifact, inference
from tl3d_keras.errors import InputError
from tl3d_keras.resampling import is_aligned
from tl3d_keras.volumes import Volume

_TOLERANCE = 1e-4
_WRONG_LABELS = 0.01
# By 90 degrees about x, then by 30 about z.
_TURNED = np.array([[0.75**0.5, 0, 0.5], [0.5, 0, -(0.75**0.5)], [0, 1, 0]])


def check(path: str | os.PathLike) -> float:
    """Runs an artifact's signatures as a server does, on random input, against the Keras network.

    What an older artifact does not have of `segment` and `segment_oblique` is left out.

    Returns:
        The largest absolute difference of a probability.

    Raises:
        InputError: the folder does not load, a probability differs by more than 1e-4, or the labels
            of a scan at more than 1 % of the voxels.
    """
    folder = artifact.latest(path)
    network, info = artifact.load(folder)
    signatures = _signatures(folder)
    size = network.geometry.input_size(1)
    shape = (1, size, size, size, len(info.channels))
    image = 200 * tf.random.stateless_normal(shape, (0, 0))
    expected = network(info.intensity.normalise(image), training=False)
    served = _run(folder, signatures["serving_default"], "probabilities", image=image)
    if served.shape != expected.shape:
        raise InputError(
            f"{folder}: the served graph gives the shape {served.shape}, "
            f"the network {expected.shape}"
        )
    largest = float(tf.reduce_max(tf.abs(served - expected)))
    if not largest <= _TOLERANCE:
        raise InputError(f"{folder}: the served graph differs from the network by {largest:.1e}")
    for name, direction in (("segment", np.eye(3)), ("segment_oblique", _TURNED)):
        if name in signatures:
            _check_labels(folder, signatures[name], direction, artifact.Artifact(network, info))
    return largest


def _check_labels(
    folder: Path, segment: Callable, direction: np.ndarray, model: artifact.Artifact
) -> None:
    # Each axis is sampled anew, one of them finer.
    z, y, x = model.info.spacing
    spacing = (1.4 * z, 0.8 * y, 1.2 * x)
    shape = (9, 12, 11, len(model.info.channels))
    image = 200 * tf.random.stateless_normal(shape, (0, 1))
    segmenter = inference.Segmenter(
        model.network, model.info.intensity, None, model.info.patch_size
    )
    cosines = tuple(direction.ravel().tolist())
    volume = Volume(image.numpy(), spacing, direction=cosines)
    expected = inference.segment(volume, segmenter, model.info.spacing).array[..., 0]
    inputs = {"image": image, "spacing": tf.constant(spacing)}
    if not is_aligned(volume):
        inputs["direction"] = tf.constant(cosines)
    served = _run(folder, segment, "labels", **inputs)
    wrong = float(np.mean(served != expected)) if served.shape == expected.shape else 1.0
    if wrong > _WRONG_LABELS:
        raise InputError(
            f"{folder}: the served labels differ from the command's at {wrong:.1%} of the voxels"
        )


def _signatures(folder: Path) -> Mapping[str, Callable]:
    try:
        signatures = tf.saved_model.load(str(folder)).signatures
    # What a damaged graph raises depends on where it is damaged.
    except Exception as error:
        raise InputError(f"{folder}: TensorFlow cannot load it: damaged or incomplete") from error
    if "serving_default" not in signatures:
        raise InputError(
            f"{folder}: expected the signature serving_default, "
            f"found {', '.join(sorted(signatures)) or 'none'}"
        )
    return signatures


def _run(folder: Path, signature: Callable, output: str, **inputs: tf.Tensor) -> tf.Tensor:
    try:
        return signature(**inputs)[output]
    except (tf.errors.OpError, TypeError, KeyError, ValueError) as error:
        raise InputError(
            f"{folder}: the served graph does not run: {str(error).splitlines()[0]}"
        ) from error
