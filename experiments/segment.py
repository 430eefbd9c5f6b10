"""Segments scans with a trained model.

    python -m experiments.segment --model=RUN/model --input=SCAN_OR_FOLDER --output=LABELS_OR_FOLDER

reads NIfTI, NRRD, MetaImage or a folder with DICOM series (--series chooses one), and writes labels
on exactly the grid of the input, oblique and sheared ones included. A 4D file may hold a model's
channels; --channel takes one volume of it.
"""

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from data_tools.command import USER_ERROR, load_tensorflow, run
from tl3d_keras import volume_io
from tl3d_keras.errors import InputError

FLAGS = flags.FlagValues()
_MODEL = flags.DEFINE_string("model", None, "Model folder.", required=True, flag_values=FLAGS)
_INPUT = flags.DEFINE_list(
    "input",
    None,
    "A scan, a folder of scans, or several files that are the channels of one scan.",
    required=True,
    flag_values=FLAGS,
)
_OUTPUT = flags.DEFINE_string(
    "output", None, "Label file, or folder for a folder.", required=True, flag_values=FLAGS
)
_SERIES = flags.DEFINE_string(
    "series",
    None,
    "Which DICOM series of the folder: its UID, number or description.",
    flag_values=FLAGS,
)
_CHANNEL = flags.DEFINE_integer(
    "channel",
    None,
    "Take this channel, or volume of a 4D file, alone (from 0).",
    lower_bound=0,
    flag_values=FLAGS,
)
_MEMORY_GIB = flags.DEFINE_float(
    "memory_gib",
    None,
    "Limit for a tile's memory; default 60 % of what is free.",
    lower_bound=0.01,
    flag_values=FLAGS,
)
_PRECISION = flags.DEFINE_enum(
    "precision",
    "auto",
    ["auto", "float32", "mixed_bfloat16", "mixed_float16"],
    "auto: the fastest that the GPU or processor computes in.",
    flag_values=FLAGS,
)

_CHANNEL_SUFFIX = re.compile(r"_\d{4}$")


def main() -> None:
    """Reads the flags and segments."""
    jobs = find_jobs([Path(p) for p in _INPUT.value], Path(_OUTPUT.value))
    load_tensorflow()
    from tl3d_keras import artifact, devices, inference

    model = artifact.load(_MODEL.value, dtype=devices.choose_precision(_PRECISION.value))
    memory = _MEMORY_GIB.value * 2**30 if _MEMORY_GIB.value else None
    segmenter = inference.Segmenter(
        model.network, model.info.intensity, memory, model.info.patch_size
    )
    jobs = group_channels(jobs, len(model.info.channels))
    failed = 0
    for paths, output in jobs:
        try:
            expected = len(model.info.channels)
            volume = volume_io.read_channels(paths, expected, _SERIES.value, _CHANNEL.value)
            found = volume.array.shape[-1]
            if found != expected:
                raise InputError(
                    f"{paths[0]}: expected {expected} channels "
                    f"({', '.join(model.info.channels)}), found {found}"
                )
            volume_io.write(output, inference.segment(volume, segmenter, model.info.spacing))
            print(f"{paths[0]} -> {output}", flush=True)
        except InputError as error:
            # The others of a folder do not suffer for one.
            print(f"error: {error}", file=sys.stderr)
            failed += 1
    if failed:
        print(f"error: {failed} of {len(jobs)} scans failed", file=sys.stderr)
        sys.exit(USER_ERROR)


Job = tuple[tuple[Path, ...], Path]


def find_jobs(inputs: Sequence[Path], output: Path) -> list[Job]:
    """The (input files, output file) of each scan; a folder without image files is a DICOM series.

    Raises:
        InputError: an input that does not exist, or an output of the wrong kind.
    """
    for path in inputs:
        if not path.exists():
            raise InputError(f"{path}: no such file or folder")
    files = (
        sorted(p for p in inputs[0].iterdir() if volume_io.has_known_suffix(p))
        if len(inputs) == 1 and inputs[0].is_dir()
        else []
    )
    if not files:
        if not volume_io.has_known_suffix(output):
            raise InputError(
                f"{output}: expected a file name that ends in one of "
                f"{', '.join(volume_io.SUFFIXES)}"
            )
        return [(tuple(inputs), output)]
    if volume_io.has_known_suffix(output) or output.is_file():
        raise InputError(
            f"{output}: expected a folder, for --input is a folder of {len(files)} files"
        )
    if output.resolve() == inputs[0].resolve():
        raise InputError(f"{output}: expected another folder than that of --input")
    return [((file,), output / f"{volume_io.case_name(file)}.nii.gz") for file in files]


def group_channels(jobs: Sequence[Job], num_channels: int) -> list[Job]:
    """Joins the `_0000`, `_0001`, ... files of a folder into scans of `num_channels` channels."""
    names = [volume_io.case_name(files[0]) for files, _ in jobs]
    if not all(
        len(files) == 1 and _CHANNEL_SUFFIX.search(name)
        for name, (files, _) in zip(names, jobs, strict=True)
    ):
        return list(jobs)
    scans: dict[str, list[Path]] = {}
    for name, (files, _) in zip(names, jobs, strict=True):
        scans.setdefault(_CHANNEL_SUFFIX.sub("", name), []).extend(files)
    for name, channels in scans.items():
        if len(channels) != num_channels:
            raise InputError(
                f"{channels[0]}: expected {num_channels} channel files for {name}, "
                f"found {len(channels)}"
            )
    if len(jobs) == 1:
        return list(jobs)
    folder = jobs[0][1].parent
    return [(tuple(channels), folder / f"{name}.nii.gz") for name, channels in scans.items()]


def cli() -> None:
    """The console script."""
    run(main, FLAGS)


if __name__ == "__main__":
    cli()
