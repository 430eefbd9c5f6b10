"""Minutes until a mean Dice of 0.80 on hippocampus from 16 cases, and what changes them.

    python -m benchmarks.time_to_dice --data_dir=DATA --output_dir=OUT

DATA/hippocampus is that task of the Medical Segmentation Decathlon. The cases are those of
experiments/studies/hippocampus.json: the first 16 to train, of which the last 4 are held out and
validated whole every 25 steps; their Dice decides when 0.80 is reached, and which weights are kept.
The test cases are seen once, when a run is over. Minutes are those of the whole run up to then:
validation, logs and checkpoints included, but not the import of TensorFlow. Rows that are done stay
in OUT/results.json; about an hour on two cores for all.
"""

import csv
import json
import re
import shutil
import statistics
import time
from pathlib import Path
from typing import Any

from absl import flags

from data_tools.command import load_tensorflow, run
from tl3d_keras.text_table import aligned, number

FLAGS = flags.FlagValues()
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Holds hippocampus.", required=True, flag_values=FLAGS
)
_OUTPUT_DIR = flags.DEFINE_string(
    "output_dir", None, "Gets records, runs and results.", required=True, flag_values=FLAGS
)
_VARIANTS = flags.DEFINE_list("variants", [], "Rows; default all.", flag_values=FLAGS)
_TARGET = flags.DEFINE_float("target", 0.8, "Mean Dice to be reached.", flag_values=FLAGS)
_CASES = flags.DEFINE_integer("cases", 16, "Cases used in training.", flag_values=FLAGS)
_HELD_OUT = flags.DEFINE_integer("held_out", 4, "Of these, validated on.", flag_values=FLAGS)
_EVERY = flags.DEFINE_integer("every", 25, "Steps between validations.", flag_values=FLAGS)
_STEPS = flags.DEFINE_integer(
    "steps", None, "In place of each row's, to try this out.", flag_values=FLAGS
)
_SEED = flags.DEFINE_integer("seed", 0, "Of every run.", flag_values=FLAGS)

_STUDY = Path(__file__).parents[1] / "experiments" / "studies" / "hippocampus.json"
_DEFAULT: dict[str, Any] = {
    "filters": 8,
    "levels": 4,
    "padding": "same",
    "normalization": "instance",
    "patch_size": (40, 48, 40),
    "batch_size": 2,
    "learning_rate": 3e-3,
    "steps": 400,
}
_CHANGES: dict[str, dict[str, Any]] = {
    "default": {},
    "patch 32": {"patch_size": (32, 32, 32)},
    "patch 24": {"patch_size": (24, 24, 24)},
    "batch 1": {"batch_size": 1},
    "batch 4": {"batch_size": 4},
    "rate 0.001": {"learning_rate": 1e-3},
    "rate 0.01": {"learning_rate": 1e-2},
    "200 steps": {"steps": 200},
    "constant rate": {"schedule": "constant"},
    "warm-up": {"warmup_steps": 40},
    "no normalization": {"normalization": None},
    "group normalization": {"normalization": "group"},
    "EMA 0.99": {"ema": 0.99},
    "no augmentation": {"augmentation": "none"},
    "float32": {"precision": "float32"},
    "from phantom_ct": {"mode": "transfer", "base": "phantom_ct"},
    "200 steps from phantom_ct": {"mode": "transfer", "base": "phantom_ct", "steps": 200},
}


def main() -> None:
    """Trains row by row, and prints the table."""
    load_tensorflow()
    output_dir = Path(_OUTPUT_DIR.value)
    data = _records(output_dir)
    path = output_dir / "results.json"
    results = json.loads(path.read_text()) if path.is_file() else {}
    for name in _VARIANTS.value or _CHANGES:
        if name not in results:
            results[name] = _trained(name, data, output_dir / "runs" / name.replace(" ", "_"))
            path.write_text(json.dumps(results, indent=1))
            print(f"{name}: {results[name]}", flush=True)
    heads = ["", f"minutes to {_TARGET.value}", "steps", "of", "minutes", "validation", "test"]
    rows = [
        [
            name,
            number(row["minutes"], 2),
            number(row["step"], 0),
            str(row["steps"]),
            number(row["all_minutes"], 2),
            number(row["validation"], 3),
            number(row["test"], 3),
        ]
        for name, row in results.items()
    ]
    print("\n".join(aligned([heads, *rows])))


def _records(output_dir: Path) -> Any:
    from data_tools.study import study_file, task_dataset, task_records

    task = study_file.load(_STUDY).tasks["hippocampus"]
    data_dir, folder = Path(_DATA_DIR.value), output_dir / "records"
    order, test = study_file.splits_of(task, data_dir, _STUDY.parent)
    dataset = task_dataset.read(task, data_dir, _STUDY.parent)
    names = order[: _CASES.value]
    train, tested = task_records.make(task, dataset, (names, test), folder, 2, lambda _: None)
    return task_records.TaskData(folder, train, tested, tuple(names), ())


def _trained(name: str, data: Any, folder: Path) -> dict[str, float | None]:
    import tensorflow as tf

    from data_tools.study import cell_run
    from tl3d_keras import run_settings, training_run

    values = _DEFAULT | _CHANGES[name] | ({"steps": _STEPS.value} if _STEPS.value else {})
    settings = run_settings.RunSettings(
        str(data.folder / "train"),
        num_validation=_HELD_OUT.value,
        steps_per_epoch=_EVERY.value,
        seed=_SEED.value,
        **values,
    )
    tf.keras.backend.clear_session()
    shutil.rmtree(folder, ignore_errors=True)
    begun, ended = time.monotonic(), {}

    def say(line: str) -> None:
        step = re.match(r"step (\d+)/", line)
        if step:
            ended[int(step[1])] = (time.monotonic() - begun) / 60

    model = training_run.run(settings, folder, say, report=False)
    minutes = (time.monotonic() - begun) / 60
    with open(folder / "metrics.csv", newline="") as file:
        dice = {int(row["step"]): float(row["validation_dice"]) for row in csv.DictReader(file)}
    reached = next((step for step, found in dice.items() if found >= _TARGET.value), None)
    scores = cell_run.score(model, settings, data, surfaces=False)
    return {
        "minutes": ended[reached] if reached else None,
        "step": reached,
        "steps": settings.steps,
        "all_minutes": minutes,
        "validation": max(dice.values()),
        "test": statistics.mean(
            found.dice
            for case in scores.values()
            for found in case.values()
            if found.dice is not None
        ),
    }


if __name__ == "__main__":
    run(main, FLAGS)
