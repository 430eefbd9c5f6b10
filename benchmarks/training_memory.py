"""Peak memory of a training step against what `tl3d_keras.memory_model` says.

    python -m benchmarks.training_memory

measures each network in a process of its own: peak resident memory of two steps less what was
resident before them. About six minutes on two cores; every line is to end within 25 %.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from absl import flags

from data_tools.command import load_tensorflow, run

FLAGS = flags.FlagValues()
_ONE = flags.DEFINE_string("one", None, "A single line, as JSON.", flag_values=FLAGS)

# Padding, levels, filters, patch, batch, classes, precision, normalization, checkpointing.
_LINES: list[tuple[Any, ...]] = [
    ("same", 3, 8, 64, 2, 3, "float32", None, False),
    ("same", 3, 8, 64, 2, 3, "mixed_bfloat16", None, False),
    ("same", 3, 8, 64, 2, 3, "mixed_float16", None, False),
    ("same", 3, 8, 64, 2, 3, "float32", "instance", False),
    ("same", 4, 16, 64, 2, 8, "float32", "group", False),
    ("same", 4, 16, 64, 2, 8, "mixed_bfloat16", "group", False),
    ("same", 2, 8, 64, 2, 23, "float32", None, False),
    ("same", 4, 8, 96, 1, 3, "float32", None, False),
    ("same", 3, 16, 48, 4, 3, "float32", None, False),
    ("valid", 4, 8, 132, 1, 23, "float32", None, False),
    ("valid", 4, 16, 116, 1, 23, "mixed_bfloat16", None, False),
    ("valid", 4, 32, 100, 1, 23, "float32", None, False),
    ("same", 4, 8, 80, 2, 3, "mixed_bfloat16", None, False),
    ("valid", 4, 32, 132, 1, 23, "float32", None, False),
    ("valid", 4, 32, 132, 1, 23, "float32", None, True),
    ("valid", 4, 32, 132, 1, 23, "mixed_bfloat16", None, False),
    ("valid", 4, 32, 132, 1, 23, "mixed_bfloat16", None, True),
    ("same", 4, 8, 96, 1, 3, "mixed_bfloat16", "instance", False),
    ("same", 4, 8, 96, 1, 3, "mixed_bfloat16", "instance", True),
    ("same", 4, 8, 96, 1, 3, "float32", "instance", True),
    # The model was not fitted to these.
    ("same", 3, 16, 72, 1, 5, "float32", "instance", False),
    ("same", 3, 16, 72, 1, 5, "float32", "instance", True),
    ("valid", 4, 16, 132, 1, 23, "float32", None, False),
    ("valid", 4, 16, 132, 1, 23, "float32", None, True),
    ("valid", 4, 32, 100, 1, 23, "float32", None, True),
    ("same", 3, 8, 64, 2, 3, "float32", "instance", True),
]


def main() -> None:
    """Prints a line for each network."""
    load_tensorflow()
    if _ONE.value:
        print(_peak(*json.loads(_ONE.value)))
        return
    from tl3d_keras import memory_model

    print(
        "padding levels filters patch batch classes precision normalization checkpointing: "
        "peak, model (GiB)"
    )
    worst = 0.0
    for line in _LINES:
        result = subprocess.run(
            [sys.executable, "-m", "benchmarks.training_memory", f"--one={json.dumps(line)}"],
            capture_output=True,
            text=True,
            cwd=Path(__file__).parents[1],
        )
        if result.returncode:
            sys.exit(result.stderr)
        peak = int(result.stdout.split()[-1])
        padding, levels, filters, patch, batch, classes, precision, normalization, twice = line
        found = memory_model.training_bytes(
            {
                "padding": padding,
                "levels": levels,
                "filters": filters,
                "num_classes": classes,
                "input_channels": 1,
                "normalization": normalization,
            },
            memory_model.Setup((patch,) * 3, batch, precision, twice),
        )
        off = found / peak - 1
        worst = max(worst, abs(off))
        print(f"{' '.join(map(str, line))}: {peak / 2**30:.2f}, {found / 2**30:.2f} ({off:+.0%})")
        sys.stdout.flush()
    print(f"largest difference {worst:.0%}")


def _peak(
    padding: str,
    levels: int,
    filters: int,
    patch: int,
    batch: int,
    classes: int,
    precision: str,
    normalization: str | None,
    checkpointing: bool,
) -> int:
    import tensorflow as tf

    from tl3d_keras import losses
    from tl3d_keras.optimizers import OptimizerPlan, make_optimizer
    from tl3d_keras.trainer import MaskedTrainer
    from tl3d_keras.unet3d import UNet3D

    network = UNet3D(classes, filters, levels, 1, padding, normalization, dtype=precision)
    loss = losses.MaskedCrossEntropyDice(from_logits=True)
    trainer = MaskedTrainer(network, loss, checkpointing=checkpointing)
    rule = make_optimizer(OptimizerPlan(), 1e-3, 10, precision)
    trainer.compile(optimizer=rule, jit_compile=False)
    rule.build(network.trainable_weights)
    output = network.geometry.output_size(patch)
    data = tf.data.Dataset.from_tensors(
        {
            "image": tf.random.normal([batch, *[patch] * 3, 1]),
            "labels": tf.cast(tf.random.uniform([batch, *[output] * 3]) * classes, tf.uint8),
            "annotated": tf.ones([batch, classes], tf.uint8),
        }
    ).repeat()
    before = _status("VmRSS")
    trainer.fit(data, steps_per_epoch=2, verbose=0)
    return _status("VmHWM") - before


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) << 10
    raise OSError(f"no {name}")


if __name__ == "__main__":
    run(main, FLAGS)
