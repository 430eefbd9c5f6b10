"""What one sees of a run, and that kills and full disks leave neither gap nor repeat in it."""

import io
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import helpers
import pytest
import tensorflow as tf
from runs import rows

from experiments import train_base, training_flags
from tl3d_keras import artifact, metrics_csv, run_folder, run_report, training_run
from tl3d_keras.callbacks import Progress
from tl3d_keras.errors import InputError
from tl3d_keras.run_settings import RunSettings

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = {
    "filters": 2,
    "levels": 2,
    "padding": "same",
    "patch_size": (8, 16, 16),
    "steps": 8,
    "steps_per_epoch": 3,
    "precision": "float32",
    "strategy": "one",
    "num_validation": 1,
}


@pytest.fixture(scope="module")
def watched(records, tmp_path_factory):
    """A run with all there is to see, and what it said."""
    folder, said = tmp_path_factory.mktemp("watched") / "run", []
    settings = RunSettings(str(records), **SETTINGS)
    training_run.run(settings, folder, said.append, profile=(4, 5), histograms=True)
    return folder, said


def events(folder):
    """Tag -> step -> content of all events that TensorBoard finds, and that none comes twice."""
    found = {}
    for path in sorted((folder / "logs").glob("events*")):
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            event = tf.compat.v1.Event.FromString(record)
            for value in event.summary.value:
                steps = found.setdefault(value.tag, {})
                assert event.step not in steps
                steps[event.step] = tf.make_ndarray(value.tensor).tolist()
    return found


def test_tensorboard(watched):
    found = events(watched[0])
    scalars = {"loss", "dice", "validation_dice", "validation_dice/liver", "validation_dice/spleen"}
    assert scalars | {"validation/case_3", "encoder_0_conv_0/kernel"} <= set(found)
    assert {tuple(steps) for tag, steps in found.items() if tag in scalars} == {(3, 6, 8)}
    assert found["validation/case_3"][8][2].startswith(b"\x89PNG")


def test_how_long_steps_wait_for_data(watched):
    folder, said = watched
    share = json.loads((folder / "run.json").read_text())["input_wait"]
    assert 0 < share < 1
    assert f"waiting for data took {share:.2%} of the steps' time" in said
    # The last epoch of all begins a `fit` of two steps, of which the second one counts.
    assert list(events(folder)["input_wait"]) == [3, 6, 8]
    assert "input_wait" not in rows(folder)[0]


def test_one_line_an_epoch_without_a_terminal(watched):
    lines = [line for line in watched[1] if line.startswith("step ")]
    assert [line.split(":")[0] for line in lines] == ["step 3/8", "step 6/8", "step 8/8"]
    row = rows(watched[0])[0]
    assert f"loss {float(row['loss']):.4f}, Dice {float(row['dice']):.4f}" in lines[0]
    assert f"validation Dice {float(row['validation_dice']):.4f}" in lines[0]
    assert "steps/s" in lines[0] and lines[-1].endswith("00:00 left")


def test_report_page(watched):
    page = (watched[0] / "report.html").read_text()
    assert page.count("data:image/png;base64") == 2
    assert "case_3" in page and "mean validation" not in page and "not finished" not in page


def test_names_in_any_script_whatever_the_locale(tmp_path, ascii_locale):
    folder = run_folder.RunFolder(tmp_path / "run", {})
    for step in (1, 2):
        folder.log({"step": step, "loss": 0.5, "validation_dice/\u809d\u81df": 0.5})
    folder.note()
    folder.close()
    assert [row["validation_dice/\u809d\u81df"] for row in metrics_csv.read(folder.path)] == [
        "0.5"
    ] * 2
    run_report.write(folder.path)
    assert (folder.path / "report.html").is_file()


def test_profile_holds_both_steps(watched):
    (path,) = (watched[0] / "logs").glob("plugins/profile/*/*.xplane.pb")
    try:
        from xprof.convert import raw_to_tool_data
    except ImportError:
        from tensorflow.tsl.profiler.protobuf import xplane_pb2

        space = xplane_pb2.XSpace.FromString(path.read_bytes())
        names = {e.name for plane in space.planes for e in plane.event_metadata.values()}
        assert any("Conv3D" in name for name in names)
        return
    text, _ = raw_to_tool_data.xspace_to_tool_data([str(path)], "trace_viewer", {})
    trace = json.loads(text)["traceEvents"]
    assert any("Conv3D" in event.get("name", "") for event in trace)
    text, _ = raw_to_tool_data.xspace_to_tool_data([str(path)], "input_pipeline_analyzer", {})
    steps = next(table for table in json.loads(text) if "infeed_time_ms_avg" in table.get("p", {}))
    assert [row["c"][0]["v"] for row in steps["rows"]] == ["train 4", "train 5"]
    assert 0 < float(steps["p"]["infeed_time_ms_avg"]) < float(steps["p"]["steptime_ms_average"])


