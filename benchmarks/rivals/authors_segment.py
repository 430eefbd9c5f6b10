"""Segments as the paper's authors do: Keras's own layers, 132^3 in, 44^3 out, one after the other.

Run by benchmarks.segment in the project's own Python.
"""

import json
import os
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf

IN, OUT = 132, 44
layers = tf.keras.layers


def unet(filters: int, classes: int) -> tf.keras.Model:
    """The network of arXiv 2311.05032, layer by layer as it is described there."""
    x = inputs = tf.keras.Input((IN, IN, IN, 1))
    skips = []
    for level in range(4):
        first = filters * 2**level
        x = layers.MaxPooling3D(2)(x) if level else x
        x = layers.Conv3D(first, 3, activation="relu")(x)
        x = layers.Conv3D(2 * first, 3, activation="relu")(x)
        skips.append(x)
    skips.pop()
    for level in (2, 1, 0):
        width = filters * 2 ** (level + 1)
        x = layers.UpSampling3D(2)(x)
        skip = skips.pop()
        skip = layers.Cropping3D((skip.shape[1] - x.shape[1]) // 2)(skip)
        x = layers.Concatenate()([x, skip])
        x = layers.Conv3D(width, 3, activation="relu")(x)
        x = layers.Conv3D(width, 3, activation="relu")(x)
    return tf.keras.Model(inputs, layers.Softmax()(layers.Conv3D(classes, 1)(x)))


def main(config: dict) -> dict:
    network = unet(config["filters"], config["classes"])
    image = np.random.default_rng(0).normal(size=(*config["shape"], 1)).astype(np.float32)

    def segment() -> np.ndarray:
        margin = (IN - OUT) // 2
        padded = np.pad(image, [*[(margin, IN - OUT)] * 3, (0, 0)])
        labels = np.zeros([-(-n // OUT) * OUT for n in image.shape[:3]], np.uint8)
        for corner in np.ndindex(*(n // OUT for n in labels.shape)):
            z, y, x = (OUT * i for i in corner)
            tile = padded[None, z : z + IN, y : y + IN, x : x + IN]
            found = network.predict_on_batch(tile)[0]
            labels[z : z + OUT, y : y + OUT, x : x + OUT] = found.argmax(-1)
        return labels

    network.predict_on_batch(np.zeros((1, IN, IN, IN, 1), np.float32))
    seconds = []
    for _ in range(config["repeats"]):
        start = time.perf_counter()
        segment()
        seconds.append(time.perf_counter() - start)
    return {"seconds": min(seconds)}


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
