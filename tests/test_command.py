"""What every command says when the system stands in its way."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from absl import flags

from data_tools import command

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