@pytest.mark.parametrize("profile", [(0, 3), (4, 3), (4, 9)])
def test_wrong_profile(records, tmp_path, profile):
    with pytest.raises(InputError, match="--profile: expected two steps of 1 to 8, .* found "):
        training_run.run(RunSettings(str(records), **SETTINGS), tmp_path / "run", profile=profile)
    assert not (tmp_path / "run").exists()


def test_flags():
    train_base.FLAGS.unparse_flags()
    train_base.FLAGS(["x", "--records_dir=r", "--output_dir=o", "--profile=10,20", "--histograms"])
    found = training_flags.watching(train_base.FLAGS)
    assert found == {"profile": (10, 20), "histograms": True}


class Terminal(io.StringIO):
    """Says that it is one."""

    def isatty(self):
        return True


def test_bar_on_a_terminal(monkeypatch):
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    said = []
    progress = Progress(said.append)
    progress.start(100, 40)
    progress.on_epoch_begin(0)
    progress.on_train_batch_end(0, {"loss": tf.constant(0.5), "dice": 0.25})
    progress.show({"loss": 0.75, "dice": 0.5, "validation_dice": 0.125})
    progress.say("a line")
    progress.close()
    last = terminal.getvalue().rpartition("\r")[2]
    assert "41/100" in last and " left, " in last
    assert "loss 0.7500, Dice 0.5000, validation Dice 0.1250" in last
    assert said == ["a line"]


def test_full_disk_keeps_the_last_checkpoint(records, tmp_path):
    """A limit on the size of files, for the disk itself cannot be filled."""
    settings = RunSettings(str(records), **SETTINGS | {"num_validation": 0, "filters": 8})
    training_run.run(settings, tmp_path / "whole")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(line):
        if line.startswith("step 3/"):
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 15, limits[1]))

    try:
        with pytest.raises(InputError, match="checkpoints: cannot write: ") as caught:
            training_run.run(settings, tmp_path / "run", fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(caught.value)
    names = {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()}
    assert names == {"checkpoint", "ckpt-3.index", "ckpt-3.data-00000-of-00001"}
    assert not (tmp_path / "run" / "model").exists()
    training_run.run(settings, tmp_path / "run")
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def assert_same_run(run, whole):
    helpers.assert_equal_weights(
        artifact.load(run / "model").network, artifact.load(whole / "model").network
    )
    assert [path.name for path in (run / "model").iterdir()] == ["1"]
    assert (run / "metrics.csv").read_bytes() == (whole / "metrics.csv").read_bytes()
    found, expected = events(run), events(whole)
    # Of all that is logged, times alone differ.
    assert list(found.pop("input_wait")) == list(expected.pop("input_wait"))
    assert found == expected
    assert len(events(run)["loss"]) == len(rows(run))


# Forks after the imports, for a start takes longer than the run.
_FORKED = """
import os, sys
from data_tools.command import load_tensorflow
load_tensorflow()
from tl3d_keras import training_run
from tl3d_keras.run_settings import RunSettings
for line in sys.stdin:
    pid = os.fork()
    if not pid:
        values, folder = eval(line)
        training_run.run(RunSettings(**values), folder)
        os._exit(0)
    print(pid, flush=True)
    print(os.waitpid(pid, 0)[1], flush=True)
"""


@pytest.mark.parametrize(
    ("kills", "changes"),
    [
        (2, {"steps": 8, "num_validation": 0}),
        pytest.param(10, {"steps": 60}, marks=pytest.mark.slow),
    ],
)
def test_kill_9_at_random_moments(records, tmp_path, kills, changes):
    values = SETTINGS | {"records_dir": str(records), "steps_per_epoch": 2} | changes
    draw = random.Random(kills)
    with subprocess.Popen(
        [sys.executable, "-c", _FORKED],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as server:

        def start(folder):
            server.stdin.write(f"{(values, str(tmp_path / folder))!r}\n")
            server.stdin.flush()
            return int(server.stdout.readline())

        started = time.monotonic()
        start("whole")
        assert server.stdout.readline() == "0\n"
        duration = time.monotonic() - started
        checkpoints = tmp_path / "run" / "checkpoints"
        killed = 0
        for number in range(kills):
            pid = start("run")
            if number % 2:
                time.sleep(draw.uniform(0, 0.25) * duration)
            else:
                wait_for_writing(checkpoints, pid)
                time.sleep(draw.uniform(0, 0.003))
            os.kill(pid, signal.SIGKILL)
            killed += server.stdout.readline() == "9\n"
        assert killed == kills
        start("run")
        assert server.stdout.readline() == "0\n"
        server.stdin.close()
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def wait_for_writing(checkpoints, pid):
    """Until the process begins to write a checkpoint."""
    before = set(checkpoints.glob("*"))
    while not set(checkpoints.glob("*")) - before:
        os.kill(pid, 0)
        time.sleep(0.0005)
