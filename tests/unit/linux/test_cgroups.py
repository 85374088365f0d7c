"""Statistics from recorded cgroup files of both versions."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from runtime.linux import mountinfo
from runtime.linux.cgroups import (
    Cgroups,
    sandbox_cgroup,
    slice_cgroup,
)
from runtime.readings import Memory, Pressure, Stall, Swap

GROUP = "/kubepods/pod1/c1"

V2 = {
    "cpu.stat": "usage_usec 2500\nuser_usec 2000\nsystem_usec 500\nnr_periods 0\n",
    "memory.current": "50331648\n",
    "memory.max": "67108864\n",
    "memory.stat": "anon 4096\nfile 40960\ninactive_file 16777216\npgfault 77\npgmajfault 3\n",
    "memory.events": "low 0\nhigh 0\nmax 12\noom 1\noom_kill 1\noom_group_kill 0\n",
    "memory.swap.current": "1024\n",
    "memory.swap.max": "0\n",
    "pids.current": "4\n",
    "cpu.pressure": "some avg10=0.50 avg60=0.25 avg300=0.10 total=12\n"
    "full avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
    "memory.pressure": "some avg10=0.00 avg60=0.00 avg300=0.00 total=5\n",
    "io.pressure": "",
}

V1 = {
    "cpuacct/cpuacct.usage": "2500000\n",
    "memory/memory.usage_in_bytes": "50331648\n",
    "memory/memory.limit_in_bytes": "67108864\n",
    "memory/memory.memsw.limit_in_bytes": "100663296\n",
    "memory/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
    "memory/memory.stat": "cache 1\nrss 2\ninactive_file 3\ntotal_rss 4096\ntotal_swap 1024\n"
    "total_inactive_file 16777216\ntotal_pgfault 77\ntotal_pgmajfault 3\n",
    "pids/pids.current": "4\n",
}

MEMORY = Memory(50331648, 16777216, 4096, 77, 3, 67108864)


@pytest.fixture
def v2(tmp_path: Path) -> Cgroups:
    directory = tmp_path / GROUP.lstrip("/")
    directory.mkdir(parents=True)
    for name, content in V2.items():
        (directory / name).write_text(content)
    return Cgroups(str(tmp_path), {})


@pytest.fixture
def v1(tmp_path: Path) -> Cgroups:
    for name, content in V1.items():
        controller, _, file = name.partition("/")
        directory = tmp_path / controller / GROUP.lstrip("/")
        directory.mkdir(parents=True, exist_ok=True)
        (directory / file).write_text(content)
    controllers = ("cpuacct", "memory", "pids")
    return Cgroups(None, {name: str(tmp_path / name) for name in controllers})


def test_cgroup_v2(v2: Cgroups) -> None:
    usage = v2.usage(GROUP)
    assert usage.cpu == 2_500_000
    assert usage.memory == MEMORY
    assert MEMORY.working_set == 33554432
    assert usage.swap == Swap(1024, 0)
    assert usage.processes == 4
    nothing = Stall(0.0, 0.0, 0.0, 0)
    assert usage.cpu_pressure == Pressure(Stall(0.5, 0.25, 0.1, 12_000), nothing)
    # without a "full" line, as kernels before 5.13 write it for the cpu
    assert usage.memory_pressure == Pressure(Stall(0.0, 0.0, 0.0, 5_000), nothing)
    # pressure stall information disabled at boot
    assert usage.io_pressure is None
    assert v2.oom_kills(GROUP) == 1


def test_cgroup_v1(v1: Cgroups) -> None:
    usage = v1.usage(GROUP)
    assert usage.cpu == 2_500_000
    assert usage.memory == MEMORY
    # v1 limits memory and swap together
    assert usage.swap == Swap(1024, 100663296 - 67108864)
    assert usage.processes == 4
    assert usage.cpu_pressure is usage.memory_pressure is usage.io_pressure is None
    assert v1.oom_kills(GROUP) == 2


def test_no_limit_is_none_and_not_a_huge_number(v1: Cgroups, tmp_path: Path) -> None:
    memory = tmp_path / "memory" / GROUP.lstrip("/")
    (memory / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    (memory / "memory.memsw.limit_in_bytes").write_text("9223372036854771712\n")
    usage = v1.usage(GROUP)
    assert usage.memory is not None and usage.memory.limit is None
    assert usage.swap == Swap(1024, None)


def test_max_means_no_limit(v2: Cgroups, tmp_path: Path) -> None:
    for name in ("memory.max", "memory.swap.max"):
        (tmp_path / GROUP.lstrip("/") / name).write_text("max\n")
    usage = v2.usage(GROUP)
    assert usage.memory is not None and usage.memory.limit is None
    assert usage.swap == Swap(1024, None)


def test_without_swap_accounting_swap_is_unset(v1: Cgroups, tmp_path: Path) -> None:
    (tmp_path / "memory" / GROUP.lstrip("/") / "memory.memsw.limit_in_bytes").unlink()
    assert v1.usage(GROUP).swap is None


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_a_removed_cgroup_is_file_not_found(version: str, request: pytest.FixtureRequest) -> None:
    cgroups: Cgroups = request.getfixturevalue(version)
    with pytest.raises(FileNotFoundError):
        cgroups.usage("/kubepods/pod1/gone")
    assert cgroups.oom_kills("/kubepods/pod1/gone") is None


def test_an_empty_or_malformed_file_is_unset(v2: Cgroups, tmp_path: Path) -> None:
    for name in ("memory.current", "pids.current", "memory.max", "cpu.stat"):
        (tmp_path / GROUP.lstrip("/") / name).write_text("")
    for name in ("cpu.pressure", "memory.pressure", "io.pressure"):
        (tmp_path / GROUP.lstrip("/") / name).write_text("some avg10=0.5 tot\n")
    usage = v2.usage(GROUP)
    assert (usage.memory, usage.processes, usage.cpu) == (None, None, None)
    assert usage.cpu_pressure is usage.memory_pressure is usage.io_pressure is None


def test_files_of_a_vanishing_cgroup_are_unset(
    v1: Cgroups, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = os.open

    def going(path: str, flags: int) -> int:
        if path.endswith("pids.current"):
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV), path)
        return opened(path, flags)

    monkeypatch.setattr(os, "open", going)
    usage = v1.usage(GROUP)
    assert usage.processes is None and usage.memory == MEMORY


def test_a_hybrid_node_is_a_v1_node() -> None:
    text = (
        "34 25 0:30 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
        "35 25 0:31 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
        "36 25 0:32 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
    )
    found = Cgroups.of(mountinfo.parse(text))
    assert found.unified is None
    assert found.controllers["cpuacct"] == "/sys/fs/cgroup/cpu,cpuacct"


def test_a_v2_node() -> None:
    text = "34 25 0:30 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
    assert Cgroups.of(mountinfo.parse(text)).unified == "/sys/fs/cgroup"


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("a.slice", "/a.slice"),
        ("a-b-c.slice", "/a.slice/a-b.slice/a-b-c.slice"),
        ("-.slice", ""),
    ],
)
def test_each_dash_of_a_slice_is_a_level(name: str, path: str) -> None:
    assert slice_cgroup(name) == path


@pytest.mark.parametrize(
    ("parent", "path"),
    [
        ("/kubepods/pod1", "/kubepods/pod1"),
        ("kubepods/pod1/", "/kubepods/pod1"),
        ("/kubepods.slice/kubepods-pod1.slice", "/kubepods.slice/kubepods-pod1.slice"),
        ("kubepods-pod1.slice", "/kubepods.slice/kubepods-pod1.slice"),
    ],
)
def test_cgroup_of_a_pod(parent: str, path: str) -> None:
    assert sandbox_cgroup(parent) == path
