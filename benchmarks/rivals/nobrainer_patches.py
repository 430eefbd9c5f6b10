"""Patches by nobrainer's TFRecord blocks; run by benchmarks.loader in its own Python.

Its records need volumes of one shape, a multiple of the block's: each is cut or padded to that.
"""

import json
import resource
import sys
import tempfile
import time
from pathlib import Path

import nibabel
import numpy as np
import tensorflow as tf
from nobrainer.dataset import Dataset
from nobrainer.intensity_transforms import addGaussianNoise
from nobrainer.spatial_transforms import randomflip_leftright
from nobrainer.volume import standardize


def main(config: dict) -> dict:
    size = config["patch_size"]
    source = Path(config["dataset_dir"])
    cases = json.loads((source / "dataset.json").read_text())["training"]
    with tempfile.TemporaryDirectory() as folder:
        paths = [
            tuple(
                str(_fitted(source / case[kind], Path(folder), size)) for kind in ("image", "label")
            )
            for case in cases
        ]
        dataset, _ = Dataset.from_files(
            paths,
            # It would ask for 256^3.
            check_shape=False,
            out_tfrec_dir=Path(folder) / "records",
            shard_size=9,
            num_parallel_calls=2,
            eval_size=0,
            n_classes=1,
            block_shape=(size,) * 3,
        )
        # Its changes take three axes.
        dataset.dataset = dataset.dataset.unbatch()
        # One map, for its `augment` makes one of each change, and each with probability 1/2.
        dataset.repeat(None).shuffle(16).map(_change).batch(config["batch_size"])
        dataset.dataset = dataset.dataset.prefetch(2)
        batches = iter(dataset.dataset)

        def draw(patches: int) -> int:
            drawn = 0
            while drawn < patches:
                drawn += next(batches)[0].shape[0]
            return drawn

        draw(config["warm_up"])
        start = time.perf_counter()
        drawn = draw(config["patches"])
        seconds = time.perf_counter() - start
    kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"rate": drawn / seconds, "peak_mib": kib / 1024}


def _change(x: tf.Tensor, y: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Its flip, along its one axis, and noise; contrast and brightness, which it cannot draw."""
    x, y = randomflip_leftright(standardize(x[..., 0]), y[..., 0], trans_xy=True)
    x = x * tf.random.uniform([], 0.85, 1.15) + tf.random.uniform([], -0.15, 0.15)
    x, y = addGaussianNoise(x, y, noise_std=tf.random.uniform([], 0.0, 0.1))
    return x[..., tf.newaxis], y


def _fitted(path: Path, folder: Path, size: int) -> Path:
    """A copy of 2 x 2 x 1 blocks, the volume's middle."""
    image = nibabel.load(path)
    array = np.asarray(image.dataobj)
    for axis, blocks in enumerate((2, 2, 1)):
        wanted = blocks * size
        lacking = max(wanted - array.shape[axis], 0)
        padding = [(0, 0)] * 3
        padding[axis] = (lacking // 2, lacking - lacking // 2)
        array = np.pad(array, padding)
        first = (array.shape[axis] - wanted) // 2
        array = np.take(array, range(first, first + wanted), axis)
    copy = folder / f"{path.parent.name}_{path.name}"
    nibabel.save(nibabel.Nifti1Image(array, image.affine), copy)
    return copy


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
