"""The memory that is free: that of the machine, or less where a container has a limit."""

from pathlib import Path

import pytest

from tl3d_keras import memory

MACHINE = 8 << 30
V2 = ("memory.max", "memory.current", "active_file {}\ninactive_file {}\nanon 77")
V1 = (
    "memory.limit_in_bytes",
    "memory.usage_in_bytes",
    "active_file 7\ninactive_file 7\ntotal_active_file {}\ntotal_inactive_file {}",
)


@pytest.fixture
def root(tmp_path):
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text(f"MemTotal: 9 kB\nMemAvailable: {MACHINE >> 10} kB\n")
    return tmp_path


def group(folder: Path, names, limit: int | str, used: int, cached=(0, 0)) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    values = limit, used, names[2].format(*cached)
    for name, value in zip((*names[:2], "memory.stat"), values, strict=True):
        (folder / name).write_text(f"{value}\n")


def inside(root: Path, *lines: str) -> None:
    (root / "proc/self/cgroup").write_text("".join(f"{line}\n" for line in lines))


def test_without_groups_it_is_the_machines(root):
    assert memory.free_memory(root) == MACHINE
    inside(root, "0::/")
    assert memory.free_memory(root) == MACHINE
    assert 0 < memory.available_memory() < memory.free_memory()


def test_version_2_takes_the_least_of_the_group_and_those_around_it(root):
    inside(root, "0::/pod/container")
    mount = root / "sys/fs/cgroup"
    group(mount / "pod/container", V2, "max", 1 << 20)
    assert memory.free_memory(root) == MACHINE
    group(mount / "pod", V2, 3 << 30, 1 << 30)
    assert memory.free_memory(root) == 2 << 30
    group(mount / "pod/container", V2, 2 << 30, 1 << 30)
    assert memory.free_memory(root) == 1 << 30


def test_files_that_are_cached_are_free(root):
    inside(root, "0::/")
    group(root / "sys/fs/cgroup", V2, 3 << 30, 3 << 30, (1 << 30, 1 << 20))
    assert memory.free_memory(root) == (1 << 30) + (1 << 20)


def test_the_path_of_the_host_within_a_container(root):
    for line, mount, names in (
        ("0::/../../system.slice/docker-1a.scope", "sys/fs/cgroup", V2),
        ("4:memory:/docker/1a", "sys/fs/cgroup/memory", V1),
    ):
        inside(root, "5:cpu,cpuacct:/docker/1a", line)
        group(root / mount, names, 2 << 30, 1 << 20)
        assert memory.free_memory(root) == (2 << 30) - (1 << 20)


def test_version_1(root):
    inside(root, "12:memory:/kubepods/pod1", "0::/kubepods/pod1")
    mount = root / "sys/fs/cgroup/memory"
    group(mount, V1, 2**63 - 4096, 5 << 30)
    assert memory.free_memory(root) == MACHINE
    group(mount / "kubepods/pod1", V1, 2 << 30, 2 << 30, (1 << 20, 1 << 20))
    assert memory.free_memory(root) == 2 << 20


def test_over_the_limit_nothing_is_free(root):
    inside(root, "0::/")
    group(root / "sys/fs/cgroup", V2, 1 << 30, 2 << 30)
    assert memory.free_memory(root) == 0
