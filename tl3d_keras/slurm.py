"""The workers of a SLURM step, from the variables that srun sets.

TensorFlow's `SlurmClusterResolver` sorts hosts by name, which puts n10 before n9 and tasks on hosts
where they aren't, and it needs a GPU for every task.
"""

import re
from collections.abc import Iterator, Mapping

from tl3d_keras.errors import InputError

# Jobs that share a node get other ports.
_FIRST_PORT, _PORTS = 15000, 15000
_NODE = r"[^,\[\]]+(\[\d+(-\d+)?(,\d+(-\d+)?)*\])?"
_COUNT = r"\d+(\(x\d+\))?"


def step_workers(environment: Mapping[str, str]) -> tuple[list[str], int]:
    """The addresses, `host:port`, of a step's workers in the order of their ranks, and this rank.

    Args:
        environment: of the process.

    Raises:
        InputError: variables that are absent or make no sense, or tasks not host by host.
    """
    rank = int(_variable(environment, "SLURM_PROCID", r"\d+"))
    hosts = list(_hosts(_variable(environment, "SLURM_STEP_NODELIST", f"{_NODE}(,{_NODE})*")))
    counts = list(
        _counts(_variable(environment, "SLURM_STEP_TASKS_PER_NODE", f"{_COUNT}(,{_COUNT})*"))
    )
    if len(hosts) != len(counts) or rank >= sum(counts):
        raise InputError(
            f"expected SLURM's variables to agree, found rank {rank} of {counts} tasks on {hosts}"
        )
    port = _FIRST_PORT + int(environment.get("SLURM_JOB_ID", 0)) % _PORTS
    places = [(node, local) for node, count in enumerate(counts) for local in range(count)]
    node = int(environment.get("SLURM_NODEID", places[rank][0]))
    if node != places[rank][0]:
        raise InputError(
            f"expected tasks one host after the other (srun --distribution=block), found rank "
            f"{rank} on {hosts[node]}"
        )
    return [f"{hosts[node]}:{port + local}" for node, local in places], rank


def _variable(environment: Mapping[str, str], name: str, pattern: str) -> str:
    value = environment.get(name)
    if value is None or not re.fullmatch(pattern, value):
        found = "none" if value is None else repr(value)
        raise InputError(f"--strategy=workers: expected {name} as srun sets it, found {found}")
    return value


def _hosts(text: str) -> Iterator[str]:
    """n[08-10,12],m to n08, n09, n10, n12, m."""
    for prefix, ranges in re.findall(r"([^,\[]+)(?:\[([^\]]+)\])?", text):
        if not ranges:
            yield prefix
        for part in filter(None, ranges.split(",")):
            first, _, last = part.partition("-")
            for number in range(int(first), int(last or first) + 1):
                yield f"{prefix}{number:0{len(first)}}"


def _counts(text: str) -> Iterator[int]:
    """2(x3),1 to 2, 2, 2, 1."""
    for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", text):
        yield from [int(count)] * int(times or 1)
