"""Segments scans with a trained model.

    python -m experiments.segment --model=RUN/model --input=SCAN_OR_FOLDER --output=LABELS_OR_FOLDER

reads NIfTI, NRRD, MetaImage or a folder with DICOM series (--series chooses one), and writes labels
on exactly the grid of the input, oblique and sheared ones included. A 4D file may hold a model's
channels; --channel takes one volume of it. What cannot be segmented in a folder is named and left
out; the command then ends with 2. --report=PAGE.html shows all that was found.
"""

import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from data_tools import flag_values, scan_jobs
from data_tools.command import USER_ERROR, load_tensorflow, run
from data_tools.scan_jobs import Job
from data_tools.scan_pipeline import Segmented, segment_all
from tl3d_keras import html_page, volume_io
from tl3d_keras.errors import InputError
from tl3d_keras.volumes import Volume

if TYPE_CHECKING:
    from data_tools.scan_report import ScanReport
    from tl3d_keras.artifact import Artifact, ModelInfo
    from tl3d_keras.inference import Segmenter

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
    "Limit for the memory of the process; default what it has and 60 % of what is free.",
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
_SKIP_AIR = flags.DEFINE_bool(
    "skip_air",
    False,
    "Leave out tiles that see nothing but air, whose labels are computed once.",
    flag_values=FLAGS,
)
_OVERLAP = flags.DEFINE_float(
    "overlap",
    None,
    "Blend tiles of the training's patch size that share this part of each axis, such as 0.5; for "
    "networks with same padding or normalization layers.",
    flag_values=FLAGS,
)
_MIRROR_AXES = flags.DEFINE_list(
    "mirror_axes",
    [],
    "Average over mirrors along these of z,y,x; each doubles the time. For models that saw them in "
    "training (--flip_axes).",
    flag_values=FLAGS,
)
_REPORT = flags.DEFINE_string(
    "report",
    None,
    "Also write this .html page: slices to leaf through, volumes, scores; needs no network.",
    flag_values=FLAGS,
)
_REFERENCE = flags.DEFINE_string(
    "reference",
    None,
    "Label file, or folder of label files with the scans' names, for the report's scores.",
    flag_values=FLAGS,
)
_ANY_MODALITY = flags.DEFINE_bool(
    "any_modality",
    False,
    "Segment what cannot be of the model's modality too; a warning stays.",
    flag_values=FLAGS,
)


def main() -> None:
    """Reads the flags and segments."""
    jobs, skipped = scan_jobs.find_jobs([Path(p) for p in _INPUT.value], Path(_OUTPUT.value))
    if _REPORT.value:
        html_page.check_path(_REPORT.value)
    elif _REFERENCE.value:
        raise InputError("--reference: expected --report=FILE.html with it, found none")
    mirrors = flag_values.axes("mirror_axes", _MIRROR_AXES.value)
    load_tensorflow()
    from tl3d_keras import artifact, devices

    model = artifact.load(_MODEL.value, dtype=devices.choose_precision(_PRECISION.value))
    info, channels = model.info, len(model.info.channels)
    _warn_of_mirrors(mirrors, info.provenance)
    segmenter = _segmenter(model, mirrors)
    is_folder = jobs[0].output != Path(_OUTPUT.value)
    jobs = scan_jobs.group_channels(jobs, channels)
    report = _report(_REPORT.value, info, len(jobs)) if _REPORT.value else None
    if skipped:
        print(f"warning: {scan_jobs.skipped_line(skipped)}", file=sys.stderr)

    def read(job: Job) -> Volume:
        return volume_io.read_channels(job.files, channels, _SERIES.value, _CHANNEL.value)

    segment = partial(_segment, info, segmenter)
    failed = _tell(segment_all(jobs, read, segment, _MEMORY_GIB.value), report)
    if report:
        print(f"report: {report.write()}")
    if is_folder:
        print(
            f"{len(jobs) - failed} of {len(jobs)} scans segmented, {failed} failed, "
            f"{len(skipped)} other files skipped"
        )
    if failed:
        print(f"error: {failed} of {len(jobs)} scans failed", file=sys.stderr)
        sys.exit(USER_ERROR)


def _segmenter(model: "Artifact", mirrors: Sequence[int]) -> "Segmenter":
    from tl3d_keras.inference import Segmenter

    return Segmenter(
        model.network,
        model.info.intensity,
        _MEMORY_GIB.value * 2**30 if _MEMORY_GIB.value else None,
        model.info.patch_size,
        _OVERLAP.value,
        mirrors,
        _SKIP_AIR.value,
    )


def _report(path: str, info: "ModelInfo", scans: int) -> "ScanReport":
    from data_tools.scan_report import ScanReport
    from tl3d_keras import artifact

    return ScanReport(path, artifact.latest(_MODEL.value), info, _REFERENCE.value, scans)


def _segment(info: "ModelInfo", segmenter: "Segmenter", job: Job, volume: Volume) -> Segmented:
    from tl3d_keras import inference, scan_check

    doubts = scan_check.check(volume, info, job.files[0], _ANY_MODALITY.value)
    for doubt in doubts:
        print(f"warning: {doubt}", file=sys.stderr)
    try:
        labels = inference.segment(volume, segmenter, info.spacing)
    except InputError as error:
        raise InputError(f"{job.files[0]}: {error}") from error
    return Segmented(volume, labels, doubts)


def _tell(found: Iterable[tuple[Job, Segmented | InputError]], report: "ScanReport | None") -> int:
    """Tells of each scan, on the page too, and gives the number of those that failed."""
    failed = 0
    for job, result in found:
        try:
            if isinstance(result, InputError):
                raise result
            print(f"{job.files[0]} -> {job.output}", flush=True)
            if report:
                report.add(job, *result)
        except InputError as error:
            # The others of a folder do not suffer for one.
            print(f"error: {error}", file=sys.stderr)
            failed += 1
            if report:
                report.add_failure(job, error)
    return failed


def _warn_of_mirrors(axes: Sequence[int], provenance: Mapping[str, Any]) -> None:
    """Says so where a model is known not to have seen such mirrors."""
    settings = provenance.get("settings")
    flipped = settings.get("flip_axes") if isinstance(settings, dict) else None
    unseen = [axis for axis in axes if isinstance(flipped, list) and axis not in flipped]
    if unseen:
        print(
            f"warning: --mirror_axes: the model was trained without --flip_axes="
            f"{','.join('zyx'[axis] for axis in unseen)}, so mirrors may well make it worse",
            file=sys.stderr,
        )


def cli() -> None:
    """The console script."""
    run(main, FLAGS)


if __name__ == "__main__":
    cli()
