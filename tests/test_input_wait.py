"""The share of training's time that steps wait for batches."""

import time

import pytest
import tensorflow as tf

from tl3d_keras.input_wait import InputWait


def fit(pause: float, work: float, waiting: InputWait, strategy=None, epochs: int = 2) -> None:
    """Steps that take `work` seconds on batches that take `pause` seconds to make."""

    def sleep(seconds: float):
        def stop(x):
            time.sleep(seconds)
            return x

        return lambda x: tf.ensure_shape(tf.numpy_function(stop, [x], tf.float32), [1, 1])

    class Model(tf.keras.Model):
        def train_step(self, data):
            return {"loss": tf.reduce_sum(sleep(work)(data))}

    batches = tf.data.Dataset.from_tensors(tf.zeros((1, 1))).repeat().map(sleep(pause))
    model = Model()
    model.compile(jit_compile=False)
    model.built = True
    watched = waiting.watch(batches, strategy or tf.distribute.get_strategy())
    model.fit(
        watched, epochs=epochs, steps_per_epoch=6, shuffle=False, verbose=0, callbacks=[waiting]
    )


@pytest.mark.parametrize(
    ("pause", "work", "low", "high"),
    [(0.03, 0.0, 0.6, 1.0), (0.0, 0.03, 0.0, 0.4), (0.03, 0.03, 0.25, 0.75)],
)
def test_share(pause, work, low, high):
    waiting = InputWait()
    fit(pause, work, waiting)
    assert low <= waiting.of_epoch <= high and low <= waiting.of_all <= high


def test_the_first_step_does_not_count():
    waiting = InputWait()
    assert waiting.of_all is None
    batches = iter(waiting.watch(tf.data.Dataset.range(9), tf.distribute.get_strategy()))
    waiting.on_train_begin()
    waiting.on_epoch_begin(0)
    assert int(next(batches)) == 0
    time.sleep(0.02)
    waiting.on_train_batch_end(0)
    waiting.on_epoch_end(0)
    assert waiting.of_epoch is None and waiting.of_all is None
    waiting.on_epoch_begin(1)
    waiting.on_train_batch_end(0)
    waiting.on_epoch_end(1)
    assert 0 <= waiting.of_epoch < 0.01


def test_nothing_is_said_of_several_devices(mirrored):
    waiting = InputWait()
    batches = tf.data.Dataset.range(3)
    assert waiting.watch(batches, mirrored(2)) is batches
    waiting.on_train_begin()
    waiting.on_epoch_begin(0)
    for step in range(2):
        waiting.on_train_batch_end(step)
    waiting.on_epoch_end(0)
    assert waiting.of_epoch is None and waiting.of_all is None
