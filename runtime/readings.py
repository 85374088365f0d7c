"""Measured values of containers and pods, and facts about the node and its daemon; the mapping
copies them into CRI responses.

Times are nanoseconds since the epoch, sizes are bytes. None means not measured: such a value stays
unset in the response and is never 0, which the kubelet and autoscalers would take for a
measurement.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from generated.cri import api_pb2


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes, and counts of page faults since the cgroup was created.

    cgroup v2: memory.current, memory.stat, memory.max; v1: memory.usage_in_bytes, memory.stat,
    memory.limit_in_bytes.
    """

    usage: int
    inactive_file: int
    rss: int
    page_faults: int
    major_page_faults: int
    limit: int | None

    @property
    def working_set(self) -> int:
        """Memory that cannot be reclaimed immediately; the kubelet evicts by it."""
        return max(0, self.usage - self.inactive_file)

    @property
    def available(self) -> int | None:
        """The unused part of the limit; None without a limit."""
        return None if self.limit is None else max(0, self.limit - self.working_set)


@dataclass(frozen=True, slots=True)
class Swap:
    """Bytes; ``limit`` is for swap only, in both cgroup versions."""

    usage: int
    limit: int | None

    @property
    def available(self) -> int | None:
        """The unused part of the limit; None without a limit."""
        return None if self.limit is None else max(0, self.limit - self.usage)


@dataclass(frozen=True, slots=True)
class Stall:
    """One line of a pressure file: percentages of the last seconds, and total nanoseconds."""

    avg10: float
    avg60: float
    avg300: float
    total: int


@dataclass(frozen=True, slots=True)
class Pressure:
    """How long some, or all, tasks waited for a resource; only on cgroup v2."""

    some: Stall
    full: Stall


@dataclass(frozen=True, slots=True)
class Interface:
    """Counters of one network interface since it was created. Source: /proc/<pid>/net/dev."""

    name: str
    rx_bytes: int
    rx_packets: int
    rx_errors: int
    rx_dropped: int
    tx_bytes: int
    tx_packets: int
    tx_errors: int
    tx_dropped: int


@dataclass(frozen=True, slots=True)
class Network:
    """Traffic of a pod with its own network namespace."""

    default: Interface
    """The interface with the pod's addresses."""
    interfaces: tuple[Interface, ...]
    """The other interfaces."""


@dataclass(frozen=True, slots=True)
class LayerUsage:
    """Disk usage in a file system of a snapshotter, as last measured by containerd."""

    timestamp: int
    size: int
    inodes: int
    root: str
    """The snapshotter's directory, which identifies the file system."""


@dataclass(frozen=True, slots=True)
class Filesystems:
    """Disk usage of images and containers, by snapshotter."""

    images: tuple[LayerUsage, ...]
    containers: tuple[LayerUsage, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a command: its output, up to a limit, and its exit code."""

    stdout: bytes
    stderr: bytes
    exit_code: int


@dataclass(frozen=True, slots=True)
class Stream:
    """A session of the streaming server that waits for its client."""

    url: str


@dataclass(frozen=True, slots=True)
class Details:
    """What a verbose status shows besides."""

    info: Mapping[str, str] = field(default_factory=dict)
    """JSON by key; empty unless the request is verbose."""


@dataclass(frozen=True, slots=True)
class Usage:
    """The statistics of one cgroup including its descendants at one time, and values measured
    with it."""

    timestamp: int
    cpu: int | None
    """Nanoseconds of CPU time on all cores since the cgroup was created."""
    memory: Memory | None
    swap: Swap | None
    """None on a node that cannot limit swap."""
    processes: int | None
    """Processes and threads, from the pids controller."""
    cpu_pressure: Pressure | None = None
    memory_pressure: Pressure | None = None
    io_pressure: Pressure | None = None
    nano_cores: int | None = None
    """Nanocores, averaged between two readings; None until there are two."""
    layer: LayerUsage | None = None
    """Size of the container's writable layer."""
    network: Network | None = None
    """Of a pod with its own network namespace."""
    process_count: int | None = None
    """Of a pod: the processes of its containers."""


@dataclass(frozen=True, slots=True)
class Processes:
    """The processes of a container, its cgroup and those below it. Source: cgroup.procs, /proc."""

    count: int
    descriptors: int
    """Open file descriptors."""
    sockets: int
    """How many of these are sockets."""
    open_files_limit: int | None
    """The soft limit of open files of its first process; None if it has exited or has none."""


@dataclass(frozen=True, slots=True)
class RootFilesystem:
    """The file system that holds a container's root file system. Source: statvfs."""

    device: str
    """Its block device, e.g. ``/dev/sda1``; "/" if it has none of its own."""
    size: int
    inodes: int
    inodes_free: int
    used: int | None
    """What the container wrote, in bytes; None if not measured yet."""


@dataclass(frozen=True, slots=True)
class Moment:
    """When samples were taken."""

    at: int


@dataclass(frozen=True, slots=True)
class MetricDescriptor:
    """One metric of spec/metrics.yaml."""

    name: str
    help: str
    labels: tuple[str, ...]
    """The label keys."""


@dataclass(frozen=True, slots=True)
class MetricDescriptors:
    """What ListMetricDescriptors answers."""

    all: tuple[MetricDescriptor, ...]


@dataclass(frozen=True, slots=True)
class Sample:
    """One value of a metric."""

    name: str
    type: api_pb2.MetricType
    labels: tuple[str, ...]
    """The label values, in the order of the keys."""
    value: int
    at: int


@dataclass(frozen=True, slots=True)
class ContainerSamples:
    """The metrics of one container."""

    container_id: str
    samples: tuple[Sample, ...]


@dataclass(frozen=True, slots=True)
class PodSamples:
    """The metrics of one pod and its containers."""

    pod_sandbox_id: str
    samples: tuple[Sample, ...]
    containers: tuple[ContainerSamples, ...]


@dataclass(frozen=True, slots=True)
class NodeSamples:
    """What ListPodSandboxMetrics answers."""

    pods: tuple[PodSamples, ...]


@dataclass(frozen=True, slots=True)
class Versions:
    """The response of Version."""

    daemon: str
    """containerd's own version."""
    daemon_name: str = "containerd"
    kubelet_api: str = "0.1.0"
    """The version of the kubelet's runtime interface, unchanged since the CRI exists."""
    cri: str = "v1"


@dataclass(frozen=True, slots=True)
class Condition:
    """Whether a condition of the kubelet holds, and why not."""

    type: str
    status: bool = True
    reason: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class HandlerStatus:
    """The features of a runtime handler; "" is the default one."""

    name: str
    recursive_read_only: bool
    user_namespaces: bool


@dataclass(frozen=True, slots=True)
class ServerFeatures:
    """The features of this server, independent of the handler."""

    supplemental_groups_policy: bool = True
    user_namespaces_host_network: bool = False
    """Whether a pod can have a user namespace on the node's network."""


@dataclass(frozen=True, slots=True)
class Node:
    """The response of Status."""

    conditions: tuple[Condition, ...]
    handlers: tuple[HandlerStatus, ...]
    info: Mapping[str, str] = field(default_factory=dict)
    """JSON texts by key; only if requested."""
