"""Size of records against their .nii.gz sources, and time to read both into arrays.

    python benchmarks/records.py --dataset_dir=DATASET --work_dir=FOLDER

shards a Decathlon or nnU-Net folder raw and zlib-compressed, and reads image and label of every
case three times in turn, on one thread: from the records and with SimpleITK from the sources. 70
left atrium volumes take about five minutes on two cores.
"""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from absl import flags

from data_tools import layouts
from data_tools.command import load_tensorflow, run
from data_tools.sharding import ShardOptions, shard_dataset
from tl3d_keras.case_fields import ENCODINGS
from tl3d_keras.manifest import Manifest

FLAGS = flags.FlagValues()
_DATASET_DIR = flags.DEFINE_string(
    "dataset_dir", None, "Data set folder.", required=True, flag_values=FLAGS
)
_WORK_DIR = flags.DEFINE_string(
    "work_dir", None, "Folder for the records.", required=True, flag_values=FLAGS
)
_ROUNDS = 3


def main() -> None:
    """Shards, reads and prints the table."""
    load_tensorflow()
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    dataset = layouts.read_layout(Path(_DATASET_DIR.value))
    work_dir = Path(_WORK_DIR.value)
    written = {
        encoding: shard_dataset(dataset, work_dir / encoding, ShardOptions(encoding=encoding))
        for encoding in ENCODINGS
    }
    files = [p for case in dataset.cases for p in (*case.images, case.label) if p]
    annotated = sum(c.coverage["annotated"]["voxels"] for c in written["raw"].cases)
    sizes = {"sources": sum(file.stat().st_size for file in files)} | {
        name: sum(shard.bytes for shard in found.shards) for name, found in written.items()
    }
    readers: dict[str, Callable[[], None]] = {"sources": lambda: _read_sources(files)} | {
        name: lambda name=name, found=found: _read_records(work_dir / name, found)
        for name, found in written.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in readers}
    for _ in range(_ROUNDS):
        for name, read in readers.items():
            start = time.perf_counter()
            read()
            seconds[name].append(time.perf_counter() - start)
    print(f"{len(dataset.cases)} cases, {annotated:,} annotated voxels, one thread")
    print("what         MiB  of the sources  bytes per annotated voxel  seconds, min  sources / it")
    for name, times in seconds.items():
        size = sizes[name]
        print(
            f"{name:8}  {size / 2**20:6.1f}  {size / sizes['sources']:14.2f}  "
            f"{size / annotated:25.2f}  {np.median(times):7.2f}, {min(times):.2f}  "
            f"{np.median(seconds['sources']) / np.median(times):12.1f}"
        )


def _read_sources(files: list[Path]) -> None:
    for file in files:
        sitk.GetArrayFromImage(sitk.ReadImage(str(file)))


def _read_records(folder: Path, found: Manifest) -> None:
    from tl3d_keras import stored_case

    for case in found.cases:
        stored_case.read(folder, found, case)


if __name__ == "__main__":
    run(main, FLAGS)
