"""What several tests make: tiny data sets, records and networks."""

import json
from pathlib import Path

import numpy as np
import tensorflow as tf

from data_tools import layouts
from data_tools.reading import ReadOptions
from data_tools.sharding import ShardOptions, shard_dataset
from tl3d_keras import volume_io
from tl3d_keras.artifact import ModelInfo
from tl3d_keras.intensity import Intensity
from tl3d_keras.manifest import CaseEntry, Manifest, Proposal
from tl3d_keras.unet3d import UNet3D, named_weights
from tl3d_keras.volumes import Volume

WINDOW = Intensity("window", (-100.0,), (300.0,))


def network(seed: int = 0, **arguments) -> UNet3D:
    """A small network whose weights, biases included, are random."""
    model = UNet3D(**{"num_classes": 3, "filters": 2, "levels": 2, "padding": "same", **arguments})
    rng = np.random.default_rng(seed)
    for variable in named_weights(model).values():
        variable.assign(rng.normal(scale=0.3, size=variable.shape))
    return model


def info(structures=("liver", "spleen"), channels=("CT",), intensity=WINDOW) -> ModelInfo:
    """A model's information that fits `network`."""
    return ModelInfo(
        tuple(structures),
        tuple(channels),
        (2.0, 1.0, 1.0),
        intensity,
        (16, 16, 16),
        {"seed": 7, "command": "train"},
        {"validation_dice": 0.5},
    )


def random_batch(
    annotated_fraction: float = 0.6, batch: int = 4, classes: int = 4
) -> tuple[tf.Tensor, tf.Tensor]:
    """Labels [B, 5, 6, 7], 255 where unannotated, and logits [B, 5, 6, 7, classes]."""
    rng = np.random.default_rng(3)
    labels = rng.integers(0, classes, (batch, 5, 6, 7)).astype(np.uint8)
    labels[rng.random(labels.shape) > annotated_fraction] = 255
    logits = rng.normal(size=(*labels.shape, classes)).astype(np.float32)
    return tf.constant(labels), tf.constant(logits)


def write_dataset(
    folder: Path, num_cases: int = 4, structures=("liver", "spleen"), sparse: bool = True
) -> Path:
    """A Decathlon folder of boxes that a small network can learn, in a third of the slices."""
    rng = np.random.default_rng(0)
    names = []
    for case in range(num_cases):
        shape = (14 + case % 3, 18, 16)
        labels = np.zeros(shape, np.uint8)
        for value in range(1, len(structures) + 1):
            start = rng.integers(1, 6, 3)
            labels[tuple(slice(s, s + 7) for s in start)] = value
        image = 100 * labels + rng.normal(scale=20, size=shape)
        if sparse:
            labels[rng.permutation(shape[0])[: shape[0] * 2 // 3]] = 255
        names.append(f"case_{case}")
        for part, array in (("imagesTr", image.astype(np.int16)), ("labelsTr", labels)):
            volume_io.write(
                folder / part / f"case_{case}.nii.gz", Volume(array[..., None], (2.0, 1.0, 1.0))
            )
    (folder / "dataset.json").write_text(
        json.dumps(
            {
                "modality": {"0": "CT"},
                "labels": {"0": "background"}
                | {str(i): s for i, s in enumerate(structures, start=1)},
                "training": [
                    {"image": f"imagesTr/{n}.nii.gz", "label": f"labelsTr/{n}.nii.gz"}
                    for n in names
                ],
            }
        )
    )
    return folder


def make_shards(
    dataset_dir: Path, output_dir: Path, reading: ReadOptions | None = None, **options
) -> Manifest:
    """Shards a data set folder with `ShardOptions(**options)`, telling on standard output."""
    dataset = layouts.read_layout(dataset_dir)
    if reading:
        options["reading"] = reading
    return shard_dataset(dataset, output_dir, ShardOptions(**options), print)


def case_entry(name: str = "a", shard: int = 0, **values) -> CaseEntry:
    """A case of 3 x 4 x 5 voxels without labels, but for `values`."""
    given = {
        "offset": 12,
        "bytes": 84,
        "shape": (3, 4, 5, 1),
        "annotated_structures": [],
        "coverage": {"annotated": {"slices": 0, "voxels": 0}},
        "intensity": [{"mean": 1.5, "std": 0.5, "minimum": 1.0, "maximum": 2.0}],
        "source_spacing": (1.0, 1.0, 1.0),
        "source_shape": (3, 4, 5),
        "body": [],
        "foreground": [],
        "structures": {},
    }
    return CaseEntry(name, shard, **given | values)


def make_manifest(structures, cases, shards=(), **values) -> Manifest:
    """A manifest of these parts."""
    given = {
        "channels": ["CT"],
        "spacing": (1.0, 1.0, 1.0),
        "proposal": Proposal((1.0, 1.0, 1.0), None, (8, 8, 8), []),
        "skipped": [],
        "tool_version": "1.2.3",
    }
    return Manifest(list(structures), shards=list(shards), cases=list(cases), **given | values)


def write_records(folder: Path, **arguments) -> Path:
    """Records of `write_dataset`."""
    make_shards(write_dataset(folder / "dataset", **arguments), folder / "records")
    return folder / "records"


def assert_equal_weights(first: tf.keras.Model, second: tf.keras.Model, atol: float = 0.0) -> None:
    """All weights have the same names and values."""
    ours, others = named_weights(first), named_weights(second)
    assert list(ours) == list(others)
    for name, variable in ours.items():
        np.testing.assert_allclose(variable, others[name], rtol=0, atol=atol, err_msg=name)
