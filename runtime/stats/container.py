"""The CRI's figures of one container, from those of its cgroup.

A figure that nobody measured stays unset, never 0: the kubelet and the autoscalers behind it would
take a 0 for a measurement.
"""

from __future__ import annotations

from dataclasses import dataclass

from generated.cri import api_pb2
from generated.statuses import container_attributes
from runtime.linux.cgroups import Memory, Pressure, Stall, Swap, Usage
from runtime.store.objects import Container
from runtime.transforms.facts import LayerUsage

_SHORTEST_WINDOW = 1_000_000_000
"""Nanoseconds. A shorter one would report the noise of the kernel's accounting."""


@dataclass(frozen=True, slots=True)
class _Rate:
    timestamp: int
    cpu: int
    nano_cores: int | None


class CpuRates:
    """The rate of CPU use of each cgroup between the two latest readings that lie far enough apart.

    Only those who ask make readings: nothing runs in the background, and a client that asks every
    ten seconds gets the mean of these ten.
    """

    def __init__(self) -> None:
        self._latest: dict[str, _Rate] = {}

    def rate(self, key: str, usage: Usage) -> int | None:
        """Billionths of a core used up to ``usage``; None until there were two readings."""
        if usage.cpu is None:
            return None
        before = self._latest.get(key)
        if before is None or usage.cpu < before.cpu:
            # a counter that went back belongs to a new cgroup of the old name
            self._latest[key] = _Rate(usage.timestamp, usage.cpu, None)
            return None
        window = usage.timestamp - before.timestamp
        if window < _SHORTEST_WINDOW:
            return before.nano_cores
        nano_cores = (usage.cpu - before.cpu) * 1_000_000_000 // window
        self._latest[key] = _Rate(usage.timestamp, usage.cpu, nano_cores)
        return nano_cores

    def forget_all_but(self, keys: set[str]) -> None:
        """Drop the readings of cgroups that are no more."""
        for key in self._latest.keys() - keys:
            del self._latest[key]


def read(
    container: Container, usage: Usage, nano_cores: int | None, layer: LayerUsage | None
) -> api_pb2.ContainerStats:
    """The figures of one container."""
    return api_pb2.ContainerStats(
        attributes=container_attributes.read(container=container.facts),
        cpu=cpu_usage(usage, nano_cores),
        memory=memory_usage(usage),
        writable_layer=None if layer is None else _filesystem_usage(layer),
        swap=swap_usage(usage),
        io=io_usage(usage),
    )


def of_layer(container: Container, layer: LayerUsage | None) -> api_pb2.ContainerStats:
    """What there is of a container that does not run: what it wrote into its root file system."""
    return api_pb2.ContainerStats(
        attributes=container_attributes.read(container=container.facts),
        writable_layer=None if layer is None else _filesystem_usage(layer),
    )


def cpu_usage(usage: Usage, nano_cores: int | None) -> api_pb2.CpuUsage | None:
    """CPU time and its rate."""
    if usage.cpu is None:
        return None
    return api_pb2.CpuUsage(
        timestamp=usage.timestamp,
        usage_core_nano_seconds=_value(usage.cpu),
        usage_nano_cores=_value(nano_cores),
        psi=psi_stats(usage.cpu_pressure),
    )


def memory_usage(usage: Usage) -> api_pb2.MemoryUsage | None:
    """Memory in use and what is left of the limit."""
    memory = usage.memory
    if memory is None:
        return None
    return api_pb2.MemoryUsage(
        timestamp=usage.timestamp,
        working_set_bytes=_value(memory.working_set),
        available_bytes=_value(_available(memory)),
        usage_bytes=_value(memory.usage),
        rss_bytes=_value(memory.rss),
        page_faults=_value(memory.page_faults),
        major_page_faults=_value(memory.major_page_faults),
        psi=psi_stats(usage.memory_pressure),
    )


def swap_usage(usage: Usage) -> api_pb2.SwapUsage | None:
    """Swap in use; None on a node that cannot limit it."""
    swap: Swap | None = usage.swap
    if swap is None:
        return None
    available = None if swap.limit is None else max(0, swap.limit - swap.usage)
    return api_pb2.SwapUsage(
        timestamp=usage.timestamp,
        swap_available_bytes=_value(available),
        swap_usage_bytes=_value(swap.usage),
    )


def io_usage(usage: Usage) -> api_pb2.IoUsage | None:
    """How long tasks waited for disks; None where the kernel does not tell."""
    if usage.io_pressure is None:
        return None
    return api_pb2.IoUsage(timestamp=usage.timestamp, psi=psi_stats(usage.io_pressure))


def psi_stats(pressure: Pressure | None) -> api_pb2.PsiStats | None:
    """Both lines of a pressure file."""
    if pressure is None:
        return None
    return api_pb2.PsiStats(Full=psi_data(pressure.full), Some=psi_data(pressure.some))


def psi_data(stall: Stall) -> api_pb2.PsiData:
    """One line of a pressure file."""
    return api_pb2.PsiData(
        Total=stall.total, Avg10=stall.avg10, Avg60=stall.avg60, Avg300=stall.avg300
    )


def _available(memory: Memory) -> int | None:
    return None if memory.limit is None else max(0, memory.limit - memory.working_set)


def _filesystem_usage(layer: LayerUsage) -> api_pb2.FilesystemUsage:
    return api_pb2.FilesystemUsage(
        timestamp=layer.timestamp,
        fs_id=api_pb2.FilesystemIdentifier(mountpoint=layer.root),
        used_bytes=_value(layer.size),
        inodes_used=_value(layer.inodes),
    )


def _value(number: int | None) -> api_pb2.UInt64Value | None:
    return None if number is None else api_pb2.UInt64Value(value=number)
