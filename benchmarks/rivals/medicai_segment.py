"""Segments by medic-ai's sliding window; run by benchmarks.segment in its own Python."""

import json
import os
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from keras import layers
from medicai.utils import SlidingWindowInference


def unet(filters: int, levels: int, classes: int) -> keras.Model:
    """That of Çiçek et al. with same padding, which sliding windows need."""
    x = inputs = keras.Input((96, 96, 96, 1))
    skips = []
    for level in range(levels):
        first = filters * 2**level
        x = layers.MaxPooling3D(2)(x) if level else x
        x = layers.Conv3D(first, 3, padding="same", activation="relu")(x)
        x = layers.Conv3D(2 * first, 3, padding="same", activation="relu")(x)
        skips.append(x)
    skips.pop()
    for level in reversed(range(levels - 1)):
        width = filters * 2 ** (level + 1)
        x = layers.Concatenate()([layers.UpSampling3D(2)(x), skips.pop()])
        x = layers.Conv3D(width, 3, padding="same", activation="relu")(x)
        x = layers.Conv3D(width, 3, padding="same", activation="relu")(x)
    x = layers.Conv3D(classes, 1)(x)
    return keras.Model(inputs, layers.Softmax(dtype="float32")(x))


def main(config: dict) -> dict:
    keras.config.set_dtype_policy(config["precision"])
    infer = SlidingWindowInference(
        unet(config["filters"], 4, config["classes"]), config["classes"], (96, 96, 96), 1, 0.25
    )
    rng = np.random.default_rng(0)
    infer(rng.normal(size=(1, 96, 96, 96, 1)).astype(np.float32))
    image = rng.normal(size=(1, *config["shape"], 1)).astype(np.float32)
    seconds = []
    for _ in range(config["repeats"]):
        start = time.perf_counter()
        np.asarray(infer(image)).argmax(-1)
        seconds.append(time.perf_counter() - start)
    return {"seconds": min(seconds)}


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
