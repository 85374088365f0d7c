"""What nodes of this run hold on the machine, distinguished from what others do there meanwhile.

The machine may run other daemons, pods and tests too. So an object does not count because it is
new: it counts because it has the mark of a node of this run. Marks are the node's folder, its
bridge, its network, and every container ID and network namespace that its server logged (nodes of
tests log at debug level, so that those of failed attempts are logged too).
"""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Self

from . import cgroups
from .waiting import PATIENCE

OWN_PROGRAMS = ("cri-containerd serve", "runtime.logs.keeper", "bin/containerd --config")
"""Parts of the command lines of a node's server, its log keeper and its containerd."""

_LINKS = Path("/sys/class/net")
_NETWORK_NAMESPACES = Path("/run/netns")
_CNI = Path("/var/lib/cni")
_NAMES = re.compile(rb"\b(?:[0-9a-f]{64}|cni-[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\b")


class Marks:
    """The marks of one node: ``directory`` holds its files, among them the logs (``*.log``)."""

    def __init__(
        self, directory: Path, *, bridge: str = "", network: str = "", cgroup_parent: str = ""
    ) -> None:
        self.directory = str(directory)
        self.bridge = bridge
        self.network = network
        self.cgroup_parent = cgroup_parent
        self._names: set[str] = set()
        self._read: dict[Path, int] = {}  # log → bytes of complete lines read
        self._links: set[str] = set()
        self.ended_with = Holdings()

    def names(self) -> set[str]:
        """Container IDs and network namespaces in the logs so far."""
        for log in Path(self.directory).glob("*.log"):
            with log.open("rb") as file:
                file.seek(self._read.get(log, 0))
                lines = file.read()
            whole = lines.rfind(b"\n") + 1
            self._read[log] = self._read.get(log, 0) + whole
            self._names.update(found.decode() for found in _NAMES.findall(lines[:whole]))
        return self._names

    def links(self) -> set[str]:
        """The bridge and every interface ever attached to it that still exists."""
        if self.bridge:
            self._links |= {self.bridge, *_entries(_LINKS / self.bridge / "brif")}
        return self._links & _entries(_LINKS)

    def ip_leases(self) -> set[str]:
        """Address reservations of pods on the node's network."""
        if not self.network:
            return set()
        return {str(path) for path in (_CNI / "networks" / self.network).glob("*.*.*.*")}

    def settle(self, seconds: float = PATIENCE) -> None:
        """Record what the node still holds after everything has ended, waiting at most ``seconds``.

        It counts as left from here on, although the caller continues to delete files, bridge and
        network and ends what still runs.
        """
        deadline = time.monotonic() + seconds
        while True:
            held = Holdings.of([self])
            held = dataclasses.replace(held, links=held.links - {self.bridge})
            if not held.since(Holdings()) or time.monotonic() > deadline:
                break
            time.sleep(0.05)
        self.ended_with = held


_claimed: list[Marks] = []


def claim(
    directory: Path, *, bridge: str = "", network: str = "", cgroup_parent: str = ""
) -> Marks:
    """Count objects with these marks as this run's from here on."""
    marks = Marks(directory, bridge=bridge, network=network, cgroup_parent=cgroup_parent)
    _claimed.append(marks)
    return marks


@dataclasses.dataclass(frozen=True, slots=True)
class Holdings:
    """What the claimed nodes hold now."""

    processes: frozenset[str] = frozenset()
    mounts: frozenset[str] = frozenset()
    network_namespaces: frozenset[str] = frozenset()
    links: frozenset[str] = frozenset()
    cgroups: frozenset[str] = frozenset()
    cni_results: frozenset[str] = frozenset()
    ip_leases: frozenset[str] = frozenset()
    firewall_rules: frozenset[str] = frozenset()

    @classmethod
    def now(cls) -> Self:
        """What all claimed nodes hold, and what nodes that ended had left."""
        looks = [cls.of(_claimed), *(marks.ended_with for marks in _claimed)]
        return cls(
            *(
                frozenset().union(*(getattr(look, field.name) for look in looks))
                for field in dataclasses.fields(cls)
            )
        )

    @classmethod
    def of(cls, claimed: Sequence[Marks]) -> Self:
        """What these nodes hold; objects that disappear meanwhile are skipped."""
        names = set().union(*(marks.names() for marks in claimed))
        directories = {marks.directory for marks in claimed}
        networks = {marks.network for marks in claimed if marks.network}
        return cls(
            processes=frozenset(_processes(directories)),
            mounts=frozenset(_mounts(directories, names)),
            network_namespaces=frozenset(_entries(_NETWORK_NAMESPACES) & names),
            links=frozenset().union(*(marks.links() for marks in claimed)),
            cgroups=frozenset(_cgroups(names | {m.cgroup_parent for m in claimed} - {""})),
            cni_results=frozenset(
                entry
                for entry in _entries(_CNI / "results")
                if _mentions(entry, names) or entry.startswith(tuple(f"{n}-" for n in networks))
            ),
            ip_leases=frozenset().union(*(marks.ip_leases() for marks in claimed)),
            firewall_rules=frozenset(
                rule for rule in _firewall_rules() if _mentions(rule, names | networks)
            ),
        )

    def since(self, earlier: Self) -> dict[str, list[str]]:
        """Kind → objects that exist now and were not in ``earlier``; empty if nothing is left."""
        left = {
            field.name: sorted(getattr(self, field.name) - getattr(earlier, field.name))
            for field in dataclasses.fields(self)
        }
        return {kind: names for kind, names in left.items() if names}


def _entries(directory: Path) -> set[str]:
    try:
        return {path.name for path in directory.iterdir()}
    except (FileNotFoundError, NotADirectoryError):
        return set()


def _mentions(text: str, marks: Iterable[str]) -> bool:
    return any(mark in text for mark in marks)


def _processes(directories: set[str]) -> Iterator[str]:
    """Daemons, shims and keepers by their command lines, processes of containers by their root."""
    for proc in Path("/proc").glob("[0-9]*"):
        try:
            command = (proc / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            state = (proc / "stat").read_text().rpartition(")")[2].split()[0]
            if int(proc.name) == os.getpid() or state == "Z":
                continue
            if _mentions(command, directories) or _mentions(_root_mount(proc), directories):
                yield f"{proc.name} {command.strip()}"
        except OSError:
            continue  # it exited meanwhile


def _root_mount(proc: Path) -> str:
    """The line of mountinfo with the root directory of the process."""
    lines = (proc / "mountinfo").read_text(errors="replace").splitlines()
    return next((line for line in reversed(lines) if line.split()[4] == "/"), "")


def _mounts(directories: set[str], names: set[str]) -> Iterator[str]:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        where = line.split()[4]
        if _mentions(line, directories) or where.rpartition("/")[2] in names:
            yield where


def _firewall_rules() -> Iterator[str]:
    """Every rule; CNI plugins write the network and the container into a comment."""
    for program in filter(shutil.which, ("iptables-save", "ip6tables-save")):
        done = subprocess.run([program], capture_output=True, text=True, check=False)
        yield from (line for line in done.stdout.splitlines() if line.startswith("-A "))


def _cgroups(names: set[str]) -> Iterator[str]:
    """Cgroups named ``NAME``, ``NAME.slice`` or ``PREFIX-NAME.scope``."""
    for (
        root
    ) in cgroups.roots():  # os.walk, because cgroups of others appear and disappear meanwhile
        for directory, _, _ in os.walk(root):
            stem = os.path.basename(directory).removesuffix(".slice").removesuffix(".scope")
            if stem in names or stem.rpartition("-")[2] in names:
                yield directory
