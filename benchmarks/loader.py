"""Patches a second of the input pipeline, of MONAI and of nobrainer, in turns on one machine.

    python -m benchmarks.loader --records_dir=RECORDS --dataset_dir=LEFT_ATRIUM \\
        --monai_python=MONAI/bin/python --nobrainer_python=NOBRAINER/bin/python

takes some 3 minutes on two cores. LEFT_ATRIUM is a Decathlon folder, RECORDS what data_tools.shard
makes of it. The rivals have environments of their own, which this sets up:

    python3.11 -m venv MONAI && MONAI/bin/pip install monai==1.5.1 nibabel==5.3.2 torch==2.13.0
    python3.11 -m venv NOBRAINER && NOBRAINER/bin/pip install nobrainer==1.2.1 tensorflow==2.15.1

(a torch for processors suffices). All give batches of float32 patches with their labels, flipped
and with one drawn contrast, brightness and noise each, in every patch:

- ours: anywhere, a third of them on the structure; flips along two axes; z-scores of the volume;
  once with all cases held in memory, once with cases read for every visit, as beyond 1 GiB;
- MONAI: the same, z-scores in its cache;
- nobrainer: blocks of a fixed grid out of its records (float32, always compressed), shuffled; its
  own flip along its one axis, z-scores of the block and noise; contrast and brightness, which it
  cannot draw, by TensorFlow; all in one parallel map, with a prefetch behind.

Without rivals it measures the input pipeline alone, such as patches of the paper's size
out of scans of 300^3:

    python -m data_tools.phantom --output_dir=CT --num_cases=3 --shape=300,300,300 \\
        --spacing=1.3,1.3,1.3
    python -m data_tools.shard --dataset_dir=CT --output_dir=CT_RECORDS
    python -m benchmarks.loader --records_dir=CT_RECORDS --patch_size=132 --patches=60

With --step it trains the paper's network (some 10 s a step on two cores) and prints the share of
the time that the steps wait for data.
"""

import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from absl import flags

from data_tools.command import load_tensorflow, run

FLAGS = flags.FlagValues()
_RECORDS_DIR = flags.DEFINE_string(
    "records_dir", None, "Records.", required=True, flag_values=FLAGS
)
_DATASET_DIR = flags.DEFINE_string(
    "dataset_dir", None, "The same cases as a Decathlon folder, for the rivals.", flag_values=FLAGS
)
_MONAI = flags.DEFINE_string("monai_python", None, "Python with MONAI.", flag_values=FLAGS)
_NOBRAINER = flags.DEFINE_string(
    "nobrainer_python", None, "Python with nobrainer.", flag_values=FLAGS
)
_PATCH_SIZE = flags.DEFINE_integer("patch_size", 48, "Voxels an axis.", flag_values=FLAGS)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 4, "Patches a batch.", flag_values=FLAGS)
_PATCHES = flags.DEFINE_integer("patches", 1000, "Patches timed a run.", flag_values=FLAGS)
_REPEATS = flags.DEFINE_integer("repeats", 3, "Runs, in turns.", flag_values=FLAGS)
_AUGMENTATION = flags.DEFINE_enum(
    "augmentation", "light", ["none", "light", "full"], "Of ours.", flag_values=FLAGS
)
_STEP = flags.DEFINE_bool("step", False, "Time training steps instead.", flag_values=FLAGS)
_CONFIG = flags.DEFINE_string("config", None, "Of one run of ours, as JSON.", flag_values=FLAGS)

_RIVALS = Path(__file__).parent / "rivals"


