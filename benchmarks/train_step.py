"""Seconds of a training step of the paper's network: bare, by our `fit`, checkpointed, in PyTorch.

    python -m benchmarks.train_step --torch_python=TORCH/bin/python

takes some 15 minutes on two cores and 12 GiB. PyTorch has an environment of its own:

    python3.11 -m venv TORCH && TORCH/bin/pip install torch==2.13.0

Every way has a process of its own with one batch that stays in memory. All take turns, and ratios
are medians over turns; CPU seconds, of all threads, tell where the machine has other work. `bare`
is a `tf.function` of forward pass, loss, gradient and Adam; `fit` is all of a training run but
reading records: guard, metrics, callbacks, run folder; `unguarded` is `fit` without the guard, and
`checkpointed` with `--gradient_checkpointing`. PyTorch computes in the faster of its two memory
formats. To expect: `fit` at most 1.03 times `bare`, of which the guard is less than 0.01;
`checkpointed` at most 1.35 times `fit` in half the memory; PyTorch 1.5 times `fit` or more.
"""

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from absl import flags

from benchmarks.worker import Worker
from data_tools.command import load_tensorflow, run
from tl3d_keras.text_table import aligned

FLAGS = flags.FlagValues()
_SIZE = flags.DEFINE_integer("size", 132, "Of the patch, each axis.", flag_values=FLAGS)
_FILTERS = flags.DEFINE_integer("filters", 32, "Of the first convolution.", flag_values=FLAGS)
_LEVELS = flags.DEFINE_integer("levels", 4, "Resolutions.", flag_values=FLAGS)
_CLASSES = flags.DEFINE_integer("classes", 23, "Background included.", flag_values=FLAGS)
_TURNS = flags.DEFINE_integer("turns", 5, "Of every way.", lower_bound=1, flag_values=FLAGS)
_STEPS = flags.DEFINE_integer("steps", 1, "A turn.", lower_bound=1, flag_values=FLAGS)
_PRECISIONS = flags.DEFINE_list(
    "precisions", ["float32", "mixed_bfloat16"], "Policies.", flag_values=FLAGS
)
_WAYS = flags.DEFINE_list(
    "ways", ["bare", "fit", "unguarded", "checkpointed"], "Of ours.", flag_values=FLAGS
)
_TORCH = flags.DEFINE_string("torch_python", None, "Python with PyTorch.", flag_values=FLAGS)
_RUN = flags.DEFINE_string("run", None, "One way, as JSON.", flag_values=FLAGS)

_RIVAL = Path(__file__).parent / "rivals" / "torch_step.py"
_RATIOS = (("fit", "bare"), ("fit", "unguarded"), ("checkpointed", "fit"), ("PyTorch", "fit"))
# Steps between checkpoints unless the user says otherwise, and steps that are not timed.
_EPOCH, _FIRST_STEPS = 100, 2


def main() -> None:
    """Prints a table a precision."""
    load_tensorflow()
    if _RUN.value:
        config = json.loads(_RUN.value)
        (_bare if config["way"] == "bare" else _fit)(config)
        return
    from tl3d_keras.geometry import Geometry

    config = {
        "size": _SIZE.value,
        "output": Geometry(_LEVELS.value, "valid").output_size(_SIZE.value),
        "filters": _FILTERS.value,
        "levels": _LEVELS.value,
        "classes": _CLASSES.value,
        "turns": _TURNS.value,
        "steps": _STEPS.value,
    }
    for precision in _PRECISIONS.value:
        _compare(config | {"precision": precision})


def _compare(config: dict[str, Any]) -> None:
    ours = [sys.executable, "-m", "benchmarks.train_step"]
    commands = {way: [*ours, f"--run={json.dumps(config | {'way': way})}"] for way in _WAYS.value}
    if _TORCH.value:
        commands["PyTorch"] = [_TORCH.value, str(_RIVAL), json.dumps(config)]
    print(f"{config['precision']}, {config['size']}^3, {config['filters']} filters")
    workers = {name: Worker(name, command) for name, command in commands.items()}
    turns: dict[str, list[float]] = {name: [] for name in workers}
    cpu: dict[str, list[float]] = {name: [] for name in workers}
    peaks = {}
    for _ in range(config["turns"]):
        for name, worker in workers.items():
            found = worker.turn()
            turns[name].append(found["seconds"])
            cpu[name].append(found["cpu"])
            peaks[name] = found["peak"]
    rows = [["", "median s", "least", "most", "CPU s", "peak GiB"]]
    for name, seconds in turns.items():
        figures = [statistics.median(seconds), min(seconds), max(seconds)]
        figures += [statistics.median(cpu[name]), peaks[name] / 2**30]
        rows.append([name, *(f"{figure:.2f}" for figure in figures)])
    print("\n".join(f"  {line}" for line in aligned(rows)))
    for name, other in _RATIOS:
        if name in turns and other in turns:
            ratios = [a / b for a, b in zip(turns[name], turns[other], strict=True)]
            print(
                f"  {name} / {other}: {statistics.median(ratios):.3f} ({min(ratios):.3f} to "
                f"{max(ratios):.3f}), memory {peaks[name] / peaks[other]:.2f}"
            )
    for name, worker in workers.items():
        end = worker.end()
        if end:
            share = end["seconds"] / (_EPOCH * statistics.median(turns[name]))
            print(f"  {name}: an epoch's end {end['seconds']:.2f} s, {share:.2%} of {_EPOCH} steps")
    sys.stdout.flush()


