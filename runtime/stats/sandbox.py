"""The CRI's figures of one pod: its cgroup, its network namespace, its running containers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from generated.cri import api_pb2
from generated.statuses import pod_sandbox_attributes
from runtime.linux.cgroups import Usage
from runtime.stats.container import cpu_usage, io_usage, memory_usage
from runtime.store.objects import Sandbox

_DEFAULT_INTERFACE = "eth0"
"""The first interface that CNI configures, by the kubelet's convention."""


@dataclass(frozen=True, slots=True)
class Interface:
    """Counters of one network interface, since it was made."""

    name: str
    rx_bytes: int
    rx_errors: int
    tx_bytes: int
    tx_errors: int


def read(
    sandbox: Sandbox,
    usage: Usage,
    nano_cores: int | None,
    interfaces: Sequence[Interface],
    processes: int,
    containers: Sequence[api_pb2.ContainerStats],
) -> api_pb2.PodSandboxStats:
    """The figures of one pod."""
    return api_pb2.PodSandboxStats(
        attributes=pod_sandbox_attributes.read(sandbox=sandbox.facts),
        linux=api_pb2.LinuxPodSandboxStats(
            cpu=cpu_usage(usage, nano_cores),
            memory=memory_usage(usage),
            network=network_usage(usage.timestamp, interfaces),
            process=process_usage(usage.timestamp, processes),
            containers=containers,
            io=io_usage(usage),
        ),
    )


def network_usage(timestamp: int, interfaces: Sequence[Interface]) -> api_pb2.NetworkUsage | None:
    """Traffic of a pod; None when it has no network of its own. All interfaces are listed, the
    default one among them."""
    if not interfaces:
        return None
    default = next((i for i in interfaces if i.name == _DEFAULT_INTERFACE), interfaces[0])
    return api_pb2.NetworkUsage(
        timestamp=timestamp,
        default_interface=interface_usage(default),
        interfaces=map(interface_usage, interfaces),
    )


def interface_usage(interface: Interface) -> api_pb2.NetworkInterfaceUsage:
    """Traffic of one interface."""
    return api_pb2.NetworkInterfaceUsage(
        name=interface.name,
        rx_bytes=api_pb2.UInt64Value(value=interface.rx_bytes),
        rx_errors=api_pb2.UInt64Value(value=interface.rx_errors),
        tx_bytes=api_pb2.UInt64Value(value=interface.tx_bytes),
        tx_errors=api_pb2.UInt64Value(value=interface.tx_errors),
    )


def process_usage(timestamp: int, processes: int) -> api_pb2.ProcessUsage:
    """How many processes the containers of a pod have."""
    return api_pb2.ProcessUsage(
        timestamp=timestamp, process_count=api_pb2.UInt64Value(value=processes)
    )


def parse_net_dev(text: str) -> list[Interface]:
    """The interfaces of ``text``, the content of /proc/<pid>/net/dev, without the loopback."""
    interfaces = []
    for line in text.splitlines()[2:]:
        name, _, columns = line.partition(":")
        figures = columns.split()
        if name.strip() != "lo" and len(figures) >= 16:
            # columns: 8 of receiving, 8 of sending; both begin with bytes, packets, errors
            received, sent = figures[:8], figures[8:]
            interfaces.append(
                Interface(
                    name.strip(), int(received[0]), int(received[2]), int(sent[0]), int(sent[2])
                )
            )
    return interfaces
