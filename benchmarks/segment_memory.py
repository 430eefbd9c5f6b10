"""Peak memory of a segmentation against what `tl3d_keras.tile_cost` says, and against its limit.

    python -m benchmarks.segment_memory

segments in a process of its own for each line: first all in one tile, for the model, which is to
say no less than the peak and at most 25 % more; then within a limit, which the process is to keep.
Some two minutes on two cores. With --long=4,24 it segments 1500 x 512 x 512 voxels within so many
GiB for the whole process, by a small network, and takes some minutes more.
"""

import json
import subprocess
import sys
from math import prod
from pathlib import Path
from typing import Any

from absl import flags

from data_tools.command import load_tensorflow, run

FLAGS = flags.FlagValues()
_ONE = flags.DEFINE_string("one", None, "A single line, as JSON.", flag_values=FLAGS)
_LONG = flags.DEFINE_list(
    "long", [], "Segment a long scan instead, within these GiB.", flag_values=FLAGS
)

# Padding, levels, filters, shape, classes, precision, normalization, probabilities; GiB beside what
# the process holds before, less than one tile needs, for those that are computed in several, too.
_LINES: list[tuple[Any, ...]] = [
    ("valid", 4, 16, (60, 60, 100), 23, "float32", None, False, None),
    ("valid", 4, 16, (60, 60, 100), 23, "mixed_bfloat16", None, True, None),
    ("valid", 3, 8, (60, 150, 200), 5, "float32", None, True, 0.3),
    ("valid", 2, 4, (200, 200, 200), 3, "mixed_bfloat16", None, False, 0.2),
    ("same", 4, 16, (96, 96, 96), 23, "float32", None, False, None),
    ("same", 4, 16, (64, 80, 128), 23, "mixed_bfloat16", None, True, None),
    ("same", 3, 8, (128, 128, 128), 3, "mixed_bfloat16", None, False, 0.15),
    ("same", 2, 4, (200, 200, 200), 3, "float32", None, False, 0.3),
    ("same", 3, 8, (128, 128, 128), 3, "float32", "group", False, None),
    ("same", 3, 8, (128, 128, 128), 3, "mixed_bfloat16", "group", False, None),
    ("same", 3, 8, (128, 128, 128), 3, "mixed_bfloat16", "instance", False, None),
    ("same", 4, 16, (96, 96, 96), 23, "float32", "instance", True, None),
    ("same", 2, 8, (96, 96, 96), 3, "mixed_float16", None, False, None),
]
_TINY = ("valid", 3, 4, (1500, 512, 512), 3, "mixed_bfloat16", None, False)


def main() -> None:
    """Prints a line for each network."""
    load_tensorflow()
    if _ONE.value:
        print(json.dumps(_peak(*json.loads(_ONE.value))))
        return
    if _LONG.value:
        for gib in _LONG.value:
            _print_limited((*_TINY, float(gib)), whole_process=True)
        return
    for line in _LINES:
        found = _run(line[:-1], None)
        off = found["predicted"] / found["peak"] - 1
        print(f"{_name(line)}: peak {_gib(found['peak'])}, model {off:+.0%}", flush=True)
        if line[-1]:
            _print_limited(line, whole_process=False)


def _print_limited(line: tuple[Any, ...], whole_process: bool) -> None:
    found = _run(line[:-1], line[-1], whole_process)
    used = found["peak"] + (found["before"] if whole_process else 0)
    print(
        f"{_name(line)}, {line[-1]} GiB: peak {_gib(used)} with {found['tiles']} tiles, "
        f"{found['seconds']:.0f} s",
        flush=True,
    )


def _name(line: tuple[Any, ...]) -> str:
    return " ".join("x".join(map(str, v)) if isinstance(v, tuple) else str(v) for v in line[:7])


def _gib(number: float) -> str:
    return f"{number / 2**30:.2f} GiB"


def _run(line: tuple[Any, ...], gib: float | None, whole: bool = False) -> dict[str, Any]:
    one = json.dumps([*line, gib, whole])
    command = [sys.executable, "-m", "benchmarks.segment_memory", f"--one={one}"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def _peak(
    padding: str,
    levels: int,
    filters: int,
    shape: list[int],
    classes: int,
    precision: str,
    normalization: str | None,
    probabilities: bool,
    gib: float | None,
    whole_process: bool,
) -> dict[str, Any]:
    import time

    import numpy as np

    from tl3d_keras import memory, tile_cost
    from tl3d_keras.inference import Segmenter
    from tl3d_keras.intensity import Intensity
    from tl3d_keras.unet3d import UNet3D

    network = UNet3D(classes, filters, levels, 1, padding, normalization, dtype=precision)
    window = Intensity("window", (-500.0,), (400.0,))
    before = memory.resident_memory()
    limit = None if gib is None else gib * 2**30 + (0 if whole_process else before)
    segmenter = Segmenter(network, window, limit)
    image = np.full((*shape, 1), -1000, np.int16)
    image[::2] = 100
    held = image.nbytes + prod(shape) * (4 * classes if probabilities else 1)
    axes = segmenter.plan(shape, held, probabilities)
    start = time.perf_counter()
    (segmenter.probabilities if probabilities else segmenter.labels)(image)
    size = tuple(max(span.read_size for span in spans) for spans in axes)
    cost = tile_cost.Network.of(network.get_config(), precision)
    return {
        "predicted": held + tile_cost.of_tile(cost, size, probabilities).bytes,
        "peak": _high_water() - before,
        "before": before,
        "tiles": prod(map(len, axes)),
        "seconds": time.perf_counter() - start,
    }


def _high_water() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) << 10
    raise OSError("no VmHWM")


if __name__ == "__main__":
    run(main, FLAGS)
