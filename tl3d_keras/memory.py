"""How much memory there is."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_SHARE_OF_FREE_MEMORY = 0.6
# By the controllers that /proc/self/cgroup names: where the kernel mounts the groups (versions 2
# and 1), their limit, what they use, and the part of it that can be had again.
_CGROUPS = {
    "": ("sys/fs/cgroup", "memory.max", "memory.current", ("active_file", "inactive_file")),
    "memory": (
        "sys/fs/cgroup/memory",
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        ("total_active_file", "total_inactive_file"),
    ),
}


def available_memory() -> int:
    """60 % of the memory that is free now, in bytes."""
    return int(_SHARE_OF_FREE_MEMORY * free_memory())


def free_memory(root: str | os.PathLike = "/") -> int:
    """The memory that is free now, in bytes, for this machine and the container around the process.

    Args:
        root: of the file system that tells.
    """
    root = Path(root)
    return max(0, min([_free_in_machine(root), *_free_in_cgroups(root)]))


def _free_in_machine(root: Path) -> int:
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
        fields = dict(line.split(":") for line in lines)
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _free_in_cgroups(root: Path) -> Iterator[int]:
    """What the limit of each control group around this process leaves."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for _, controllers, path in (line.split(":", 2) for line in lines):
        for controller in _CGROUPS.keys() & controllers.split(","):
            mount, limit, use, cached = _CGROUPS[controller]
            # Within a container the path may be that of the host, and the mount its own group.
            group = root / mount / path.lstrip("/")
            for parent in (group, *group.parents):
                # No such group there, or "max": no limit.
                with suppress(OSError, ValueError):
                    yield int((parent / limit).read_text()) - _held(parent, use, cached)


def _held(group: Path, use: str, cached: tuple[str, ...]) -> int:
    """What a group uses but for the files that the kernel keeps until it needs their memory."""
    lines = (group / "memory.stat").read_text().splitlines()
    statistics = dict(line.split() for line in lines)
    return int((group / use).read_text()) - sum(int(statistics.get(name, 0)) for name in cached)


def resident_memory() -> int:
    """What this process holds of the memory now, in bytes; 0 where the system does not say."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def ran_out(error: Exception) -> bool:
    """Whether it says that NumPy, ITK or TensorFlow got no memory."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "ResourceExhaustedError"
        or "Failed to allocate memory" in str(error)
    )
