"""What every command says when the system stands in its way."""

import os
import subprocess
import sys
import types
from pathlib import Path

import pytest
from absl import flags

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
