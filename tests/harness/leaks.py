"""What a machine holds that a runtime could leave behind, as sets that can be subtracted."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Self

RUNTIME_PROCESSES = ("containerd", "containerd-shim", "pause", "runc", "cri-containerd")
CGROUP_ROOT = Path("/sys/fs/cgroup")


@dataclasses.dataclass(frozen=True, slots=True)
class Holdings:
    """One look at the machine."""

    processes: frozenset[str]
    mounts: frozenset[str]
    network_namespaces: frozenset[str]
    links: frozenset[str]
    cgroups: frozenset[str]
    cni_results: frozenset[str]
    ip_leases: frozenset[str]

    @classmethod
    def now(cls) -> Self:
        return cls(
            processes=frozenset(_processes()),
            mounts=frozenset(_mounts()),
            network_namespaces=_names(Path("/run/netns")),
            links=_names(Path("/sys/class/net")),
            cgroups=frozenset(_cgroups()),
            cni_results=_names(Path("/var/lib/cni/results")),
            ip_leases=frozenset(str(p) for p in Path("/var/lib/cni/networks").glob("*/*.*.*.*")),
        )

    def since(self, earlier: Self) -> dict[str, list[str]]:
        """Kind → what is here now and was not ``earlier``; empty when nothing was left."""
        left = {
            field.name: sorted(getattr(self, field.name) - getattr(earlier, field.name))
            for field in dataclasses.fields(self)
        }
        return {kind: names for kind, names in left.items() if names}


def _names(directory: Path) -> frozenset[str]:
    return frozenset(p.name for p in directory.iterdir()) if directory.is_dir() else frozenset()


def _processes() -> list[str]:
    found = []
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            name = (directory / "comm").read_text().strip()
            command = (directory / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
            state = (directory / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue  # it ended while we looked
        ours = name.startswith(RUNTIME_PROCESSES) or "runtime.logs.keeper" in command
        if ours and state != "Z":
            found.append(f"{directory.name} {command or name}")
    return found


def _mounts() -> list[str]:
    return [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]


def _cgroups() -> list[str]:
    # os.walk, as cgroups of others come and go while we look
    unified = (CGROUP_ROOT / "cgroup.procs").exists()
    roots = [CGROUP_ROOT] if unified else [p for p in CGROUP_ROOT.iterdir() if not p.is_symlink()]
    return [directory for root in roots for directory, _, _ in os.walk(root)]