def main() -> None:
    """Measures."""
    if _CONFIG.value:
        load_tensorflow()
        print(json.dumps(_ours(_RECORDS_DIR.value, json.loads(_CONFIG.value))))
        return
    if _STEP.value:
        load_tensorflow()
        _time_steps(_RECORDS_DIR.value, _AUGMENTATION.value)
        return
    config = {
        "dataset_dir": _DATASET_DIR.value,
        "patch_size": _PATCH_SIZE.value,
        "batch_size": _BATCH_SIZE.value,
        "patches": _PATCHES.value,
        "warm_up": max(4, _PATCHES.value // 5),
    }
    ours = ["-m", "benchmarks.loader", f"--records_dir={_RECORDS_DIR.value}", "--config"]
    runs: dict[str, tuple[list[str], dict[str, Any]]] = {
        f"tl3d-keras, {_AUGMENTATION.value}, {how}": (
            [sys.executable, *ours],
            # More patches, for about as many seconds as the rivals take.
            {"augmentation": _AUGMENTATION.value, "hold": hold, "patches": more * _PATCHES.value},
        )
        for how, hold, more in (("held", True, 4), ("read", False, 1))
    }
    if _MONAI.value:
        for loader in ("processes", "threads"):
            command = [_MONAI.value, str(_RIVALS / "monai_patches.py")]
            runs[f"MONAI CacheDataset, 2 {loader}"] = command, {"loader": loader}
    if _NOBRAINER.value:
        runs["nobrainer"] = [_NOBRAINER.value, str(_RIVALS / "nobrainer_patches.py")], {}
    _print_table(runs, config, _REPEATS.value)


def _print_table(
    runs: dict[str, tuple[list[str], dict[str, Any]]], config: dict[str, Any], repeats: int
) -> None:
    found: dict[str, list[dict[str, float]]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, (command, own) in runs.items():
            output = subprocess.run(
                [*command, json.dumps(config | own)],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL if name == "nobrainer" else None,
                check=True,
                text=True,
            ).stdout
            found[name].append(json.loads(output.splitlines()[-1]))
    size = config["patch_size"]
    print(f"{f'patches of {size}^3 a second':32}{'median':>8}{'min':>8}{'max':>8}{'peak MiB':>10}")
    for name, results in found.items():
        rates = [result["rate"] for result in results]
        print(
            f"{name:32}{statistics.median(rates):8.1f}{min(rates):8.1f}{max(rates):8.1f}"
            f"{max(result['peak_mib'] for result in results):10.0f}"
        )


def _batches(records_dir: str, config: dict[str, Any], label_size: int) -> Any:
    from tl3d_keras import augmentation, case_source, input_pipeline, manifest, run_parts
    from tl3d_keras.run_settings import RunSettings

    loaded = manifest.load(records_dir)
    if not config.get("hold", True):
        fewer = sum(case_source.most_bytes(case) for case in loaded.cases) - 1
        input_pipeline.OPEN_BYTES = min(input_pipeline.OPEN_BYTES, fewer)
    return loaded, iter(
        input_pipeline.training_batches(
            records_dir,
            loaded,
            loaded.cases,
            input_pipeline.PatchSettings(
                (config["patch_size"],) * 3,
                (label_size,) * 3,
                config["batch_size"],
                run_parts.choose_intensity(RunSettings(records_dir), loaded, base=None),
                augmentation.preset(config["augmentation"], loaded.spacing, (0, 1)),
            ),
        )
    )


def _ours(records_dir: str, config: dict[str, Any]) -> dict[str, float]:
    batch, size = config["batch_size"], config["patch_size"]
    _, batches = _batches(records_dir, config, size)
    for _ in range(-(-config["warm_up"] // batch)):
        next(batches)
    start = time.perf_counter()
    count = -(-config["patches"] // batch)
    for _ in range(count):
        next(batches)
    seconds = time.perf_counter() - start
    return {"rate": count * batch / seconds, "peak_mib": _peak_mib()}


def _time_steps(records_dir: str, preset: str, steps: int = 4) -> None:
    import tensorflow as tf

    import tl3d_keras

    config = {"patch_size": 132, "batch_size": 1, "augmentation": preset}
    loaded, batches = _batches(records_dir, config, 44)
    network = tl3d_keras.base_model(len(loaded.structures) + 1, input_channels=len(loaded.channels))
    network.compile(tf.keras.optimizers.Adam(1e-4), tl3d_keras.losses.MaskedCrossEntropyDice())
    waited = trained = 0.0
    for step in range(steps + 1):
        start = time.perf_counter()
        batch = next(batches)
        drawn = time.perf_counter()
        network.train_on_batch(batch["image"], batch["labels"])
        # The first step traces.
        if step:
            waited += drawn - start
            trained += time.perf_counter() - drawn
    print(
        f"{steps} steps of {trained / steps:.2f} s, waiting for data {waited / steps * 1e3:.1f} ms "
        f"each: {waited / (waited + trained):.2%}; peak {_peak_mib():.0f} MiB"
    )


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    run(main, FLAGS)
