"""Writes a data set of CT-like phantoms, chest and abdomen with 22 labelled structures.

    python -m data_tools.phantom --output_dir=PHANTOMS --num_cases=8

makes an nnU-Net v2 folder (`dataset.json`, `imagesTr`, `labelsTr`) in some 8 seconds on two cores.
With `--annotated_slices=0.2 --annotated_structures=0.5` each case has a fifth of its axial slices
and half of its structures annotated, drawn anew for every case. `--content=primitives` has 8 kinds
of geometric solids instead, for base models of other modalities.
"""

import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from absl import flags

from data_tools import flag_values
from data_tools.command import run
from data_tools.process_pool import SpawnedPool
from tl3d_keras.errors import InputError
from tl3d_keras.whole_folder import whole_folder

FLAGS = flags.FlagValues()
_OUTPUT_DIR = flags.DEFINE_string(
    "output_dir", None, "Folder for the data set.", required=True, flag_values=FLAGS
)
_NUM_CASES = flags.DEFINE_integer(
    "num_cases", 8, "Number of cases.", lower_bound=1, flag_values=FLAGS
)
_SHAPE = flags.DEFINE_list(
    "shape", ["96", "80", "96"], "z,y,x in voxels, each at least 16.", flag_values=FLAGS
)
_SPACING = flags.DEFINE_list("spacing", ["4", "4", "4"], "z,y,x in mm.", flag_values=FLAGS)
_SEED = flags.DEFINE_integer(
    "seed",
    0,
    "Seed; a case depends on it and on its own number alone.",
    lower_bound=0,
    flag_values=FLAGS,
)
_ANNOTATED_SLICES = flags.DEFINE_float(
    "annotated_slices",
    1.0,
    "Fraction of axial slices annotated in a case; one at least.",
    0.0,
    1.0,
    flag_values=FLAGS,
)
_ANNOTATED_STRUCTURES = flags.DEFINE_float(
    "annotated_structures",
    1.0,
    "Fraction of structures annotated in a case; one at least.",
    0.0,
    1.0,
    flag_values=FLAGS,
)
_CONTENT = flags.DEFINE_enum(
    "content",
    "anatomy",
    ["anatomy", "primitives"],
    "primitives: geometric solids, each kind with an intensity and a texture of its own.",
    flag_values=FLAGS,
)
_STRUCTURES = flags.DEFINE_list(
    "structures",
    None,
    "Structures that are labelled at all, numbered in this order; default: all.",
    flag_values=FLAGS,
)
_OVERWRITE = flags.DEFINE_bool(
    "overwrite", False, "Replace what is in --output_dir.", flag_values=FLAGS
)

_SMALLEST_SIDE = 16
# A pool's start costs as much as a few small cases.
_MIN_VOXELS_FOR_POOL = 2_000_000


@dataclass(frozen=True)
class PhantomSpec:
    """What every case of a data set has in common.

    Attributes:
        shape: (Z, Y, X) in voxels.
        spacing: (z, y, x) in mm.
        seed: seed of the data set.
        annotated_slices: fraction of the axial slices annotated in a case, 0 to 1.
        annotated_structures: fraction of the structures annotated in a case, 0 to 1.
        content: "anatomy" or "primitives".
        structures: names of labels 1 to K; empty: all that the content has.
    """

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    seed: int = 0
    annotated_slices: float = 1.0
    annotated_structures: float = 1.0
    content: str = "anatomy"
    structures: tuple[str, ...] = ()

    def names(self) -> tuple[str, ...]:
        """Names of labels 1 to K."""
        return self.structures or self.scene().STRUCTURES

    def scene(self) -> Any:
        """The module that generates the content: its `STRUCTURES` and `generate`."""
        return import_module(f"data_tools.phantoms.{self.content}")


@dataclass(frozen=True)
class WrittenCase:
    """A case on disk: its name, its annotated structures, and whether it has unannotated voxels."""

    case_id: str
    annotated: tuple[str, ...]
    has_unannotated: bool


def main() -> None:
    """Reads the flags and writes the data set."""
    spec = PhantomSpec(
        _shape(_SHAPE.value),
        flag_values.spacing("spacing", _SPACING.value),
        _SEED.value,
        _ANNOTATED_SLICES.value,
        _ANNOTATED_STRUCTURES.value,
        _CONTENT.value,
        tuple(_STRUCTURES.value or ()),
    )
    _check_structures(spec)
    write_data_set(_OUTPUT_DIR.value, _NUM_CASES.value, spec, _OVERWRITE.value)
    print(f"{_OUTPUT_DIR.value}: {_NUM_CASES.value} cases")


