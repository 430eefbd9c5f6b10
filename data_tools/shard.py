"""Turns a data set into TFRecord shards with a manifest.

    python -m data_tools.shard --dataset_dir=DATASET --output_dir=RECORDS

reads a Decathlon, nnU-Net v2 or TotalSegmentator folder or a CSV table of cases, brings every case
to one spacing and prints how much of it is annotated. 150 hippocampus crops take about 10 seconds
on two cores.
"""

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from data_tools import case_reader, doubts, layouts
from data_tools.case_reader import ReadCase
from data_tools.command import load_tensorflow, run
from data_tools.layouts import DataSet
from data_tools.reading import ANNOTATED, OVERLAP, ReadOptions
from tl3d_keras import __version__, manifest
from tl3d_keras.errors import InputError
from tl3d_keras.whole_folder import whole_folder

FLAGS = flags.FlagValues()
_DATASET_DIR = flags.DEFINE_string(
    "dataset_dir",
    None,
    "Decathlon, nnU-Net v2 or TotalSegmentator folder, or a CSV file of cases.",
    required=True,
    flag_values=FLAGS,
)
_OUTPUT_DIR = flags.DEFINE_string(
    "output_dir", None, "Folder for the shards.", required=True, flag_values=FLAGS
)
_SPACING = flags.DEFINE_list(
    "spacing",
    None,
    "z,y,x in mm of the records; default: the median of the cases, per axis.",
    flag_values=FLAGS,
)
_SHARD_MIB = flags.DEFINE_integer(
    "shard_mib", 256, "Largest shard in MiB.", lower_bound=1, flag_values=FLAGS
)
_COMPRESSION = flags.DEFINE_enum(
    "compression", "raw", ["raw", "zlib"], "Encoding of the images.", flag_values=FLAGS
)
_WORKERS = flags.DEFINE_integer(
    "workers",
    os.cpu_count() or 1,
    "Processes that read cases.",
    lower_bound=1,
    flag_values=FLAGS,
)
_PARTIAL_LABELS = flags.DEFINE_bool(
    "partial_labels",
    False,
    "Accept a label file that covers a box of its image's grid; the rest is unannotated.",
    flag_values=FLAGS,
)
_ANNOTATED = flags.DEFINE_enum(
    "annotated",
    "all",
    ANNOTATED,
    "What of a label was annotated: all of it, or the slices that hold a structure.",
    flag_values=FLAGS,
)
_OVERLAP = flags.DEFINE_enum(
    "overlap",
    "error",
    OVERLAP,
    "Which structure wins where binary files or DICOM structures overlap.",
    flag_values=FLAGS,
)
_STRUCTURES = flags.DEFINE_list(
    "structures",
    [],
    "Names of the label values 1, 2, ... of a CSV file's labels; of a TotalSegmentator folder "
    "those to take, in order (default: all).",
    flag_values=FLAGS,
)
_CHANNEL_NAMES = flags.DEFINE_list(
    "channel_names",
    [],
    "Names of the images of a CSV file, such as CT; default: the Modality of DICOM series.",
    flag_values=FLAGS,
)
_OVERWRITE = flags.DEFINE_bool(
    "overwrite", False, "Replace what is in --output_dir.", flag_values=FLAGS
)

# A pool's start costs more than a few small cases.
_MIN_BYTES_FOR_POOL = 50 << 20


def main() -> None:
    """Reads the flags and writes the shards."""
    spacing = parse_spacing(_SPACING.value) if _SPACING.value else None
    shard_dataset(
        Path(_DATASET_DIR.value),
        Path(_OUTPUT_DIR.value),
        spacing,
        _SHARD_MIB.value << 20,
        _COMPRESSION.value,
        _WORKERS.value,
        ReadOptions(_PARTIAL_LABELS.value, _ANNOTATED.value, _OVERLAP.value),
        _OVERWRITE.value,
        _STRUCTURES.value,
        _CHANNEL_NAMES.value,
    )


