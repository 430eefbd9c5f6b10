"""Seconds that a volume's segmentation takes: this one, the authors' way, MONAI and medic-ai.

    python -m benchmarks.segment --monai_python=MONAI/bin/python \\
        --medicai_python=MEDICAI/bin/python

takes 5 to 8 minutes on two cores. The rivals have environments of their own, which this sets up (a
torch for processors suffices):

    python3.11 -m venv MONAI && MONAI/bin/pip install monai==1.5.1 torch==2.13.0
    python3.11 -m venv MEDICAI && MEDICAI/bin/pip install medicai==0.0.4 tensorflow==2.21.0

All segment the same random volume with the paper's network at equal filters, levels and classes.
This one and the authors' way (float32, Keras's own layers, 132^3 in, 44^3 out) have valid padding;
sliding windows of 96^3 with an overlap of 0.25 need same padding. Beside the seconds it prints the
arithmetic of the layers as they stand for this volume in one tile, over the seconds, as a share of
what a matrix multiplication of 4096^3 reaches in TensorFlow in the same precision: it can be above
1, for convolutions of upsampled features are folded. Then it prints what reading, resampling there
and back, and writing add to the inference alone, and how long the command takes from start to end
with a scan of one small tile.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from data_tools.command import load_tensorflow, run

FLAGS = flags.FlagValues()
_SHAPE = flags.DEFINE_list("shape", ["132", "132", "132"], "Z,Y,X.", flag_values=FLAGS)
_FILTERS = flags.DEFINE_integer("filters", 16, "Of the first convolution.", flag_values=FLAGS)
_CLASSES = flags.DEFINE_integer("classes", 23, "Background included.", flag_values=FLAGS)
_PRECISIONS = flags.DEFINE_list(
    "precisions", ["float32", "mixed_bfloat16"], "Policies.", flag_values=FLAGS
)
_REPEATS = flags.DEFINE_integer("repeats", 3, "Runs, of which the fastest.", flag_values=FLAGS)
_MONAI = flags.DEFINE_string("monai_python", None, "Python with MONAI.", flag_values=FLAGS)
_MEDICAI = flags.DEFINE_string("medicai_python", None, "Python with medic-ai.", flag_values=FLAGS)
_RUN = flags.DEFINE_string("run", None, "One run of ours, as JSON.", flag_values=FLAGS)

_RIVALS = Path(__file__).parent / "rivals"
_OURS = "tl3d-keras"


def main() -> None:
    """Prints a table a precision."""
    if _RUN.value:
        load_tensorflow()
        config = json.loads(_RUN.value)
        print(json.dumps(globals()[f"_{config['what']}"](config)))
        return
    config = {
        "shape": [int(n) for n in _SHAPE.value],
        "filters": _FILTERS.value,
        "classes": _CLASSES.value,
        "repeats": _REPEATS.value,
    }
    for precision in _PRECISIONS.value:
        now = config | {"precision": precision}
        found = {_OURS: _run(now | {"what": "ours"})}
        for name, python, script in (
            ("authors' way (float32)", sys.executable, "authors_segment.py"),
            ("MONAI sliding window", _MONAI.value, "monai_segment.py"),
            ("medic-ai sliding window", _MEDICAI.value, "medicai_segment.py"),
        ):
            if python:
                found[name] = _json([python, str(_RIVALS / script), json.dumps(now)])
        ours = found[_OURS]
        print(f"{precision}, {'x'.join(map(str, config['shape']))}, {_FILTERS.value} filters")
        for name, result in found.items():
            ratio = result["seconds"] / ours["seconds"]
            print(f"  {name:28}{result['seconds']:8.2f} s{ratio:8.2f} x")
        print(
            f"  {ours['rate']:.0f} GFLOP/s of the layers as they stand, {ours['folded']:.0f} after "
            f"folding; matrix multiplication {ours['peak']:.0f}: share {ours['share']:.2f}"
        )
        print(
            f"  at equal rate and precision arithmetic allows at most {ours['more']:.2f} x the "
            "authors' way, which computes its tiles' borders again and again and folds nothing"
        )
        whole = _run(now | {"what": "end_to_end"})
        print(
            f"  read, resample, infer, resample back, write {whole['seconds']:.2f} s: "
            f"{whole['seconds'] / whole['alone']:.2f} x inference alone"
        )
        print(f"  the command with a scan of one small tile: {whole['command']:.1f} s", flush=True)


def _run(config: dict[str, Any]) -> dict[str, Any]:
    return _json([sys.executable, "-m", "benchmarks.segment", f"--run={json.dumps(config)}"])


def _json(command: list[str]) -> dict[str, Any]:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def _ours(config: dict[str, Any]) -> dict[str, float]:
    import tensorflow as tf

    from tl3d_keras import tile_cost

    network, segmenter = _segmenter(config)
    image = _image(config["shape"])
    numbers = tf.cast(tf.random.normal([4096, 4096]), network.get_layer("head").compute_dtype)
    multiply = tf.function(lambda: tf.matmul(numbers, numbers), autograph=False)
    # In turns, for what else runs on the machine is not the same for long.
    seconds, multiplied = [], []
    for _ in range(config["repeats"] + 1):
        multiplied.append(_seconds(lambda: multiply().numpy()))
        seconds.append(_seconds(lambda: segmenter.labels(image)))
    size = tuple(network.geometry.input_size(n) for n in config["shape"])
    cost = tile_cost.Network.of(network.get_config(), config["precision"])
    best = min(seconds[1:])
    peak = 2 * 4096**3 / min(multiplied[1:])
    rate = tile_cost.nominal_flops(cost, size) / best
    tiles = prod(-(-n // 44) for n in config["shape"])
    authors = tiles * tile_cost.nominal_flops(cost, (132, 132, 132))
    return {
        "seconds": best,
        "rate": rate / 1e9,
        "folded": tile_cost.of_tile(cost, size).flops / best / 1e9,
        "peak": peak / 1e9,
        "share": rate / peak,
        "more": authors / tile_cost.of_tile(cost, size).flops,
    }


def _end_to_end(config: dict[str, Any]) -> dict[str, float]:
    from tl3d_keras import artifact, inference, resampling, volume_io
    from tl3d_keras.intensity import Intensity
    from tl3d_keras.volumes import Volume

    network, segmenter = _segmenter(config)
    # Slices half as many and twice as thick, pixels finer.
    z, y, x = config["shape"]
    rng = np.random.default_rng(0)
    coarse = rng.normal(0, 200, (z // 8 + 1, y // 8 + 1, x // 8 + 1, 1)).astype(np.int16)
    smooth = resampling.resample_image(Volume(coarse, (12.0,) * 3), (3.0, 1.0, 1.0))
    with tempfile.TemporaryDirectory() as folder:
        scan, labels = Path(folder) / "scan.nii.gz", Path(folder) / "labels.nii.gz"
        volume_io.write(scan, smooth)
        seen = resampling.to_grid(smooth, (1.5,) * 3).array

        def whole() -> None:
            found = inference.segment(volume_io.read(scan), segmenter, (1.5,) * 3)
            volume_io.write(labels, found)

        segmenter.labels(seen)
        alone, seconds = [], []
        for _ in range(config["repeats"]):
            alone.append(_seconds(lambda: segmenter.labels(seen)))
            seconds.append(_seconds(whole))
        small = Path(folder) / "small.nii.gz"
        volume_io.write(small, Volume(coarse[:8, :8, :8], (1.5,) * 3))
        info = artifact.ModelInfo(
            network.structures,
            ("CT",),
            (1.5,) * 3,
            Intensity("window", (-500.0,), (400.0,)),
            (132,) * 3,
        )
        artifact.save(network, info, Path(folder) / "model")
        command = [sys.executable, "-m", "experiments.segment", f"--model={folder}/model"]
        command += [f"--input={small}", f"--output={labels}", f"--precision={config['precision']}"]
        started = _seconds(
            lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ)
        )
    return {"seconds": min(seconds), "alone": min(alone), "command": started}


def _segmenter(config: dict[str, Any]) -> Any:
    import tensorflow as tf

    from tl3d_keras.inference import Segmenter
    from tl3d_keras.intensity import Intensity
    from tl3d_keras.unet3d import UNet3D

    tf.keras.utils.set_random_seed(0)
    network = UNet3D(config["classes"], config["filters"], dtype=config["precision"])
    return network, Segmenter(network, Intensity("window", (-500.0,), (400.0,)))


def _image(shape: list[int]) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 300, (*shape, 1)).astype(np.float32)


def _seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


if __name__ == "__main__":
    run(main, FLAGS)
