"""Ctrl-C on a terminal reaches the processes of a pool too: one line, of the command alone."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = """
import sys, time
from absl import flags
from data_tools import command, process_pool
sys.argv = ["x"]
def main():
    with process_pool.SpawnedPool(2) as pool:
        futures = [pool.submit(print, "working", flush=True), pool.submit(time.sleep, SECONDS)]
        print("submitted", flush=True)
        for future in futures:
            future.result()
command.run(main, flags.FlagValues())
"""


def start(moment: str, seconds: float):
    """The command as it is at that moment, leading a group of processes."""
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT.replace("SECONDS", str(seconds))],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while process.stdout.readline() != f"{moment}\n":
        pass
    return process


@pytest.mark.parametrize("moment", ["submitted", "working"])
@pytest.mark.parametrize("delay", [0, 0.1])
def test_ctrl_c_is_one_line_and_ends_all_at_once(interruptible, moment, delay):
    process = start(moment, 60)
    time.sleep(delay)
    os.killpg(process.pid, signal.SIGINT)
    assert process.communicate(timeout=30)[1] == "error: stopped by Ctrl-C\n"
    assert process.returncode == -signal.SIGINT


def test_what_a_shell_runs_in_the_background_goes_on():
    former = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process = start("working", 2)
    finally:
        signal.signal(signal.SIGINT, former)
    os.killpg(process.pid, signal.SIGINT)
    assert process.communicate(timeout=30)[1] == ""
    assert process.returncode == 0