def parse_spacing(values: Sequence[str]) -> tuple[float, float, float]:
    """Turns the three texts of `--spacing` into positive mm (z, y, x)."""
    try:
        z, y, x = (float(v) for v in values)
    except ValueError:
        z = y = x = 0.0
    if not all(0 < s < float("inf") for s in (z, y, x)):
        raise InputError(
            f"--spacing: expected three positive numbers z,y,x in mm, found {','.join(values)}"
        )
    return z, y, x


def shard_dataset(
    dataset_dir: Path,
    output_dir: Path,
    spacing: tuple[float, float, float] | None = None,
    shard_bytes: int = 256 << 20,
    compression: str = "raw",
    workers: int = 1,
    options: ReadOptions = case_reader.DEFAULT,
    overwrite: bool = False,
    structures: Sequence[str] = (),
    channel_names: Sequence[str] = (),
) -> manifest.Manifest:
    """Writes the shards and manifest of a data set; nothing appears unless all of it is good.

    Args:
        dataset_dir: see `layouts.read_layout`.
        output_dir: new folder for `shard-*.tfrecord` and `manifest.json`.
        spacing: (z, y, x) in mm; None takes the median over the cases.
        shard_bytes: largest shard; a larger case gets a shard of its own.
        compression: "raw" or "zlib".
        workers: processes.
        options: how the files of a case are read.
        overwrite: replace what `output_dir` holds.
        structures: see `layouts.read_layout`.
        channel_names: see `layouts.read_layout`.

    Raises:
        InputError: the first thing that is wrong with the data set, with its file.
    """
    dataset = layouts.read_layout(dataset_dir, structures, channel_names, options.series)
    if dataset_dir.resolve().is_relative_to(output_dir.resolve()):
        raise InputError(f"{output_dir}: expected another folder than that of the data set")
    with whole_folder(output_dir, overwrite) as folder:
        if spacing is None:
            count = len(dataset.channels)
            found = [case_reader.canonical_spacing(c, options, count) for c in dataset.cases]
            z, y, x = np.median(found, axis=0).round(4)
            spacing = float(z), float(y), float(x)
        print(
            f"{len(dataset.cases)} cases, {len(dataset.structures)} structures, "
            f"spacing {', '.join(f'{s:g}' for s in spacing)} mm (z, y, x)"
        )
        cases = _read_all(dataset, spacing, options, workers)
        written = _write(cases, dataset, spacing, folder, shard_bytes, compression)
        manifest.save(written, folder)
    _print_totals(written)
    for warning in doubts.about_cases(written.cases, written.structures):
        print(f"warning: {warning}")
    print(
        f"{len(written.cases)} cases in {len(written.shards)} shards, "
        f"{sum(s.bytes for s in written.shards) / 2**20:.1f} MiB: {output_dir}"
    )
    return written


def _read_all(
    dataset: DataSet, spacing: Sequence[float], options: ReadOptions, workers: int
) -> Iterator[ReadCase]:
    """Yields the cases in order; at most `workers` + 1 read cases wait in memory."""
    arguments = [(case, dataset, spacing, options) for case in dataset.cases]
    size = sum(path.stat().st_size for case in dataset.cases for path in case.images)
    workers = min(workers, len(arguments))
    if workers == 1 or size < _MIN_BYTES_FOR_POOL:
        yield from (case_reader.read_case(*a) for a in arguments)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        pending: deque = deque()
        try:
            for a in arguments:
                pending.append(pool.submit(case_reader.read_case, *a))
                if len(pending) > workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _write(
    cases: Iterator[ReadCase],
    dataset: DataSet,
    spacing: tuple[float, float, float],
    folder: Path,
    shard_bytes: int,
    compression: str,
) -> manifest.Manifest:
    load_tensorflow()
    from tl3d_keras import records

    writer = _ShardWriter(folder, shard_bytes)
    entries, foreground = [], []
    for case in cases:
        annotated = [dataset.structures.index(name) + 1 for name in case.annotated]
        data = records.encode(case.case_id, case.image, case.labels, annotated, compression)
        shard, offset = writer.write(data)
        entries.append(
            manifest.CaseEntry(
                case.case_id,
                shard,
                offset,
                len(data),
                case.image.array.shape,
                list(case.annotated),
                case.coverage,
                case.intensity,
            )
        )
        foreground.append(case.foreground)
        print(_coverage_line(entries[-1]), flush=True)
        for warning in case.warnings:
            print(f"warning: {warning}", flush=True)
    return manifest.Manifest(
        structures=list(dataset.structures),
        channels=list(dataset.channels),
        spacing=spacing,
        intensity=_foreground_statistics(np.concatenate(foreground)),
        shards=writer.close(),
        cases=entries,
        tool_version=__version__,
    )