def write_data_set(
    output_dir: str | os.PathLike, num_cases: int, spec: PhantomSpec, overwrite: bool = False
) -> None:
    """Writes an nnU-Net v2 data set of phantoms, which appears when whole.

    Raises:
        InputError: `output_dir` holds files and `overwrite` is off, or cannot be written.
    """
    with whole_folder(output_dir, overwrite) as folder:
        written = []
        for case in _write_cases(folder, num_cases, spec):
            written.append(case)
            print(f"{case.case_id}: {len(case.annotated)} structures", flush=True)
        text = json.dumps(_description(written, spec), indent=2)
        (folder / "dataset.json").write_text(text + "\n", "utf-8")


def write_case(folder: Path, index: int, spec: PhantomSpec) -> WrittenCase:
    """Writes image and label of case number `index` in an nnU-Net folder."""
    import numpy as np

    from data_tools.phantoms.annotation import select, sparsify
    from tl3d_keras.annotation import IGNORE
    from tl3d_keras.volume_io import write
    from tl3d_keras.volumes import Volume

    anatomy, annotation = np.random.SeedSequence([spec.seed, index]).spawn(2)
    scene, names = spec.scene(), spec.names()
    image, labels = scene.generate(int(anatomy.generate_state(1)[0]), spec.shape, spec.spacing)
    labels, annotated = sparsify(
        select(labels, names, scene.STRUCTURES),
        np.random.default_rng(annotation),
        spec.annotated_slices,
        spec.annotated_structures,
        names,
    )
    unannotated = labels == IGNORE
    # nnU-Net wants the label of unannotated voxels to follow the structures'.
    labels[unannotated] = len(names) + 1
    z, y, x = (-0.5 * (n - 1) * step for n, step in zip(spec.shape, spec.spacing, strict=True))
    case_id = f"phantom_{index:03d}"
    for name, array in (
        (f"imagesTr/{case_id}_0000.nii.gz", image),
        (f"labelsTr/{case_id}.nii.gz", labels),
    ):
        write(folder / name, Volume(array[..., np.newaxis], spec.spacing, origin=(x, y, z)))
    return WrittenCase(case_id, tuple(annotated), bool(unannotated.any()))


def _write_cases(folder: Path, num_cases: int, spec: PhantomSpec) -> Iterator[WrittenCase]:
    workers = min(2, os.cpu_count() or 1, num_cases)
    if workers == 1 or num_cases * math.prod(spec.shape) < _MIN_VOXELS_FOR_POOL:
        yield from (write_case(folder, index, spec) for index in range(num_cases))
        return
    with SpawnedPool(workers) as pool:
        yield from pool.map(write_case, [folder] * num_cases, range(num_cases), [spec] * num_cases)


def _description(cases: Sequence[WrittenCase], spec: PhantomSpec) -> dict[str, Any]:
    names = spec.names()
    labels = {"background": 0, **{name: n for n, name in enumerate(names, start=1)}}
    if any(case.has_unannotated for case in cases):
        labels["ignore"] = len(labels)
    content: dict[str, Any] = {
        "description": f"{spec.scene().DESCRIPTION}, seed {spec.seed}",
        "channel_names": {"0": spec.scene().CHANNEL},
        "labels": labels,
        "numTraining": len(cases),
        "file_ending": ".nii.gz",
    }
    partial = {c.case_id: list(c.annotated) for c in cases if len(c.annotated) < len(names)}
    if partial:
        content["annotated_labels"] = partial
    return content


def _shape(words: Sequence[str]) -> tuple[int, int, int]:
    try:
        z, y, x = (int(word) for word in words)
    except ValueError:
        z = y = x = 0
    if min(z, y, x) < _SMALLEST_SIDE:
        raise InputError(
            f"--shape={','.join(words)}: expected three whole numbers z,y,x, "
            f"each at least {_SMALLEST_SIDE}"
        )
    return z, y, x


def _check_structures(spec: PhantomSpec) -> None:
    names, known = spec.names(), spec.scene().STRUCTURES
    if not set(names) <= set(known) or len(set(names)) < len(names):
        raise InputError(
            f"--structures={','.join(names)}: expected different names of {', '.join(known)}"
        )


def cli() -> None:
    """The console script."""
    run(main, FLAGS)


if __name__ == "__main__":
    cli()
