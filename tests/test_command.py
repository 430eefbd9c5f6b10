"""What every command says when the system stands in its way."""

import os
import signal
import subprocess
import sys
import types
from pathlib import Path

import pytest
from absl import app, flags

from data_tools import command
from experiments import train_base, transfer
from tl3d_keras import training_run
from tl3d_keras.errors import InputError

ROOT = Path(__file__).resolve().parents[1]


def test_what_the_system_refuses_is_one_line(tmp_path, capsys):
    flags.FLAGS.mark_as_parsed()
    missing = tmp_path / "folder" / "file"
    with pytest.raises(SystemExit) as ended:
        command.guarded(missing.read_bytes)
    assert ended.value.code == command.USER_ERROR
    assert capsys.readouterr().err == f"error: {missing}: No such file or directory\n"


def test_a_full_disk_is_one_line(capsys):
    flags.FLAGS.mark_as_parsed()

    def write():
        with open("/dev/full", "w") as file:
            file.write("x")

    with pytest.raises(SystemExit) as ended:
        command.guarded(write)
    assert ended.value.code == command.USER_ERROR
    assert capsys.readouterr().err == "error: cannot write: No space left on device\n"


def test_no_memory_is_one_line(capsys):
    def large():
        raise MemoryError("Unable to allocate\n9 GiB")

    with pytest.raises(SystemExit) as ended:
        command.guarded(large)
    assert ended.value.code == command.USER_ERROR
    line = "error: expected more memory than there is: Unable to allocate 9 GiB\n"
    assert capsys.readouterr().err == line


def test_other_errors_keep_their_traceback():
    def broken():
        raise OSError("nothing about a file")

    with pytest.raises(OSError, match="nothing about a file"):
        command.guarded(broken)


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_flags_are_finite_numbers(value):
    values = flags.FlagValues()
    flags.DEFINE_float("memory_gib", None, "Of a command.", flag_values=values)
    values(["command", f"--memory_gib={value}"])
    with pytest.raises(InputError, match=f"--memory_gib: expected a finite number, found {value}"):
        command.check_numbers(values)


@pytest.mark.parametrize("module", [train_base, transfer])
def test_training_tells_at_once_through_a_pipe(module, monkeypatch):
    given = {}
    monkeypatch.setattr(training_run, "run", lambda *_, **named: given.update(named))
    module.FLAGS.unparse_flags()
    module.FLAGS(
        ["command", "--records_dir=a", "--output_dir=b", *(["--base=c"] * (module is transfer))]
    )
    module.main()
    flushed = []
    monkeypatch.setattr(
        sys, "stdout", types.SimpleNamespace(write=len, flush=lambda: flushed.append(1))
    )
    given["say"]("a line")
    assert flushed


def test_a_reader_that_has_seen_enough_is_no_error():
    script = (
        "import sys; sys.argv = ['x']\n"
        "from absl import flags; from data_tools import command\n"
        "command.run(lambda: [print('line', flush=True) for _ in range(9**5)], flags.FlagValues())"
    )
    read, write = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, stdout=write, stderr=subprocess.PIPE, text=True
    )
    os.close(write)
    os.close(read)
    assert process.communicate()[1] == "" and process.returncode == command.OTHER_ERROR


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["--help"], 0, ""),
        ([], 2, "error: expected --folder, --model too; --help says what every flag is\n"),
        (["--folder=a", "--model="], 2, "error: --model: expected a value, found none\n"),
        (
            ["--folder=a", "--model=b", "--steps=two"],
            2,
            "error: flag --steps=two: expected a whole number, found 'two'\n",
        ),
        (["--folder=a", "--model=b", "--rate=nan"], 2, "error: --rate: expected a finite number"),
        (["--folder=a", "--model=b", "--rate=x"], 2, "expected a number, found 'x'\n"),
        (["--flagfile=nowhere"], 2, "error: Unable to open flagfile: [Errno 2] No such file or"),
        (["a", "--folder=a", "--model=b"], 2, "error: expected flags alone, found the argument"),
    ],
)
def test_flags_are_refused_in_words_of_their_own(monkeypatch, capsys, arguments, status, said):
    of_command = flags.FlagValues()
    for name in ("folder", "model"):
        flags.DEFINE_string(name, None, "What.", required=True, flag_values=of_command)
    flags.DEFINE_integer("steps", 1, "How many.", flag_values=of_command)
    flags.DEFINE_float("rate", 1.0, "How fast.", flag_values=of_command)
    program = flags.FlagValues()
    flags.DEFINE_flag(app.HelpFlag(), program)
    monkeypatch.setattr(flags, "FLAGS", program)
    monkeypatch.setattr(sys, "argv", ["program", *arguments])
    with pytest.raises(SystemExit) as ended:
        command.run(lambda: None, of_command)
    assert ended.value.code == status
    assert said in capsys.readouterr().err


def test_ctrl_c_is_one_line_and_ends_the_shells_loop(interruptible):
    script = (
        "import atexit, sys, time; sys.argv = ['x']\n"
        "from absl import flags; from data_tools import command\n"
        "def main(): atexit.register(print, 'tidied'); print('ready', flush=True); time.sleep(60)\n"
        "command.run(main, flags.FlagValues())"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate() == ("tidied\n", "error: stopped by Ctrl-C\n")
    assert process.returncode == -signal.SIGINT