class _ShardWriter:
    """Writes records one after another, opening a new shard when the next would not fit."""

    _FRAME_BEFORE, _FRAME_AFTER = 12, 4

    def __init__(self, folder: Path, shard_bytes: int) -> None:
        self._folder = folder
        self._limit = shard_bytes
        self._sizes: list[int] = []
        self._writer: Any = None

    def write(self, data: bytes) -> tuple[int, int]:
        """Writes a record; returns its shard's index and the byte at which its data start."""
        import tensorflow as tf

        framed = self._FRAME_BEFORE + len(data) + self._FRAME_AFTER
        if self._writer is None or self._sizes[-1] + framed > self._limit:
            if self._writer is not None:
                self._writer.close()
            self._sizes.append(0)
            self._writer = tf.io.TFRecordWriter(str(self._path(len(self._sizes) - 1)))
        self._writer.write(data)
        offset = self._sizes[-1] + self._FRAME_BEFORE
        self._sizes[-1] += framed
        return len(self._sizes) - 1, offset

    def close(self) -> list[manifest.ShardEntry]:
        """Closes the last shard and returns all shards with their checksums."""
        if self._writer is not None:
            self._writer.close()
        paths = [self._path(index) for index in range(len(self._sizes))]
        return [
            manifest.ShardEntry(path.name, size, manifest.file_crc32c(path))
            for path, size in zip(paths, self._sizes, strict=True)
        ]

    def _path(self, index: int) -> Path:
        return self._folder / f"shard-{index:05d}.tfrecord"


def _foreground_statistics(samples: np.ndarray) -> list[dict[str, float]]:
    if not len(samples):
        return []
    low, median, high = np.percentile(samples, [0.5, 50, 99.5], axis=0)
    return [
        {
            "percentile_00_5": float(a),
            "median": float(b),
            "percentile_99_5": float(c),
            "mean": float(m),
            "std": float(s),
        }
        for a, b, c, m, s in zip(
            low,
            median,
            high,
            samples.mean(axis=0, dtype=np.float64),
            samples.std(axis=0, dtype=np.float64),
            strict=True,
        )
    ]


def _coverage_line(case: manifest.CaseEntry) -> str:
    z, y, x = case.shape[:3]
    counts = case.coverage["annotated"]
    structures = "; ".join(
        f"{name} {case.coverage[name]['slices']} slices {case.coverage[name]['voxels']} voxels"
        for name in case.annotated_structures
    )
    return (
        f"{case.case_id}: annotated {counts['slices']} of {z} slices, {counts['voxels']} voxels "
        f"({counts['voxels'] / (z * y * x):.1%}): {structures or 'no labels'}"
    )


def _print_totals(written: manifest.Manifest) -> None:
    width = max(len(name) for name in written.structures)
    print(f"{'structure':{width}}  annotated in  present in    slices        voxels")
    for name in written.structures:
        annotated = [c for c in written.cases if name in c.annotated_structures]
        counts = [c.coverage[name] for c in annotated]
        print(
            f"{name:{width}}  {len(annotated):6d} cases  {sum(c['voxels'] > 0 for c in counts):4d} "
            f"cases  {sum(c['slices'] for c in counts):8d}  {sum(c['voxels'] for c in counts):12d}"
        )


def cli() -> None:
    """The console script."""
    run(main, FLAGS)


if __name__ == "__main__":
    cli()
