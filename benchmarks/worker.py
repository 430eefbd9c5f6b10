"""A process beside the benchmark that takes turns with others, so that noise meets all alike."""

import json
import subprocess
import sys
from typing import Any


class Worker:
    """A process that takes a turn for every line that it is given."""

    def __init__(self, name: str, command: list[str]) -> None:
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        ready = self._read()
        note = f", {ready['note']}" if "note" in ready else ""
        print(f"  {name}: {ready['parameters']:,} parameters{note}", flush=True)

    def turn(self) -> dict[str, float]:
        """The figures of the next turn."""
        assert self._process.stdin
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self._read()

    def end(self) -> dict[str, float] | None:
        """What it tells at its end, if anything."""
        rest, _ = self._process.communicate()
        return json.loads(rest) if rest else None

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            sys.exit(f"{self._process.args}: ended with {self._process.wait()}")
        return json.loads(line)
