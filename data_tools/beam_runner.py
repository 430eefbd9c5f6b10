"""The per-case work of sharding on Apache Beam, where one machine is not enough."""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from functools import partial
from pathlib import Path
from typing import Any

from data_tools.plan import PlannedCase, PlannedShard
from data_tools.prepare import PreparedCase, Settings, SkippedCase, prepare
from data_tools.shard_folder import write_shard
from tl3d_keras.errors import InputError, ServerError

# Where a failure is one of this process.
_LOCAL = ("SwitchingDirectRunner", "BundleBasedDirectRunner", "FnApiRunner")
_REASON_LENGTH = 300
_Numbered = tuple[int, PreparedCase | SkippedCase]


def write_shards(
    folder: Path, plan: Sequence[PlannedShard], settings: Settings, arguments: Sequence[str]
) -> None:
    """Writes the shards of `plan` to a folder that all of Beam's workers reach.

    Args:
        folder: on a file system shared by the workers.
        plan: the shards to write.
        settings: of the records.
        arguments: Beam's own flags, such as `--runner=FlinkRunner`; without any, its local runner.

    Raises:
        InputError: Beam is not installed, or takes no such flags.
        ServerError: a runner that is not Beam's local one failed, or cannot be reached.
    """
    try:
        import apache_beam as beam
    except ImportError:
        raise InputError(
            '--runner=beam: expected Apache Beam; install it with pip install "tl3d-keras[cluster]"'
        ) from None
    cases = [
        (number, position, case)
        for number, shard in enumerate(plan)
        for position, case in enumerate(shard.cases)
    ]
    with _told(_pipeline(beam, arguments)) as pipeline:
        (
            pipeline
            | beam.Create(cases)
            | beam.Reshuffle()
            | beam.Map(partial(_prepare_numbered, settings=settings))
            | beam.GroupByKey()
            | beam.MapTuple(partial(_write_numbered, folder=folder, plan=list(plan)))
        )


def _pipeline(beam: Any, arguments: Sequence[str]) -> Any:
    from apache_beam.options.pipeline_options import PipelineOptions

    said = io.StringIO()
    try:
        options = PipelineOptions(list(arguments))
        with redirect_stderr(said):
            # Reads them all; otherwise each is read where it is needed first.
            options.get_all_options()
        return beam.Pipeline(options=options)
    except SystemExit:
        # Of argparse, whose last line follows its usage.
        reason = said.getvalue().strip().splitlines()[-1].partition("error: ")[2]
    except (ValueError, ImportError, AttributeError, TypeError) as error:
        reason = " ".join(str(error).split())
    raise InputError(
        f"--beam_argument: expected flags of Beam, found {' '.join(arguments)}: {reason}"
    )


@contextmanager
def _told(pipeline: Any) -> Iterator[Any]:
    """Builds and runs a pipeline; what fails on other machines is a line."""
    runner = type(pipeline.runner).__name__
    try:
        with pipeline:
            yield pipeline
    except Exception as error:
        if runner in _LOCAL:
            raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:_REASON_LENGTH]
        raise ServerError(f"--runner=beam: {runner} failed: {reason}") from error


def _prepare_numbered(
    numbered: tuple[int, int, PlannedCase], settings: Settings
) -> tuple[int, _Numbered]:
    number, position, case = numbered
    return number, (position, prepare(case, settings))


def _write_numbered(
    number: int, cases: Sequence[_Numbered], folder: Path, plan: Sequence[PlannedShard]
) -> None:
    in_order = sorted(cases, key=lambda case: case[0])
    write_shard(folder, plan[number], [case for _, case in in_order])
