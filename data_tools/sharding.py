"""A data set in, shards with a manifest out: the plan, the work and what a killed run left."""

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path

from data_tools import beam_runner, fingerprint, shard_folder
from data_tools.case_pool import prepare_all
from data_tools.layouts import CaseSource, DataSet
from data_tools.plan import Header, PlannedShard, make_plan, read_header
from data_tools.prepare import PreparedCase, Settings, SkippedCase, without_cases
from data_tools.reading import ReadOptions
from data_tools.shard_folder import Part
from tl3d_keras import __version__, manifest
from tl3d_keras.errors import InputError
from tl3d_keras.manifest import CaseEntry, Manifest
from tl3d_keras.whole_folder import check_free, whole_folder, write_file

RUNNERS = ("local", "beam")
ON_ERROR = ("stop", "skip")
# How lines that warn of a case begin.
WARNING = "warning: "

Say = Callable[[str], None]


@dataclass(frozen=True)
class ShardOptions:
    """How shards are made.

    Attributes:
        spacing: (z, y, x) in mm; None: `fingerprint.propose_spacing`.
        shard_bytes: largest shard; a larger case gets a shard of its own.
        encoding: of the images: "raw" or "zlib".
        workers: processes.
        memory_bytes: of all processes together.
        on_error: "stop" at the first case that cannot be read, or "skip" it and say so.
        overwrite: replace what the output folder holds.
        runner: "local" or "beam".
        beam_arguments: Beam's own flags.
        reading: what to take from the files.
    """

    spacing: tuple[float, float, float] | None = None
    shard_bytes: int = 256 << 20
    encoding: str = "raw"
    workers: int = 1
    memory_bytes: int = 8 << 30
    on_error: str = "stop"
    overwrite: bool = False
    runner: str = "local"
    beam_arguments: tuple[str, ...] = ()
    reading: ReadOptions = ReadOptions()


def shard_dataset(
    dataset: DataSet,
    output_dir: Path,
    options: ShardOptions = ShardOptions(),
    say: Say = lambda _: None,
    say_case: Say | None = None,
) -> Manifest:
    """Writes the shards and the manifest of a data set.

    The folder appears when whole. Whole shards of a run that was killed, or stopped at a bad file,
    are taken up again, as are those of a folder that lost some; equal data and options give equal
    bytes.

    Args:
        dataset: as `layouts.read_layout` gives it.
        output_dir: gets `shard-*.tfrecord`, `manifest.json` and, if cases were skipped,
            `skipped.csv`.
        options: see there.
        say: is given lines for the user.
        say_case: is given those about single cases; default: `say`.

    Raises:
        InputError: what is wrong with the data set or the folder; whole shards are kept for the
            next call.
    """
    say_case = say_case or say
    sources, unreadable = _headers(dataset, options, say_case)
    spacing, reason = options.spacing, "chosen by --spacing"
    if spacing is None:
        spacing, reason = fingerprint.propose_spacing([header for _, header in sources])
    settings = Settings(without_cases(dataset), spacing, options.reading, options.encoding)
    plan = make_plan(sources, len(dataset.channels), spacing, options.shard_bytes, settings)
    former = None if options.overwrite else shard_folder.whole_parts(output_dir, plan)
    if former is not None and len(former) == len(plan):
        say(f"{output_dir}: these records are complete")
        content = manifest.load(output_dir)
        _warn(content.cases, say_case)
        return content
    say(
        f"{len(dataset.cases)} cases, {len(dataset.structures)} structures, "
        f"spacing {', '.join(f'{s:g}' for s in spacing)} mm (z, y, x)"
    )
    if former is None:
        check_free(output_dir, options.overwrite)
    replaces = options.overwrite or former is not None
    with whole_folder(output_dir, replaces, resume=True) as folder:
        for planned in plan:
            if former and planned.file in former:
                shard_folder.adopt(folder, output_dir, planned, former[planned.file])
        shard_folder.remove_strangers(folder, plan)
        parts = _make_parts(folder, plan, settings, options, say, say_case)
        skipped = [*unreadable, *(case for part in parts for case in part.skipped)]
        written = _merged(parts, dataset, spacing, reason, skipped)
        _finish(folder, written)
    return written


