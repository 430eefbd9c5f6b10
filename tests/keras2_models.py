"""Writes models as Keras 2 and tensorflow-addons save them, with what they compute.

    python -m tests.keras2_models FOLDER

on the addons stack. Without it the tests take `keras2_models.tar.xz`, such a folder but for the
graphs, which importing does not read:

    tar -C FOLDER --exclude=saved_model.pb -cJf tests/keras2_models.tar.xz .
"""

import sys
import warnings
from pathlib import Path

import numpy as np

from data_tools.command import load_tensorflow

load_tensorflow()

import tensorflow as tf  # noqa: E402

layers = tf.keras.layers


def published() -> tf.keras.Model:
    """The layout of the authors' file, but for 2 filters, 2 levels and 4 classes."""
    order = {"data_format": "channels_first"}
    inputs = tf.keras.Input((1, 20, 20, 20))

    def convolved(x, *widths):
        for width in widths:
            x = layers.Conv3D(
                width,
                3,
                activation="relu",
                kernel_regularizer=tf.keras.regularizers.L2(1e-5),
                **order,
            )(x)
        return x

    skip = convolved(inputs, 2, 4)
    x = convolved(layers.MaxPooling3D(2, **order)(skip), 4, 8)
    x = layers.UpSampling3D(2, **order)(x)
    x = layers.Concatenate(axis=1)([x, layers.Cropping3D(4, **order)(skip)])
    x = layers.Conv3D(4, 1, name="output_segm", **order)(convolved(x, 4, 4))
    return tf.keras.Model(inputs, layers.Softmax(axis=1)(x))


def unet(tfa) -> tf.keras.Model:
    """The architecture of `UNet3D` with same padding, by another hand."""
    inputs = tf.keras.Input((None, None, None, 2))

    def convolved(x, *widths):
        for width in widths:
            x = layers.Conv3D(width, 3, padding="same")(x)
            x = layers.Activation("relu")(tfa.layers.InstanceNormalization()(x))
        return x

    skip = convolved(inputs, 2, 4)
    x = layers.UpSampling3D()(convolved(layers.MaxPooling3D()(skip), 4, 8))
    x = convolved(layers.concatenate([x, skip]), 4, 4)
    return tf.keras.Model(inputs, layers.Conv3D(3, 1, activation="softmax")(x))


def many(tfa) -> tf.keras.Model:
    """Addons' layers with every option, and others whose configuration the Kerases part on."""
    inputs = [tf.keras.Input((4, 8, 6)), tf.keras.Input((4, 8, 6))]
    shared = layers.Conv2D(6, 3, padding="same", name="shared")
    x, y = (shared(i) for i in inputs)
    x = tfa.layers.GroupNormalization(3, epsilon=0.1)(x)
    x = tfa.layers.GroupNormalization(2, axis=1, center=False)(x)
    y = tfa.layers.InstanceNormalization(axis=2, epsilon=0.2, scale=False)(y)
    y = tfa.layers.InstanceNormalization(axis=3)(layers.PReLU()(y))
    x = layers.Concatenate()([layers.LeakyReLU(0.2)(x), layers.SpatialDropout2D(0.5)(y)])
    x = layers.BatchNormalization()(layers.ZeroPadding2D(1)(x))
    x = layers.LayerNormalization()(layers.Conv2DTranspose(4, 2, 2)(x))
    y = layers.Dense(3, activation="tanh")(layers.GlobalAveragePooling2D()(x))
    return tf.keras.Model(inputs, [layers.ELU()(layers.AveragePooling2D()(x)), y])


def sequence(tfa) -> tf.keras.Model:
    """A sequential model in half precision's policy."""
    policy = "mixed_bfloat16"
    return tf.keras.Sequential(
        [
            layers.Conv3D(4, 3, input_shape=(6, 6, 6, 1), dtype=policy),
            tfa.layers.GroupNormalization(2, dtype="float32"),
            layers.Flatten(),
            layers.Dense(3),
        ]
    )


def write(folder: Path) -> None:
    """Writes each model, what it is given and what it computes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import tensorflow_addons as tfa

        rng = np.random.default_rng(0)
        for name, model in {
            "published": published(),
            "unet": unet(tfa),
            "many": many(tfa),
            "sequence": sequence(tfa),
        }.items():
            for variable in model.variables:
                # Few digits, for what is kept is compressed.
                value = np.round(10 * rng.normal(size=variable.shape)) / 32
                positive = "variance" in variable.name
                variable.assign(np.abs(value) + 0.5 if positive else value)
            images = [
                rng.integers(-9, 9, (1, *(n or 8 for n in shape[1:]))).astype(np.float32)
                for shape in (i.shape for i in model.inputs)
            ]
            outputs = model(images if len(images) > 1 else images[0])
            outputs = outputs if isinstance(outputs, list) else [outputs]
            given = {f"in_{i}": image for i, image in enumerate(images)}
            found = {f"out_{i}": output.numpy() for i, output in enumerate(outputs)}
            np.savez_compressed(folder / f"{name}.npz", **given, **found)
            model.compile("adam", "mse")
            model.save(folder / f"{name}.h5")
            if name != "published":
                model.save(folder / f"{name}.keras")
                model.save(folder / name)
        model = tf.keras.Sequential([layers.Lambda(lambda x: x + 1, input_shape=(1,))])
        model.save(folder / "code.h5")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
