"""The metrics of one container or pod, read from its cgroup, from /proc and from its OCI spec.

Which file gives which metric is in spec/metrics.yaml, and in `generated.metrics`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from generated import metrics
from generated.oci import types
from runtime.linux.cgroups import Cgroups, page_sizes
from runtime.readings import (
    ContainerSamples,
    Interface,
    LayerUsage,
    Moment,
    Processes,
    RootFilesystem,
    Sample,
)
from runtime.transforms.metrics import Samples, device_names

if TYPE_CHECKING:
    from runtime.store.objects import Container, Sandbox

_PAGE_SIZE: Final = "{pagesize}"
_OPEN_FILES: Final = "Max open files"


@dataclass(frozen=True, slots=True)
class Reader:
    """Read once per listing: the existing files, and the names of block devices."""

    cgroups: Cgroups
    files: tuple[tuple[str, str], ...]
    read: Callable[..., None]
    """Files of the node's cgroup version."""
    devices: Mapping[tuple[str, str], str]
    """Paths in /dev by major and minor number."""
    filesystems: dict[str, RootFilesystem | None]
    """By directory of a snapshotter; None for a container's writable layer."""

    @classmethod
    def of(cls, cgroups: Cgroups) -> Reader:
        """For this node."""
        one = cgroups.unified is None
        wanted = metrics.FILES_V1 if one else metrics.FILES_V2
        return cls(
            cgroups,
            tuple(_expanded(wanted, page_sizes())),
            metrics.of_files_v1 if one else metrics.of_files_v2,
            device_names(_text("/proc/partitions")),
            {},
        )

    def container(
        self,
        container: Container,
        pod: Sandbox,
        path: str,
        *,
        spec: types.Spec,
        layer: LayerUsage | None,
    ) -> ContainerSamples:
        """The metrics of a running container with the cgroup ``path``.

        Raises FileNotFoundError or ProcessLookupError if it has just exited, OSError or ValueError
        if something cannot be read.
        """
        labels = metrics.labels_of_container(container=container.facts, sandbox=pod.facts)
        samples = Samples(labels, time.time_ns())
        self.read(samples, files=self.cgroups.texts(path, self.files), device_names=self.devices)
        metrics.of_container(
            samples,
            container=container.facts,
            moment=Moment(samples.at),
            processes=_processes(self.cgroups.processes(path), container.status.pid),
            root_filesystem=self._filesystem(layer),
            spec=spec,
        )
        return ContainerSamples(container.id, samples.all)

    def _filesystem(self, layer: LayerUsage | None) -> RootFilesystem | None:
        if layer is None or not layer.root:
            return None
        if layer.root not in self.filesystems:
            self.filesystems[layer.root] = _statvfs(layer.root, self.devices)
        found = self.filesystems[layer.root]
        if found is None:
            return None
        return RootFilesystem(found.device, found.size, found.inodes, found.inodes_free, layer.size)


def of_pod(pod: Sandbox, interfaces: Iterable[Interface]) -> tuple[Sample, ...]:
    """The metrics of a pod's network."""
    samples = Samples(metrics.labels_of_interface(sandbox=pod.facts), time.time_ns())
    for interface in interfaces:
        metrics.of_interface(samples, interface=interface)
    return samples.all


def _expanded(files: Iterable[tuple[str, str]], sizes: Iterable[str]) -> Iterable[tuple[str, str]]:
    for controller, name in files:
        if _PAGE_SIZE in name:
            yield from ((controller, name.replace(_PAGE_SIZE, size)) for size in sizes)
        else:
            yield controller, name


def _processes(pids: list[int], first: int) -> Processes:
    descriptors = sockets = 0
    for pid in pids:
        for target in _targets(f"/proc/{pid}/fd"):
            descriptors += 1
            sockets += target.startswith("socket:")
    return Processes(len(pids), descriptors, sockets, _open_files_limit(first))


def _targets(directory: str) -> Iterable[str]:
    """The targets of a process's file descriptors; empty if it has exited."""
    try:
        names = os.listdir(directory)
    except (FileNotFoundError, ProcessLookupError):
        return
    for name in names:
        try:
            yield os.readlink(f"{directory}/{name}")
        except (FileNotFoundError, ProcessLookupError):
            continue  # closed meanwhile


def _open_files_limit(pid: int) -> int | None:
    for line in _text(f"/proc/{pid}/limits").splitlines():
        if line.startswith(_OPEN_FILES):
            soft = line.removeprefix(_OPEN_FILES).split()[0]
            return int(soft) if soft.isdigit() else None
    return None


def _statvfs(root: str, devices: Mapping[tuple[str, str], str]) -> RootFilesystem | None:
    try:
        found, device = os.statvfs(root), os.stat(root).st_dev
    except OSError:
        return None
    return RootFilesystem(
        device=devices.get((str(os.major(device)), str(os.minor(device))), "/"),
        size=found.f_blocks * found.f_frsize,
        inodes=found.f_files,
        inodes_free=found.f_ffree,
        used=None,
    )


def _text(path: str) -> str:
    """The content of a file of /proc; "" if the process has exited."""
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read()
    except (FileNotFoundError, ProcessLookupError):
        return ""
