"""Small training runs for tests."""

from tl3d_keras import metrics_csv
from tl3d_keras.run_settings import RunSettings

# All that has a state of its own between two steps.
EVERYTHING = {
    "optimizer": "adamw",
    "schedule": "polynomial",
    "warmup_steps": 1,
    "weight_decay": 0.1,
    "clip_norm": 0.05,
    "ema": 0.9,
    "layer_rates": (("encoder_*", 0.1), ("head", 2.0)),
}


def settings(records, **changes):
    return RunSettings(
        **{
            "records_dir": str(records),
            "filters": 4,
            "levels": 2,
            "padding": "same",
            "patch_size": (8, 16, 16),
            "batch_size": 2,
            "steps": 8,
            "steps_per_epoch": 3,
            "learning_rate": 1e-2,
            "precision": "float32",
            "strategy": "one",
            **changes,
        }
    )


def rows(folder):
    return metrics_csv.read(folder)
