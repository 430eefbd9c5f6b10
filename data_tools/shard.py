"""Turns a data set into TFRecord shards with a manifest.

    python -m data_tools.shard --dataset_dir=DATASET --output_dir=RECORDS

reads a Decathlon, nnU-Net v2 or TotalSegmentator folder or a CSV table of cases, brings every case
to one spacing and prints how much of it is annotated. 150 hippocampus crops take about 10 seconds
on two cores. A run that was stopped goes on when it is called again, and makes only the shards that
are missing.
"""

import os
from pathlib import Path

from absl import flags

from data_tools import doubts, flag_values, layouts
from data_tools.command import run
from data_tools.reading import ANNOTATED, OVERLAP, ReadOptions
from data_tools.sharding import ON_ERROR, RUNNERS, ShardOptions, shard_dataset
from data_tools.tables import structure_table
from tl3d_keras.case_fields import ENCODINGS
from tl3d_keras.errors import InputError
from tl3d_keras.memory import available_memory

FLAGS = flags.FlagValues()
_DATASET_DIR = flags.DEFINE_string(
    "dataset_dir",
    None,
    "Decathlon, nnU-Net v2 or TotalSegmentator folder, or a CSV table of cases.",
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
    "compression", "raw", ENCODINGS, "Encoding of the images.", flag_values=FLAGS
)
_WORKERS = flags.DEFINE_integer(
    "workers",
    os.cpu_count() or 1,
    "Processes that read cases.",
    lower_bound=1,
    flag_values=FLAGS,
)
_MEMORY_GIB = flags.DEFINE_float(
    "memory_gib",
    None,
    "Memory of all processes together; default: 60 % of what is free.",
    lower_bound=0,
    flag_values=FLAGS,
)
_ON_ERROR = flags.DEFINE_enum(
    "on_error",
    "stop",
    ON_ERROR,
    "At a case that cannot be read: stop, or skip it and list it in skipped.csv.",
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
_SERIES = flags.DEFINE_string(
    "series",
    None,
    "DICOM series to read where a folder holds several: its UID, number or description.",
    flag_values=FLAGS,
)
_CHANNEL = flags.DEFINE_integer(
    "channel", None, "Volume to take of 4D files, from 0.", lower_bound=0, flag_values=FLAGS
)
_RUNNER = flags.DEFINE_enum(
    "runner",
    "local",
    RUNNERS,
    "beam: on Apache Beam, whose workers must reach --output_dir.",
    flag_values=FLAGS,
)
_BEAM_ARGUMENTS = flags.DEFINE_multi_string(
    "beam_argument", [], "A flag for Beam, such as --runner=FlinkRunner.", flag_values=FLAGS
)
_OVERWRITE = flags.DEFINE_bool(
    "overwrite", False, "Replace what is in --output_dir.", flag_values=FLAGS
)


def main() -> None:
    """Reads the flags and writes the shards."""
    dataset_dir, output_dir = Path(_DATASET_DIR.value), Path(_OUTPUT_DIR.value)
    options = ShardOptions(
        flag_values.spacing("spacing", _SPACING.value) if _SPACING.value else None,
        _SHARD_MIB.value << 20,
        _COMPRESSION.value,
        _WORKERS.value,
        int(_MEMORY_GIB.value * 2**30) if _MEMORY_GIB.value else available_memory(),
        _ON_ERROR.value,
        _OVERWRITE.value,
        _RUNNER.value,
        tuple(_BEAM_ARGUMENTS.value),
        ReadOptions(
            _PARTIAL_LABELS.value,
            _ANNOTATED.value,
            _OVERLAP.value,
            _SERIES.value,
            _CHANNEL.value,
        ),
    )
    if dataset_dir.resolve().is_relative_to(output_dir.resolve()):
        raise InputError(f"{output_dir}: expected another folder than that of the data set")
    dataset = layouts.read_layout(
        dataset_dir, _STRUCTURES.value, _CHANNEL_NAMES.value, _SERIES.value
    )
    written = shard_dataset(dataset, output_dir, options, lambda line: print(line, flush=True))
    print("\n".join(structure_table(written, written.cases)))
    print("\n".join(written.proposal.reasons))
    for warning in doubts.about_cases(written.cases, written.structures):
        print(f"warning: {warning}")
    if written.skipped:
        print(f"{len(written.skipped)} cases skipped: {output_dir / 'skipped.csv'}")
    print(
        f"{len(written.cases)} cases in {len(written.shards)} shards, "
        f"{sum(s.bytes for s in written.shards) / 2**20:.1f} MiB: {output_dir}"
    )


def cli() -> None:
    """The console script."""
    run(main, FLAGS)


if __name__ == "__main__":
    cli()
