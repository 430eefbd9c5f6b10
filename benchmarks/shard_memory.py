"""Peak memory of data_tools.shard over 1, 10 and 100 cases, against --memory_gib.

    python benchmarks/shard_memory.py --work_dir=FOLDER

makes CT-like volumes of 128 x 256 x 256 voxels, shards them with two workers, and adds up what all
its processes hold (proportional set size, sampled twenty times a second). About ten minutes on two
cores.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from absl import flags

from data_tools.command import run
from tl3d_keras import volume_io
from tl3d_keras.volumes import Volume

FLAGS = flags.FlagValues()
_WORK_DIR = flags.DEFINE_string(
    "work_dir", None, "Folder for data set and records.", required=True, flag_values=FLAGS
)
_MEMORY_GIB = flags.DEFINE_list("memory_gib", ["1.5", "3"], "Limits to try.", flag_values=FLAGS)
_CASES = flags.DEFINE_list("cases", ["1", "10", "100"], "Numbers of cases.", flag_values=FLAGS)
_SHAPE, _SPACING = (128, 256, 256), (2.0, 1.0, 1.0)


def main() -> None:
    """Prints a line for each number of cases and limit."""
    work_dir = Path(_WORK_DIR.value)
    print("cases  --memory_gib  peak GiB  seconds")
    for number in (int(n) for n in _CASES.value):
        dataset_dir = work_dir / f"set_{number}"
        _write_dataset(dataset_dir, number)
        for limit in _MEMORY_GIB.value:
            start = time.perf_counter()
            peak = _peak_of_shard(dataset_dir, work_dir / "records", limit)
            seconds = time.perf_counter() - start
            print(f"{number:5}  {limit:>12}  {peak / 2**30:8.2f}  {seconds:7.1f}", flush=True)


def _write_dataset(folder: Path, number: int) -> None:
    rng = np.random.default_rng(0)
    image = rng.normal(0, 100, _SHAPE).astype(np.int16)
    labels = np.zeros(_SHAPE, np.uint8)
    labels[40:90, 60:200, 60:200] = 1
    labels[::2] = 255
    for name, array in (("image.nii.gz", image), ("label.nii.gz", labels)):
        volume_io.write(folder / name, Volume(array[..., np.newaxis], _SPACING))
    pairs = []
    for case in range(number):
        for name in ("image", "label"):
            link = folder / f"{name}_{case:03d}.nii.gz"
            link.unlink(missing_ok=True)
            link.hardlink_to(folder / f"{name}.nii.gz")
        pairs.append({n: f"{n}_{case:03d}.nii.gz" for n in ("image", "label")})
    content = {"modality": {"0": "CT"}, "labels": {"1": "liver"}, "training": pairs}
    (folder / "dataset.json").write_text(json.dumps(content))


def _peak_of_shard(dataset_dir: Path, records_dir: Path, memory_gib: str) -> int:
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "data_tools.shard", "--overwrite", "--workers=2"),
            *(f"--dataset_dir={dataset_dir}", f"--output_dir={records_dir}"),
            *(f"--memory_gib={memory_gib}", "--spacing=1.5,1.2,1.2"),
        ],
        stdout=subprocess.DEVNULL,
    )
    peak = 0
    while process.poll() is None:
        peak = max(peak, sum(_memory_of(pid) for pid in _family(process.pid)))
        time.sleep(0.05)
    if process.returncode:
        sys.exit(f"data_tools.shard ended with {process.returncode}")
    return peak


def _family(pid: int) -> list[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [pid, *(p for child in children for p in _family(int(child)))]


def _memory_of(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:"))


if __name__ == "__main__":
    run(main, FLAGS)
