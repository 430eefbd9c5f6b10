"""A killed run ends in the same weights; another run does not go on in its folder."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import helpers
import pytest
from runs import EVERYTHING, rows, settings

from tl3d_keras import (
    artifact,
    training_run,
)
from tl3d_keras.errors import InputError
from tl3d_keras.run_folder import RunFolder

ROOT = Path(__file__).resolve().parents[1]


class Killed(BaseException):
    """Stands for kill -9 at a point of the run."""


@pytest.mark.parametrize(
    ("kill_at", "options"),
    [
        ("before_save", {"deep_supervision": True}),
        ("after_save", EVERYTHING | {"precision": "mixed_float16"}),
        (
            "between_epochs",
            EVERYTHING
            | {"optimizer": "sgd_nesterov", "num_validation": 0, "warmup_steps": 0}
            | {"stages": ("head:2@0.1", "decoder+head:5", "all"), "head_steps": None},
        ),
        (
            "after_save",
            {"mode": "adapter", "stages": ("decoder:4", "all"), "head_steps": None}
            | {"gradient_checkpointing": True},
        ),
    ],
)
def test_a_killed_run_ends_in_the_same_weights(records, tmp_path, monkeypatch, kill_at, options):
    network = helpers.network(filters=4, levels=3 if "deep_supervision" in options else 2)
    base = artifact.save(network, helpers.info(), tmp_path / "base")
    changes = {"num_validation": 1, "mode": "finetune", "base": str(base), "head_steps": 3}
    changes |= options
    whole = training_run.run(settings(records, **changes), tmp_path / "whole")
    save, log, epochs = RunFolder.save, RunFolder.log, []

    def killed_save(folder, state):
        epochs.append(state.step)
        if len(epochs) in (1, 3):
            if kill_at == "after_save":
                save(folder, state)
            raise Killed
        save(folder, state)

    def killed_log(folder, row, *others):
        epochs.append(row["step"])
        if len(epochs) in (1, 3):
            raise Killed
        log(folder, row, *others)

    if kill_at == "between_epochs":
        monkeypatch.setattr(RunFolder, "log", killed_log)
    else:
        monkeypatch.setattr(RunFolder, "save", killed_save)
    kills = 0
    for _ in range(6):
        try:
            resumed = training_run.run(settings(records, **changes), tmp_path / "run")
            break
        except Killed:
            kills += 1
    assert kills >= 2
    helpers.assert_equal_weights(artifact.load(whole).network, artifact.load(resumed).network)
    assert rows(tmp_path / "run") == rows(tmp_path / "whole")


def test_kill_9_and_the_same_command_again(records, tmp_path):
    command = [
        sys.executable,
        "-m",
        "experiments.train_base",
        f"--records_dir={records}",
        "--filters=2",
        "--levels=2",
        "--padding=same",
        "--patch_size=8,16,16",
        "--steps=60",
        "--steps_per_epoch=4",
        "--precision=float32",
    ]
    run = subprocess.Popen(
        [*command, f"--output_dir={tmp_path / 'run'}"],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while not list((tmp_path / "run" / "checkpoints").glob("*.index")):
        assert run.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert not (tmp_path / "run" / "model").exists()
    for folder in ("run", "whole"):
        done = subprocess.run(
            [*command, f"--output_dir={tmp_path / folder}"],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
    helpers.assert_equal_weights(
        artifact.load(tmp_path / "run" / "model").network,
        artifact.load(tmp_path / "whole" / "model").network,
    )
    assert rows(tmp_path / "run") == rows(tmp_path / "whole")


def test_another_run_in_the_folder_is_refused(records, tmp_path):
    training_run.run(settings(records, steps=1), tmp_path / "run")
    with pytest.raises(InputError, match="holds a run with steps=1, found steps=2"):
        training_run.run(settings(records, steps=2), tmp_path / "run")
    folder = RunFolder(tmp_path / "locked", {})
    with pytest.raises(InputError, match="locked: another run is writing there"):
        training_run.run(settings(records), tmp_path / "locked")
    folder.close()