def _bare(config: dict[str, Any]) -> None:
    import tensorflow as tf

    from tl3d_keras.optimizers import OptimizerPlan, build, make_optimizer

    network, loss, batch = _parts(config)
    rule = make_optimizer(OptimizerPlan(), 1e-3, 1000, config["precision"])
    build(rule, network.trainable_weights)

    @tf.function(autograph=False)
    def step() -> tf.Tensor:
        with tf.GradientTape() as tape:
            logits = network.logits(batch["image"], training=True)
            value = loss.value(batch["labels"], logits, batch["annotated"])
        gradients = tape.gradient(value, network.trainable_weights)
        rule.apply_gradients(zip(gradients, network.trainable_weights, strict=True))
        return value

    turns = _Turns(network.count_params(), config["steps"])
    for _ in range(_FIRST_STEPS + config["turns"] * config["steps"]):
        turns.before_step()
        step().numpy()
    turns.before_step()


def _fit(config: dict[str, Any]) -> None:
    import tensorflow as tf

    from tl3d_keras import training
    from tl3d_keras.callbacks import Progress, Watching
    from tl3d_keras.guards import Guard
    from tl3d_keras.run_folder import RunFolder
    from tl3d_keras.stages import Stage

    class Unguarded(Guard):
        def apply(self, optimizer: Any, loss: Any, gradients: Any, take: Any) -> Any:
            take(gradients)
            return tf.constant(True)

    if config["way"] == "unguarded":
        training.Guard = Unguarded
    network, loss, batch = _parts(config)
    turns = _Turns(network.count_params(), config["steps"])

    class TakingTurns(Progress):
        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            turns.before_step()

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            turns.before_step()

    steps = _FIRST_STEPS + config["turns"] * config["steps"]
    with tempfile.TemporaryDirectory() as path:
        folder = RunFolder(path, {})
        training.train(
            network,
            lambda _: tf.data.Dataset.from_tensors(batch).repeat().prefetch(1),
            [Stage("all", steps, 1e-3)],
            folder,
            tf.distribute.get_strategy(),
            loss,
            steps_per_epoch=steps,
            watching=Watching(TakingTurns()),
            checkpointing=config["way"] == "checkpointed",
        )
        print(json.dumps({"seconds": turns.since_last()}), flush=True)
        folder.close()


def _parts(config: dict[str, Any]) -> Any:
    """A network, its loss and a batch."""
    import tensorflow as tf

    from tl3d_keras import losses
    from tl3d_keras.unet3d import UNet3D

    tf.keras.utils.set_random_seed(0)
    network = UNet3D(
        config["classes"], config["filters"], config["levels"], dtype=config["precision"]
    )
    labels = tf.random.uniform([1, *[config["output"]] * 3]) * config["classes"]
    batch = {
        "image": tf.random.normal([1, *[config["size"]] * 3, 1]),
        "labels": tf.cast(labels, tf.uint8),
        "annotated": tf.ones([1, config["classes"]], tf.uint8),
    }
    return network, losses.MaskedCrossEntropyDice(from_logits=True), batch


class _Turns:
    """Waits for a line before every so many steps, and tells how long they took.

    Args:
        parameters: to be told when the first steps, which are not timed, are over.
        steps: of a turn.
    """

    def __init__(self, parameters: int, steps: int) -> None:
        from tl3d_keras import memory

        self._ready, self._steps = {"parameters": parameters}, steps
        self._before, self._count = memory.resident_memory(), -_FIRST_STEPS

    def before_step(self) -> None:
        """To be called before each step, and after the last."""
        import resource

        if self._count >= 0 and self._count % self._steps == 0:
            told: dict[str, float] = self._ready
            if self._count:
                peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
                told = {
                    "seconds": self.since_last() / self._steps,
                    "cpu": (time.process_time() - self._cpu) / self._steps,
                    "peak": peak - self._before,
                }
            print(json.dumps(told), flush=True)
            sys.stdin.readline()
            self._start, self._cpu = time.perf_counter(), time.process_time()
        self._count += 1

    def since_last(self) -> float:
        """Seconds since the last turn began or, at the end, was over."""
        return time.perf_counter() - self._start


if __name__ == "__main__":
    run(main, FLAGS)
