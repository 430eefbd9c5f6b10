"""Two workers of a cluster train what one device trains, whichever of them dies on the way."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import helpers
import pytest

from tl3d_keras import devices
from tl3d_keras.errors import InputError

ROOT = Path(__file__).resolve().parents[1]
FLAGS = (
    *("--filters=4", "--levels=2", "--padding=same", "--patch_size=8", "--batch_size=4"),
    *("--steps=12", "--steps_per_epoch=2", "--num_validation=1", "--precision=float32"),
    *("--ema=0.9", "--clip_norm=0.5", "--window=-100,300"),
)
keras_2 = pytest.mark.skipif(
    not devices.keras_version().startswith("2."), reason="Keras 3 has no several workers"
)


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for found in sockets:
        found.bind(("127.0.0.1", 0))
    ports = [found.getsockname()[1] for found in sockets]
    for found in sockets:
        found.close()
    return ports


def start(records: Path, output: Path, log: Path, **environment: str) -> subprocess.Popen:
    strategy = "workers" if environment else "one"
    with open(log, "w") as file:
        return subprocess.Popen(
            [
                *(sys.executable, "-m", "experiments.train_base", *FLAGS),
                *(f"--strategy={strategy}", f"--records_dir={records}", f"--output_dir={output}"),
            ],
            cwd=ROOT,
            env={**os.environ, **environment},
            stdout=file,
            stderr=subprocess.STDOUT,
        )


def start_all(records: Path, output: Path) -> list[subprocess.Popen]:
    cluster = {"worker": [f"127.0.0.1:{port}" for port in free_ports(2)]}
    configs = [{"cluster": cluster, "task": {"type": "worker", "index": i}} for i in range(2)]
    return [
        start(records, output, output.with_name(f"log_{i}"), TF_CONFIG=json.dumps(config))
        for i, config in enumerate(configs)
    ]


@pytest.mark.cluster
@keras_2
def test_two_workers_of_which_one_dies(tmp_path):
    records = helpers.write_records(tmp_path, num_cases=5)
    first, second = start_all(records, tmp_path / "run")
    log = tmp_path / "log_0"
    deadline = time.monotonic() + 120
    while "step 4/" not in log.read_text() and first.poll() is None:
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)
    second.kill()
    second.wait()
    assert first.wait(timeout=120) == 1
    assert "run: another worker was lost; start all of them again" in log.read_text()
    for worker in start_all(records, tmp_path / "run"):
        assert worker.wait(timeout=240) == 0
    assert_trained_alike(records, tmp_path)
    assert (tmp_path / "run" / "model" / "1" / "saved_model.pb").is_file()


@keras_2
@pytest.mark.slow
def test_two_tasks_of_a_slurm_step(tmp_path):
    records = helpers.write_records(tmp_path, num_cases=5)
    step = {
        "SLURM_STEP_NODELIST": "127.0.0.1",
        "SLURM_STEP_TASKS_PER_NODE": "2",
        "SLURM_JOB_ID": str(os.getpid()),
    }
    tasks = [
        start(records, tmp_path / "run", tmp_path / f"log_{i}", **step, SLURM_PROCID=str(i))
        for i in range(2)
    ]
    for task in tasks:
        assert task.wait(timeout=240) == 0
    assert_trained_alike(records, tmp_path)


def assert_trained_alike(records: Path, folder: Path) -> None:
    """One device's run has the figures of the workers'."""
    assert start(records, folder / "one", folder / "log_one").wait(timeout=240) == 0
    found, expected = (
        [
            [float(cell) for cell in line.split(",")[2:] if cell]
            for line in (folder / run / "metrics.csv").read_text().splitlines()[1:]
        ]
        for run in ("run", "one")
    )
    assert len(found) == 6
    for row, other in zip(found, expected, strict=True):
        assert row == pytest.approx(other, abs=1e-4)


@pytest.mark.cluster
@keras_2
def test_no_cluster(monkeypatch):
    for name in ("TF_CONFIG", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InputError, match="expected a cluster in TF_CONFIG or in SLURM's variables"):
        devices.choose_strategy("workers")


def test_keras_3_says_how_to_switch(monkeypatch):
    monkeypatch.setattr(devices, "keras_version", lambda: "3.15.1")
    with pytest.raises(InputError, match="TF_USE_LEGACY_KERAS=1 after pip install .*cluster"):
        devices.choose_strategy("workers")