def _headers(
    dataset: DataSet, options: ShardOptions, say_case: Say
) -> tuple[list[tuple[CaseSource, Header]], list[SkippedCase]]:
    found, unreadable = [], []
    for source in dataset.cases:
        try:
            found.append((source, read_header(source, options.reading, len(dataset.channels))))
        except InputError as error:
            if options.on_error == "stop":
                raise
            unreadable.append(SkippedCase(source.case_id, str(error)))
            say_case(_skipped_line(unreadable[-1]))
    if not found:
        raise InputError(f"expected cases that can be read, found none: {unreadable[0].reason}")
    return found, unreadable


def _make_parts(
    folder: Path,
    plan: Sequence[PlannedShard],
    settings: Settings,
    options: ShardOptions,
    say: Say,
    say_case: Say,
) -> list[Part]:
    found = {shard.file: shard_folder.find_part(folder, shard) for shard in plan}
    missing = [shard for shard in plan if found[shard.file] is None]
    if len(missing) < len(plan):
        say(f"{len(plan) - len(missing)} of {len(plan)} shards are there already")
        _warn(_cases(found.values()), say_case)
    if options.runner == "beam":
        beam_runner.write_shards(folder, missing, settings, options.beam_arguments)
        made = {shard.file: shard_folder.find_part(folder, shard) for shard in missing}
        found |= made
        _warn(_cases(made.values()), say_case)
    else:
        cases = [case for shard in missing for case in shard.cases]
        prepared = prepare_all(cases, settings, options.workers, options.memory_bytes)
        prepared = _watched(prepared, options.on_error, say_case)
        for shard in missing:
            found[shard.file] = shard_folder.write_shard(
                folder, shard, islice(prepared, len(shard.cases))
            )
    parts = [part for part in found.values() if part]
    skipped = [case for part in parts for case in part.skipped]
    if skipped and options.on_error == "stop":
        raise InputError(skipped[0].reason)
    return parts


def _watched(
    prepared: Iterator[PreparedCase | SkippedCase], on_error: str, say_case: Say
) -> Iterator[PreparedCase | SkippedCase]:
    for case in prepared:
        if isinstance(case, SkippedCase):
            if on_error == "stop":
                raise InputError(case.reason)
            say_case(_skipped_line(case))
        else:
            say_case(_coverage_line(case))
            for warning in case.entry["warnings"]:
                say_case(WARNING + warning)
        yield case


def _cases(parts: Iterable[Part | None]) -> Iterator[CaseEntry]:
    return (case for part in parts if part for case in part.cases)


def _warn(cases: Iterable[CaseEntry], say_case: Say) -> None:
    for case in cases:
        for warning in case.warnings:
            say_case(WARNING + warning)


def _merged(
    parts: Sequence[Part],
    dataset: DataSet,
    spacing: tuple[float, float, float],
    spacing_reason: str,
    skipped: Sequence[SkippedCase],
) -> Manifest:
    filled = [part for part in parts if part.shard]
    cases = [replace(case, shard=i) for i, part in enumerate(filled) for case in part.cases]
    if not cases:
        raise InputError(f"expected cases that can be read, found none: {skipped[0].reason}")
    return Manifest(
        structures=list(dataset.structures),
        channels=list(dataset.channels),
        spacing=spacing,
        proposal=fingerprint.propose(
            spacing, spacing_reason, dataset.channels, dataset.structures, cases
        ),
        skipped=[asdict(case) for case in skipped],
        shards=[part.shard for part in filled if part.shard],
        cases=cases,
        tool_version=__version__,
    )


def _finish(folder: Path, written: Manifest) -> None:
    if written.skipped:
        table = io.StringIO()
        rows = csv.DictWriter(table, ["case_id", "reason"], lineterminator="\n")
        rows.writeheader()
        rows.writerows(written.skipped)
        write_file(folder / "skipped.csv", table.getvalue().encode())
    manifest.save(written, folder)
    shard_folder.remove_parts(folder)


def _skipped_line(case: SkippedCase) -> str:
    return f"{case.case_id}: skipped: {case.reason}"


def _coverage_line(case: PreparedCase) -> str:
    entry = case.entry
    z, y, x = entry["shape"][:3]
    coverage = entry["coverage"]
    counts = coverage["annotated"]
    structures = "; ".join(
        f"{name} {coverage[name]['slices']} slices {coverage[name]['voxels']} voxels"
        for name in entry["annotated_structures"]
    )
    return (
        f"{entry['case_id']}: annotated {counts['slices']} of {z} slices, {counts['voxels']} "
        f"voxels ({counts['voxels'] / (z * y * x):.1%}): {structures or 'no labels'}"
    )
