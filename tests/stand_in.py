"""A SavedModel with an artifact's signatures that is saved and loaded in no time."""

from pathlib import Path

import tensorflow as tf

CHANNELS = 1


class StandIn(tf.Module):
    """Labels are `value` where the first channel is positive."""

    def __init__(self, value: int) -> None:
        super().__init__()
        self.value = tf.Variable(value, dtype=tf.int32)

        def segment(image, spacing):
            # A server's runtime looks at no shape, so the graph must.
            known = tf.debugging.Assert(tf.reduce_all(spacing > 0), ["spacing must be positive"])
            with tf.control_dependencies([known]):
                positive = tf.cast(image[..., 0] > 0, tf.int32)
            return {"labels": tf.cast(self.value * positive, tf.uint8)}

        self.segment = tf.function(
            segment,
            input_signature=[
                tf.TensorSpec([None, None, None, CHANNELS], name="image"),
                tf.TensorSpec([3], name="spacing"),
            ],
            autograph=False,
        )
        self.probabilities = tf.function(
            lambda image: {"probabilities": tf.concat([image, 1 - image], -1)},
            input_signature=[tf.TensorSpec([None, None, None, None, CHANNELS], name="image")],
            autograph=False,
        )


def save(folder: Path, version: int) -> Path:
    """Writes `folder/version`, which appears when whole and whose labels are the version."""
    module = StandIn(version)
    building = folder / ".building"
    tf.saved_model.save(
        module,
        str(building),
        signatures={"serving_default": module.probabilities, "segment": module.segment},
    )
    return building.rename(folder / str(version))
