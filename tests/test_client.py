"""The client: the labels of the segment command, on the input's grid; a line for each failure."""

import contextlib
import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import grpc
import helpers
import numpy as np
import pytest
import stand_in

from experiments import client as client_command
from experiments import segment as segment_command
from tl3d_keras import artifact, resampling, volume_io, volumes
from tl3d_keras.errors import InputError, ServerError
from tl3d_keras.serving import client, connections, served_models
from tl3d_keras.serving.server import Ports, serve
from tl3d_keras.serving.statuses import StatusError, code_of_http, http_status
from tl3d_keras.volumes import Volume

PROTOCOLS = ("grpc", "rest")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    artifact.save(helpers.network(), helpers.info(), folder)
    return folder


@pytest.fixture(scope="module")
def addresses(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stand_in")
    stand_in.save(folder, 1)
    configs = [
        *served_models.single("liver", str(model)),
        *served_models.single("stand_in", str(folder)),
    ]
    configs[1].version_labels["stable"] = 1
    with serve(configs) as ports:
        yield {"grpc": f"127.0.0.1:{ports.grpc}", "rest": f"127.0.0.1:{ports.rest}"}


def rotated(degrees):
    """A direction turned about z."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return (c, -s, 0.0, s, c, 0.0, 0.0, 0.0, 1.0)


GRIDS = {
    "as the model": ((2.0, 1.0, 1.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)),
    "flipped and permuted": ((1.5, 0.8, 1.2), (0.0, 0.0, -1.0, -1.0, 0.0, 0.0, 0.0, 1.0, 0.0)),
    "oblique": ((1.5, 0.8, 1.2), rotated(20)),
    # Gantry tilt.
    "sheared": ((2.0, 1.0, 1.0), (1.0, 0.0, 0.0, 0.0, 1.0, -0.5, 0.0, 0.0, 0.75**0.5)),
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("grid", GRIDS)
def test_it_equals_the_segment_command(
    model, addresses, tmp_path, command, rng, capsys, grid, protocol
):
    spacing, direction = GRIDS[grid]
    # Whole numbers stay whole when `segment` resamples, and do not in the graph.
    kind = np.int16 if grid == "as the model" else np.float32
    array = rng.normal(scale=150, size=(10, 11, 12, 1)).astype(kind)
    scan = tmp_path / "scan.nii.gz"
    volume_io.write(scan, Volume(array, spacing, (-3.0, 4.0, 5.0), direction))
    command(
        segment_command, model=model, input=scan, output=tmp_path / "a.nii.gz", precision="float32"
    )
    command(
        client_command,
        server=addresses[protocol],
        protocol=protocol,
        model="liver",
        input=scan,
        output=tmp_path / "b.nii.gz",
    )
    expected, found = (volume_io.read_labels(tmp_path / f"{name}.nii.gz") for name in "ab")
    volumes.check_same_grid(volume_io.read(scan), found, scan, "b")
    assert len(np.unique(expected.array)) > 1
    assert np.mean(expected.array == found.array) >= 0.999


def test_a_spacing_resamples_an_oblique_scan_along_its_own_axes(rng):
    sent = []

    class Recording(Failing):
        def labels(self, image, spacing, direction=None):
            sent.append((image.shape, spacing, direction))
            return super().labels(image, spacing)

    volume = Volume(rng.normal(size=(4, 6, 8, 1)), (2.0, 1.0, 1.0), direction=rotated(20))
    found = client.segment(volume, Recording(), target_of("host:1"), (4.0, 2.0, 2.0), oblique=True)
    assert sent == [((2, 3, 4, 1), (4.0, 2.0, 2.0), rotated(20))]
    assert found.shape == volume.shape and found.direction == volume.direction


def target_of(address, **values):
    return connections.Target(address, **{"model": "stand_in", "wait": 0} | values)


def test_an_answer_above_grpcs_default_of_4_mib(addresses):
    volume = Volume(np.ones((5, 1024, 1024, 1), np.int16), (2.0, 1.0, 1.0))
    target = target_of(addresses["grpc"], label="stable")
    labels = client.segment(volume, connections.connect(target, "grpc"), target)
    assert labels.array.shape == volume.array.shape and labels.array.min() == 1


def test_an_oblique_scan_for_a_model_that_takes_none(addresses, rng):
    array = np.pad(np.ones((4, 6, 6, 1), np.float32), [(1, 1), (3, 3), (3, 3), (0, 0)])
    volume = Volume(array, (2.0, 1.0, 1.0), direction=rotated(20))
    target = target_of(addresses["grpc"])
    connection = connections.connect(target, "grpc")
    assert client.served(connection, target, print) == (1, False)
    labels = client.segment(volume, connection, target)
    assert labels.direction == volume.direction
    assert np.mean((labels.array > 0) == (array > 0)) > 0.8


class Failing:
    """A connection that fails with each of the codes in turn, then gives labels."""

    def __init__(self, *codes):
        self.codes = list(codes)
        self.asked = 0

    def served(self):
        return connections.Served(1, False)

    def labels(self, image, spacing, direction=None):
        self.asked += 1
        if self.codes:
            raise StatusError(self.codes.pop(0), "the\nreason")
        return np.zeros(image.shape[:3], np.uint8)


VOLUME = Volume(np.zeros((2, 3, 4, 1), np.float32), (2.0, 1.0, 1.0))
SENDERS = {
    "INVALID_ARGUMENT": "refused the scan",
    "OUT_OF_RANGE": "refused the scan",
    "FAILED_PRECONDITION": "exported by tl3d-export",
    "NOT_FOUND": "see --model, --version and --label",
    "UNIMPLEMENTED": "see --server and --protocol",
    "UNAUTHENTICATED": "who asks",
    "PERMISSION_DENIED": "does not let you",
}
SERVERS = {
    "UNAVAILABLE": "cannot reach the server",
    "DEADLINE_EXCEEDED": "see --timeout",
    "RESOURCE_EXHAUSTED": "memory or message limit",
    "CANCELLED": "was cancelled",
    "ABORTED": "gave the request up",
    "INTERNAL": "its log has the reason",
    "UNKNOWN": "its log has the reason",
    "DATA_LOSS": "its log has the reason",
    "ALREADY_EXISTS": "its log has the reason",
}


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code.name != "OK"])
def test_each_status_has_its_line(code):
    kind = InputError if code.name in SENDERS else ServerError
    with pytest.raises(kind) as caught:
        client.segment(VOLUME, Failing(code), target_of("host:1"))
    message = str(caught.value)
    assert message.startswith("host:1: model stand_in: ") and "\n" not in message
    assert (SENDERS | SERVERS)[code.name] in message
    assert message.endswith(f"({code.name}: the reason)")


@pytest.mark.parametrize(
    ("status", "code"),
    [
        *((400, "INVALID_ARGUMENT"), (401, "UNAUTHENTICATED"), (403, "PERMISSION_DENIED")),
        *((404, "NOT_FOUND"), (408, "DEADLINE_EXCEEDED"), (409, "ABORTED")),
        *((413, "RESOURCE_EXHAUSTED"), (429, "RESOURCE_EXHAUSTED"), (499, "CANCELLED")),
        *((500, "INTERNAL"), (501, "UNIMPLEMENTED"), (502, "UNAVAILABLE")),
        *((503, "UNAVAILABLE"), (504, "DEADLINE_EXCEEDED")),
    ],
)
def test_what_http_says(status, code):
    assert code_of_http(status).name == code
    if status not in (408, 413, 502):
        assert http_status(code_of_http(status)) == status


class Clock:
    """Time that passes only where somebody sleeps."""

    def __init__(self):
        self.pauses = []

    def monotonic(self):
        return 1000 + sum(self.pauses)

    def sleep(self, seconds):
        self.pauses.append(seconds)


@pytest.fixture
def pauses(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(client, "time", clock)
    return clock.pauses


def test_what_may_pass_is_tried_again_after_longer_and_longer(pauses):
    unavailable, aborted = grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.ABORTED
    connection, lines = Failing(*[unavailable] * 3, aborted, *[unavailable] * 6), []
    target = target_of("host:1", wait=120)
    labels = client.segment(VOLUME, connection, target, tell=lines.append)
    assert labels.array.shape == VOLUME.array.shape
    assert connection.asked == 11 and len(lines) == 10
    longest = [min(10, 0.5 * 2**n) for n in range(10)]
    assert all(most / 2 <= pause <= most for pause, most in zip(pauses, longest, strict=True))
    assert "UNAVAILABLE: the reason; again in " in lines[0] and lines[0].endswith("for 120 s yet")


def test_a_server_that_does_not_come_is_given_up_in_time(pauses):
    connection = Failing(*[grpc.StatusCode.UNAVAILABLE] * 99)
    message = "is it running, and is --server right. tried for 60 s, see --wait"
    with pytest.raises(ServerError, match=message):
        client.segment(VOLUME, connection, target_of("host:1", wait=60))
    assert connection.asked == len(pauses) + 1 and sum(pauses) == pytest.approx(60)


@pytest.mark.parametrize("code", ["INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED"])
def test_what_stays_is_not_tried_again(pauses, code):
    connection = Failing(grpc.StatusCode[code])
    with pytest.raises((InputError, ServerError)):
        client.segment(VOLUME, connection, target_of("host:1", wait=60))
    assert connection.asked == 1 and not pauses


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_nobody_listens(protocol, pauses):
    target = target_of("127.0.0.1:9", wait=0.1)
    with pytest.raises(ServerError, match="cannot reach the server.*UNAVAILABLE"):
        client.served(connections.connect(target, protocol), target, lambda line: None)
    assert sum(pauses) == pytest.approx(0.1)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_server_that_starts_while_the_client_waits(tmp_path, protocol):
    """Refused at first, as by a server that still loads its models."""
    stand_in.save(tmp_path, 1)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    ports = Ports(*((port, 0) if protocol == "grpc" else (0, port)))
    target = target_of(f"127.0.0.1:{port}", wait=60)
    started = contextlib.ExitStack()

    def start(line):
        lines.append(line)
        if len(lines) == 1:
            configs = served_models.single("stand_in", str(tmp_path))
            started.enter_context(serve(configs, ports=ports))

    lines = []
    with started:
        connection = connections.connect(target, protocol)
        assert client.served(connection, target, start) == (1, False)
    assert 1 <= len(lines) <= 3


@pytest.mark.parametrize(
    ("protocol", "other"), [("grpc", "rest"), ("rest", "grpc")], ids=["grpc", "rest"]
)
def test_the_port_of_the_other_api(addresses, protocol, other):
    target = target_of(addresses[other], timeout=2.0)
    with pytest.raises((InputError, ServerError)) as caught:
        client.served(connections.connect(target, protocol), target, lambda line: None)
    assert "\n" not in str(caught.value)


@pytest.fixture
def other_server():
    """A web server that answers with what is no JSON, or too late."""
    ended = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            if "slow" in self.path:
                ended.wait(10)
            self.send_response(503 if "busy" in self.path else 200)
            self.end_headers()
            self.wfile.write(b"[1]" if "list" in self.path else b"<html>")

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield f"127.0.0.1:{server.server_address[1]}"
    ended.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("page", "does not speak this API.*no REST API there"),
        ("list", "does not speak this API.*expected metadata in the answer"),
        ("busy", r"cannot reach the server, or it is too busy.*\(UNAVAILABLE: HTTP 503"),
        ("slow", r"no answer in time; see --timeout.*DEADLINE_EXCEEDED: 0\.2 s"),
    ],
)
def test_answers_of_another_server(other_server, model, message):
    target = target_of(other_server, model=model, timeout=0.2)
    with pytest.raises((InputError, ServerError), match=message):
        client.served(connections.connect(target, "rest"), target, lambda line: None)


def test_labels_of_another_shape_are_refused():
    class Wrong(Failing):
        def labels(self, image, spacing, direction=None):
            return np.zeros((1, 1, 1), np.uint8)

    with pytest.raises(ServerError, match=r"expected labels of \(2, 3, 4\), found \(1, 1, 1\)"):
        client.segment(VOLUME, Wrong(), target_of("host:1"))


def test_a_scan_above_one_message_is_refused(monkeypatch):
    monkeypatch.setattr(client, "_MOST_BYTES", 95)
    with pytest.raises(InputError, match="expected at most 95 bytes for one message, found 96"):
        client.segment(VOLUME, Failing(), target_of("host:1"))


def test_the_grid_that_is_sent(rng):
    """Axes to superior, posterior, left, as the network saw them, at the scan's own spacing."""
    sent = []

    class Recording(Failing):
        def labels(self, image, spacing, direction=None):
            sent.append((image, spacing))
            return super().labels(image, spacing)

    spacing, direction = GRIDS["flipped and permuted"]
    volume = Volume(rng.normal(size=(3, 4, 5, 2)), spacing, direction=direction)
    client.segment(volume, Recording(), target_of("host:1"))
    expected = resampling.canonical(volume)
    np.testing.assert_array_equal(sent[0][0], expected.array.astype(np.float32))
    assert sent[0][0].dtype == np.float32 and sent[0][1] == expected.spacing


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"output": "a.txt"}, "expected a name that ends in"),
        ({"version": 1, "label": "stable"}, "expected --version or --label, found both"),
        ({"spacing": "1,2"}, "expected three numbers of 0.01 to 100 mm for --spacing"),
        ({"spacing": "1,2,x"}, "expected three numbers"),
        ({"model": "other"}, "see --model, --version and --label"),
        ({"version": 7}, "no version 7"),
        ({"label": "canary"}, "no label 'canary'"),
        ({"input": "missing.nii.gz"}, "no such file"),
        ({"input": "two.nrrd"}, "expected 1 channels, found 2"),
    ],
)
def test_flags_that_are_wrong(addresses, tmp_path, monkeypatch, command, flags, message):
    monkeypatch.chdir(tmp_path)
    volume_io.write("scan.nrrd", VOLUME)
    volume_io.write("two.nrrd", VOLUME.with_array(np.zeros((2, 3, 4, 2), np.float32)))
    given = {
        "server": addresses["grpc"],
        "model": "stand_in",
        "input": "scan.nrrd",
        "output": "labels.nrrd",
    }
    with pytest.raises(InputError, match=message):
        command(client_command, **given | flags)
    assert not (tmp_path / "labels.nrrd").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"output": "folder.nrrd"}, "folder.nrrd: cannot write: expected a file, found a folder"),
        ({"output": "file/labels.nrrd"}, "file/labels.nrrd: cannot write: Not a directory"),
        ({"output": "labels.mhd"}, "labels.mhd: header and data in two files"),
        ({"output": "scan.nrrd"}, "scan.nrrd: expected another file than that of --input"),
        ({"output": "link.nrrd"}, "link.nrrd: expected another file than that of --input"),
        ({"input": "missing.nii.gz"}, "missing.nii.gz: no such file or folder"),
    ],
)
def test_what_cannot_be_written_or_read_is_said_before_the_server_is_asked(
    tmp_path, monkeypatch, command, flags, message
):
    monkeypatch.chdir(tmp_path)
    volume_io.write("scan.nrrd", VOLUME)
    Path("folder.nrrd").mkdir()
    Path("file").touch()
    Path("link.nrrd").symlink_to("scan.nrrd")
    # Nobody listens there.
    given = {"server": "127.0.0.1:9", "wait": 0, "model": "liver", "input": "scan.nrrd"}
    with pytest.raises(InputError, match=message):
        command(client_command, **{**given, "output": "labels.nrrd", **flags})
    assert volume_io.read("scan.nrrd").shape == VOLUME.shape
