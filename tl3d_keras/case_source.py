"""Cases to draw patches from: read out of their shards one by one, or all held in memory."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from tl3d_keras import records
from tl3d_keras.annotation import Runs, from_runs
from tl3d_keras.manifest import CaseEntry, Manifest
from tl3d_keras.patches import OpenCase

# Type and rank of what an open case holds.
_KINDS = OpenCase((tf.int16, 4), (tf.int64, 1), (tf.int64, 1), (tf.int64, 1), (tf.uint8, 3))


class CaseFiles:
    """Reads a case by its index, in a graph, without the rest of its shard."""

    def __init__(self, folder: Path, manifest: Manifest, cases: Sequence[CaseEntry]) -> None:
        shards = [manifest.shards[case.shard] for case in cases]
        self._files = tf.constant([str(folder / shard.file) for shard in shards])
        self._offsets = tf.constant([case.offset for case in cases], tf.int64)
        self._bytes = tf.constant([case.bytes for case in cases], tf.int64)
        self._after = tf.constant(
            [s.bytes - c.offset - c.bytes for s, c in zip(shards, cases, strict=True)], tf.int64
        )
        self._count = len(cases)

    def read(self, index: tf.Tensor) -> tf.data.Dataset:
        """A data set of one serialised case, for `opened`."""
        return tf.data.FixedLengthRecordDataset(
            self._files[index],
            record_bytes=self._bytes[index],
            header_bytes=self._offsets[index],
            footer_bytes=self._after[index],
        )

    def hold(self) -> OpenCase:
        """Opens all with decoded labels and keeps them in memory, for `take`.

        What comes back are TensorFlow's lists of tensors: their items may differ in shape and are
        taken without being copied, as are the lists by what `tf.data` makes of the graph.
        """
        with tf.device("CPU:0"):
            lists = [
                tf.raw_ops.EmptyTensorList(
                    element_shape=[-1] * rank, max_num_elements=-1, element_dtype=dtype
                )
                for dtype, rank in _KINDS
            ]
            for case in tf.data.Dataset.range(self._count).flat_map(self.read).map(opened):
                runs = Runs(case.start.numpy(), case.length.numpy(), case.value.numpy())
                labels = from_runs(runs, case.words.shape[:3])
                lists = [
                    tf.raw_ops.TensorListPushBack(input_handle=handle, tensor=part)
                    for handle, part in zip(lists, case._replace(labels=labels), strict=True)
                ]
        return OpenCase(*lists)


def opened(serialized: tf.Tensor) -> OpenCase:
    """A serialised case as it is drawn from, with runs for its labels."""
    case = records.parse_words(serialized)
    return OpenCase(case.image, case.start, case.length, case.value)


def take(held: OpenCase, index: tf.Tensor) -> OpenCase:
    """The case of an index out of `CaseFiles.hold`, in a graph."""
    return OpenCase(
        *(
            tf.raw_ops.TensorListGetItem(
                input_handle=handle,
                index=tf.cast(index, tf.int32),
                element_shape=[-1] * rank,
                element_dtype=dtype,
            )
            for handle, (dtype, rank) in zip(held, _KINDS, strict=True)
        )
    )


def most_bytes(case: CaseEntry) -> int:
    """What a case takes in memory when it is open, at most."""
    return int(np.prod(case.shape) * 4 + np.prod(case.shape[:3]))
