"""Validation Dice and speed of a training run in half precision against float32, seed by seed.

    python -m data_tools.shard --dataset_dir=HIPPOCAMPUS --output_dir=RECORDS
    python -m benchmarks.precision --records_dir=RECORDS --output_dir=OUT

HIPPOCAMPUS is that task of the Medical Segmentation Decathlon. Each run stays in a folder of OUT,
so that the same command goes on after an interruption. To expect: a mean difference within 0.01.
"""

import csv
import json
import statistics
from pathlib import Path

from absl import flags

from data_tools.command import load_tensorflow, run
from tl3d_keras.text_table import aligned, number

FLAGS = flags.FlagValues()
_RECORDS_DIR = flags.DEFINE_string(
    "records_dir", None, "Records.", required=True, flag_values=FLAGS
)
_OUTPUT_DIR = flags.DEFINE_string(
    "output_dir", None, "Gets a folder a run.", required=True, flag_values=FLAGS
)
_PRECISIONS = flags.DEFINE_list(
    "precisions", ["float32", "mixed_bfloat16"], "The first is compared with.", flag_values=FLAGS
)
_SEEDS = flags.DEFINE_integer("seeds", 3, "Runs a precision.", lower_bound=1, flag_values=FLAGS)
_STEPS = flags.DEFINE_integer("steps", 2000, "Of a run.", lower_bound=1, flag_values=FLAGS)
_NUM_TRAIN = flags.DEFINE_integer(
    "num_train", None, "First cases used; default all.", lower_bound=2, flag_values=FLAGS
)
_NUM_VALIDATION = flags.DEFINE_integer(
    "num_validation", 20, "Of these, cases validated on.", lower_bound=1, flag_values=FLAGS
)
_FILTERS = flags.DEFINE_integer("filters", 8, "Of the network.", lower_bound=1, flag_values=FLAGS)


def main() -> None:
    """Trains and prints a row a seed, then the means."""
    load_tensorflow()
    header = [f"{what} {p}" for p in _PRECISIONS.value for what in ("Dice", "seconds")]
    rows, dice = [], []
    for seed in range(_SEEDS.value):
        results = [_trained(precision, seed) for precision in _PRECISIONS.value]
        dice.append([score for score, _ in results])
        cells = [text for d, s in results for text in (number(d, 4), number(s, 0))]
        rows.append([str(seed), *cells])
    print("\n".join(aligned([["seed", *header], *rows])))
    first, *others = zip(*dice, strict=True)
    for precision, found in zip(_PRECISIONS.value[1:], others, strict=True):
        differences = [b - a for a, b in zip(first, found, strict=True)]
        print(
            f"{precision} - {_PRECISIONS.value[0]}: mean {statistics.mean(differences):+.4f}, "
            f"least {min(differences):+.4f}, greatest {max(differences):+.4f}"
        )


def _trained(precision: str, seed: int) -> tuple[float, float]:
    """The last validation Dice of a run, and its seconds."""
    from tl3d_keras import run_settings, training_run

    folder = Path(_OUTPUT_DIR.value) / f"{precision}_{seed}"
    settings = run_settings.RunSettings(
        _RECORDS_DIR.value,
        filters=_FILTERS.value,
        levels=3,
        padding="same",
        normalization="instance",
        steps=_STEPS.value,
        steps_per_epoch=max(1, _STEPS.value // 4),
        precision=precision,
        num_train=_NUM_TRAIN.value,
        num_validation=_NUM_VALIDATION.value,
        seed=seed,
    )
    training_run.run(settings, folder)
    with open(folder / "metrics.csv", newline="") as file:
        last = list(csv.DictReader(file))[-1]
    return float(last["validation_dice"]), json.loads((folder / "run.json").read_text())["seconds"]


if __name__ == "__main__":
    run(main, FLAGS)
