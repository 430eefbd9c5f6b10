"""Segments a scan on a server: TF Serving, or tl3d-serve.

    python -m experiments.client --server=localhost:8500 --model=liver --input=SCAN --output=LABELS

reads NIfTI, NRRD, MetaImage or a folder with a DICOM series, sends the raw voxels and their spacing
to the model's `segment` signature, and writes labels on exactly the grid of the input.
--protocol=rest goes to TF Serving's REST port (8501) instead; see docs/serving.md for when.
"""

import sys
from pathlib import Path

from absl import flags

from data_tools import scan_jobs
from data_tools.command import load_tensorflow, run
from tl3d_keras import volume_io
from tl3d_keras.errors import InputError

FLAGS = flags.FlagValues()
_SERVER = flags.DEFINE_string(
    "server", "localhost:8500", "HOST:PORT of the server.", flag_values=FLAGS
)
_PROTOCOL = flags.DEFINE_enum(
    "protocol", "grpc", ["grpc", "rest"], "Which of the two APIs.", flag_values=FLAGS
)
_MODEL = flags.DEFINE_string(
    "model", None, "Name of the model on the server.", required=True, flag_values=FLAGS
)
_VERSION = flags.DEFINE_integer(
    "version", None, "Version; default the server's choice.", lower_bound=0, flag_values=FLAGS
)
_LABEL = flags.DEFINE_string("label", None, "Label of a version.", flag_values=FLAGS)
_INPUT = flags.DEFINE_list(
    "input",
    None,
    "A scan, a folder with a DICOM series, or several files that are the channels of one scan.",
    required=True,
    flag_values=FLAGS,
)
_OUTPUT = flags.DEFINE_string("output", None, "Label file.", required=True, flag_values=FLAGS)
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
_SPACING = flags.DEFINE_list(
    "spacing",
    None,
    "Resample to this (z,y,x) in mm before sending; the model's own makes the traffic least. "
    "Default: the scan's.",
    flag_values=FLAGS,
)
_TIMEOUT = flags.DEFINE_float(
    "timeout", 600.0, "Seconds to wait for an answer.", lower_bound=0.001, flag_values=FLAGS
)
_WAIT = flags.DEFINE_float(
    "wait",
    60.0,
    "Seconds to try again while the server starts, is busy or cannot be reached.",
    lower_bound=0,
    flag_values=FLAGS,
)


def main() -> None:
    """Reads the flags, sends and writes."""
    output = Path(_OUTPUT.value)
    scan_jobs.check_scan([Path(path) for path in _INPUT.value], output)
    if _VERSION.value is not None and _LABEL.value is not None:
        raise InputError("expected --version or --label, found both")
    spacing = _numbers(_SPACING.value)
    load_tensorflow()
    from tl3d_keras.serving import client, connections

    target = connections.Target(
        _SERVER.value, _MODEL.value, _VERSION.value, _LABEL.value, _TIMEOUT.value, _WAIT.value
    )
    connection = connections.connect(target, _PROTOCOL.value)
    expected, oblique = client.served(connection, target, _tell)
    volume = volume_io.read_channels(_INPUT.value, expected, _SERIES.value, _CHANNEL.value)
    found = volume.array.shape[-1]
    if found != expected:
        raise InputError(f"{_INPUT.value[0]}: expected {expected} channels, found {found}")
    labels = client.segment(volume, connection, target, spacing, _tell, oblique)
    volume_io.write(output, labels)
    print(f"{_INPUT.value[0]} -> {output}")


def _numbers(values: list[str] | None) -> list[float] | None:
    if values is None:
        return None
    try:
        numbers = [float(value) for value in values]
    except ValueError:
        numbers = []
    if len(numbers) != 3 or not all(0.01 <= number <= 100 for number in numbers):
        raise InputError(
            f"expected three numbers of 0.01 to 100 mm for --spacing, found {','.join(values)}"
        )
    return numbers


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def cli() -> None:
    """The console script."""
    run(main, FLAGS)


if __name__ == "__main__":
    cli()
