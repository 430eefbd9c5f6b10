"""The page of `experiments.segment --report`, filled scan by scan."""

import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import tensorflow as tf

from data_tools.references import References
from data_tools.scan_jobs import Job
from tl3d_keras import __version__, artifact, html_page, run_report, volume_ranges
from tl3d_keras.artifact import ModelInfo
from tl3d_keras.errors import InputError
from tl3d_keras.segmentation_report import SegmentationReport
from tl3d_keras.volumes import Volume


class ScanReport:
    """Adds to a `SegmentationReport` what the files of a scan tell.

    Args:
        path: of the page.
        model: the folder of the model's version.
        info: of the model.
        reference: label file or folder to score against; None: no scores.
        scans: how many there will be.

    Raises:
        InputError: references that do not fit the model or the scans.
    """

    def __init__(
        self, path: str, model: Path, info: ModelInfo, reference: str | None, scans: int
    ) -> None:
        self._path = Path(path)
        if reference and scans > 1 and Path(reference).is_file():
            raise InputError(f"{reference}: expected a folder for {scans} scans, found a file")
        self._references = References(Path(reference), info.structures) if reference else None
        provenance = _provenance(model, info, sys.argv)
        if reference:
            provenance.append(("references", reference))
        ranges = volume_ranges.of_model(info.provenance, model / artifact.CONFIG_FILE)
        self._page = SegmentationReport(
            info.structures, info.channels[0], ranges, provenance, scans
        )

    def add(self, job: Job, image: Volume, labels: Volume, doubts: Sequence[str]) -> None:
        """Adds a scan whose labels are written.

        Raises:
            InputError: its reference does not fit; the scan is on the page without scores.
        """
        facts = [
            ("scan", ", ".join(map(str, job.files))),
            ("labels", str(job.output)),
            *(("warning", doubt) for doubt in doubts),
        ]
        scores, problem = None, None
        if self._references:
            try:
                scores = self._references.scores(job.name, job.output)
            except InputError as error:
                problem = error
            if scores is None:
                facts.append(("reference", str(problem or "none of this name")))
        self._page.add(job.name, image, labels, facts, scores)
        if problem:
            raise problem

    def add_failure(self, job: Job, error: InputError) -> None:
        """Adds a scan that failed, or the reason to one that was added before."""
        self._page.add_note(job.name, str(error))

    def write(self) -> Path:
        """Writes the page, which appears when whole."""
        self._page.write(self._path)
        return self._path


def _provenance(model: Path, info: ModelInfo, command: Sequence[str]) -> list[tuple[str, str]]:
    """What is to be known of a segmentation, as (title, value) in words.

    Args:
        model: the folder of the model's version.
        info: of the model.
        command: that segments.
    """
    known = info.provenance
    intensity = info.intensity
    values = ", ".join(
        f"{name} {low:g} to {high:g}"
        for name, low, high in zip(info.channels, intensity.low, intensity.high, strict=False)
    )
    trained = [
        (title, str(known[key]))
        for key, title in (
            ("command", "trained by"),
            ("training_cases", "training cases"),
            ("data", "training data, CRC32C"),
            ("tl3d_keras", "trained with tl3d-keras"),
        )
        if key in known
    ]
    return [
        ("date", datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %z")),
        ("command", run_report.command_line(command)),
        ("model", f"{model.parent.name}, version {model.name} ({model})"),
        ("model's spacing", f"{html_page.times(info.spacing)} mm (z, y, x)"),
        ("model's input", values or f"{', '.join(info.channels)}, z-scores"),
        *trained,
        ("versions", f"tl3d-keras {__version__}, TensorFlow {tf.__version__}"),
    ]
