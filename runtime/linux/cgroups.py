"""Statistics of a cgroup, read from its files, in one form for cgroup v1 and v2.

Through containerd it would take one call to the shim per container, two milliseconds each; reading
a file takes some microseconds. Absent files (a disabled controller, a kernel without pressure stall
information) give None; a removed cgroup raises FileNotFoundError.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from runtime.linux import mountinfo
from runtime.readings import Memory, Pressure, Stall, Swap, Usage

_UNLIMITED = 1 << 62
"""cgroup v1 writes "no limit" as the largest multiple of the page size below 2^63."""


@dataclass(frozen=True, slots=True)
class Cgroups:
    """Where this node's cgroup file systems are mounted."""

    unified: str | None
    """The mount point of cgroup v2 when it has the controllers; None on cgroup v1."""
    controllers: Mapping[str, str]
    """cgroup v1: the mount point of each controller."""

    @classmethod
    def probe(cls) -> Self:
        """As this process sees them."""
        return cls.of(mountinfo.read())

    @classmethod
    def of(cls, mounts: Sequence[mountinfo.Mount]) -> Self:
        """Those among ``mounts``.

        A node with cgroup v1 controllers is a v1 node, even if cgroup2 is mounted too, because
        there cgroup v2 has no controllers.
        """
        unified: str | None = None
        controllers: dict[str, str] = {}
        for mount in mounts:
            if mount.kind == "cgroup2" and unified is None:
                unified = mount.path
            elif mount.kind == "cgroup":
                for option in mount.options:
                    controllers.setdefault(option, mount.path)
        return cls(None if "memory" in controllers else unified, controllers)

    def usage(self, path: str) -> Usage:
        """The statistics of the cgroup ``path`` (absolute, as in /proc/<pid>/cgroup).

        Raises FileNotFoundError if it does not exist.
        """
        return self._usage_v1(path) if self.unified is None else self._usage_v2(path)

    def cpu(self, path: str) -> int | None:
        """The CPU time of the cgroup ``path`` in nanoseconds of all cores; None if it was removed
        or the node does not account CPU time."""
        if self.unified is None:
            return _number(f"{self._directory('cpuacct', path)}/cpuacct.usage")
        return _cpu_v2(_read(f"{self._directory('', path)}/cpu.stat"))

    def texts(self, path: str, files: Iterable[tuple[str, str]]) -> dict[str, str]:
        """The content of each of ``files`` of the cgroup ``path`` that exists, by name; ``files``
        are cgroup v1 controllers and names."""
        found: dict[str, str] = {}
        for controller, name in files:
            if self.unified is None and controller not in self.controllers:
                continue
            text = _read(f"{self._directory(controller, path)}/{name}")
            if text is not None:
                found[name] = text
        return found

    def processes(self, path: str) -> list[int]:
        """The processes of the cgroup ``path`` and of all below it (v1: in the memory hierarchy).

        Raises FileNotFoundError if it does not exist.
        """
        found: list[int] = []
        left = [self._directory("memory", path)]
        while left:
            directory = left.pop()
            found += [int(pid) for pid in (_read(f"{directory}/cgroup.procs") or "").split()]
            with os.scandir(directory) as entries:
                left += [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
        return found

    def exists(self, path: str) -> bool:
        """Whether the cgroup ``path`` exists (v1: in the memory hierarchy)."""
        return os.path.isdir(self._directory("memory", path))

    def oom_kills(self, path: str) -> int | None:
        """How many processes of the cgroup were OOM-killed; None if unknown, because the cgroup was
        removed or has no memory controller."""
        name = "memory.oom_control" if self.unified is None else "memory.events"
        text = _read(f"{self._directory('memory', path)}/{name}")
        return None if text is None else _pairs(text).get("oom_kill")

    def of_process(self, pid: int) -> str | None:
        """The cgroup of the process ``pid`` (v1: in the memory hierarchy); None if it has
        exited."""
        text = _read(f"/proc/{pid}/cgroup")
        for line in (text or "").splitlines():
            _, controllers, path = line.split(":", 2)
            wanted = "memory" if self.unified is None else ""
            if wanted in controllers.split(","):
                return path
        return None

    def _directory(self, controller: str, path: str) -> str:
        mount = self.controllers.get(controller, "") if self.unified is None else self.unified
        return f"{mount}/{path.strip('/')}"

    def _usage_v2(self, path: str) -> Usage:
        directory = self._directory("", path)
        cpu = _read(f"{directory}/cpu.stat")
        if cpu is None and not os.path.isdir(directory):
            raise FileNotFoundError(directory)
        return Usage(
            timestamp=time.time_ns(),
            cpu=_cpu_v2(cpu),
            memory=_memory_v2(directory),
            swap=_swap_v2(directory),
            processes=_number(f"{directory}/pids.current"),
            cpu_pressure=_pressure(f"{directory}/cpu.pressure"),
            memory_pressure=_pressure(f"{directory}/memory.pressure"),
            io_pressure=_pressure(f"{directory}/io.pressure"),
        )

    def _usage_v1(self, path: str) -> Usage:
        cpu = _number(f"{self._directory('cpuacct', path)}/cpuacct.usage")
        memory = self._directory("memory", path)
        if cpu is None and not os.path.isdir(memory):
            raise FileNotFoundError(memory)
        stat = _pairs(_read(f"{memory}/memory.stat") or "")
        figures = _memory_v1(memory, stat)
        return Usage(
            timestamp=time.time_ns(),
            cpu=cpu,
            memory=figures,
            swap=_swap_v1(memory, stat, figures),
            processes=_number(f"{self._directory('pids', path)}/pids.current"),
        )


def page_sizes(root: str = "/sys/kernel/mm/hugepages") -> tuple[str, ...]:
    """The sizes of huge pages as in the names of cgroup files, e.g. ``2MB``."""
    try:
        names = sorted(os.listdir(root))
    except OSError:
        return ()
    sizes = (name.removeprefix("hugepages-").removesuffix("kB") for name in names)
    return tuple(_page_size(int(size)) for size in sizes if size.isdigit())


def _page_size(kibibytes: int) -> str:
    for shift, unit in ((20, "GB"), (10, "MB")):
        if kibibytes >= 1 << shift:
            return f"{kibibytes >> shift}{unit}"
    return f"{kibibytes}KB"


def sandbox_cgroup(cgroup_parent: str) -> str:
    """The cgroup that the CRI's ``cgroup_parent`` names: a path, or a path that ends in a slice."""
    name = cgroup_parent.rstrip("/").rpartition("/")[2]
    return slice_cgroup(name) if name.endswith(".slice") else "/" + cgroup_parent.strip("/")


def container_cgroup(path: str, container_id: str) -> str:
    """``path`` up to the component with the container's ID, which is its whole cgroup.

    An init system in a container moves itself into a sub-cgroup.
    """
    parts = path.split("/")
    for index, part in enumerate(parts):
        if container_id in part:
            return "/".join(parts[: index + 1])
    return path


def slice_cgroup(name: str) -> str:
    """The cgroup of a systemd slice: each dash in its name is a level (systemd.slice(5))."""
    stem = name.removesuffix(".slice")
    if stem in ("", "-"):
        return ""
    parts = stem.split("-")
    return "".join(f"/{'-'.join(parts[: i + 1])}.slice" for i in range(len(parts)))


def _cpu_v2(stat: str | None) -> int | None:
    microseconds = _pairs(stat or "").get("usage_usec")
    return None if microseconds is None else microseconds * 1000


def _memory_v2(directory: str) -> Memory | None:
    usage = _number(f"{directory}/memory.current")
    if usage is None:
        return None
    stat = _pairs(_read(f"{directory}/memory.stat") or "")
    return Memory(
        usage=usage,
        inactive_file=stat.get("inactive_file", 0),
        rss=stat.get("anon", 0),
        page_faults=stat.get("pgfault", 0),
        major_page_faults=stat.get("pgmajfault", 0),
        limit=_limit(f"{directory}/memory.max"),
    )


def _swap_v2(directory: str) -> Swap | None:
    usage = _number(f"{directory}/memory.swap.current")
    return None if usage is None else Swap(usage, _limit(f"{directory}/memory.swap.max"))


def _memory_v1(directory: str, stat: Mapping[str, int]) -> Memory | None:
    usage = _number(f"{directory}/memory.usage_in_bytes")
    if usage is None:
        return None
    return Memory(
        usage=usage,
        inactive_file=stat.get("total_inactive_file", 0),
        rss=stat.get("total_rss", 0),
        page_faults=stat.get("total_pgfault", 0),
        major_page_faults=stat.get("total_pgmajfault", 0),
        limit=_limit(f"{directory}/memory.limit_in_bytes"),
    )


def _swap_v1(directory: str, stat: Mapping[str, int], memory: Memory | None) -> Swap | None:
    together = _read(f"{directory}/memory.memsw.limit_in_bytes")
    limit = _integer(together)
    if limit is None or memory is None:
        return None
    if limit >= _UNLIMITED:
        return Swap(stat.get("total_swap", 0), None)
    return Swap(stat.get("total_swap", 0), max(0, limit - (memory.limit or 0)))


def _limit(path: str) -> int | None:
    text = _read(path)
    if text is None or text.strip() == "max":
        return None
    limit = _integer(text)
    return limit if limit is not None and limit < _UNLIMITED else None


def _pressure(path: str) -> Pressure | None:
    text = _read(path)
    if not text:
        return None
    stalls: dict[str, Stall] = {}
    for line in text.splitlines():
        try:
            kind, *pairs = line.split()
            figures = dict(pair.split("=", 1) for pair in pairs)
            stalls[kind] = Stall(
                float(figures["avg10"]),
                float(figures["avg60"]),
                float(figures["avg300"]),
                int(figures["total"]) * 1000,
            )
        except (KeyError, ValueError):
            # truncated: return nothing rather than incomplete values
            return None
    # kernels before 5.13 have no "full" line for the cpu
    nothing = Stall(0.0, 0.0, 0.0, 0)
    return Pressure(stalls.get("some", nothing), stalls.get("full", nothing))


def _number(path: str) -> int | None:
    return _integer(_read(path))


def _integer(text: str | None) -> int | None:
    """The number in a file; None if there is none, because reading a cgroup that is being removed
    can return "" as well as an error."""
    try:
        return None if text is None else int(text)
    except ValueError:
        return None


def _pairs(text: str) -> dict[str, int]:
    words = text.split()
    return {
        key: int(value)
        for key, value in zip(words[::2], words[1::2], strict=False)
        if value.isdigit()
    }


def _read(path: str) -> str | None:
    # os.read instead of open(): half the time, and a listing of pods reads a thousand files
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        # ENODEV: from kernfs, for files of a cgroup that is being removed
        if error.errno in (errno.ENOENT, errno.ENODEV, errno.EOPNOTSUPP):
            return None
        raise
    try:
        return os.read(descriptor, 1 << 16).decode()
    except OSError:
        # ENODEV: the cgroup was removed while the file was open; EOPNOTSUPP: PSI is disabled
        return None
    finally:
        os.close(descriptor)
