"""What was measured of a container or a pod, and what was found out about the node and its daemon;
the mapping copies it into the CRI's answers.

Times are nanoseconds since the epoch, sizes are bytes. None: nobody measured it. Such a figure
stays unset in the answer, never 0: the kubelet and the autoscalers behind it would take a 0 for a
measurement.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes, and counts of page faults since the cgroup was made.

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
        """What cannot be reclaimed at once; the kubelet evicts by it."""
        return max(0, self.usage - self.inactive_file)

    @property
    def available(self) -> int | None:
        """What is left of the limit; None without one."""
        return None if self.limit is None else max(0, self.limit - self.working_set)


@dataclass(frozen=True, slots=True)
class Swap:
    """Bytes; ``limit`` is of swap alone, whatever the cgroup version."""

    usage: int
    limit: int | None

    @property
    def available(self) -> int | None:
        """What is left of the limit; None without one."""
        return None if self.limit is None else max(0, self.limit - self.usage)


@dataclass(frozen=True, slots=True)
class Stall:
    """One line of a pressure file: percentages of the last seconds, and nanoseconds in all."""

    avg10: float
    avg60: float
    avg300: float
    total: int


@dataclass(frozen=True, slots=True)
class Pressure:
    """How long some, or all, tasks waited for a resource; only cgroup v2 tells it."""

    some: Stall
    full: Stall


@dataclass(frozen=True, slots=True)
class Interface:
    """Counters of one network interface, since it was made. Source: /proc/<pid>/net/dev."""

    name: str
    rx_bytes: int
    rx_errors: int
    tx_bytes: int
    tx_errors: int


@dataclass(frozen=True, slots=True)
class Network:
    """Traffic of a pod that has a network of its own."""

    default: Interface
    """The interface of the pod's addresses."""
    interfaces: tuple[Interface, ...]
    """All of them, the default one too."""


@dataclass(frozen=True, slots=True)
class LayerUsage:
    """What was written into a file system of a snapshotter, as containerd last measured it."""

    timestamp: int
    size: int
    inodes: int
    root: str
    """The snapshotter's directory, which names the file system."""


@dataclass(frozen=True, slots=True)
class Filesystems:
    """What images and containers take, by snapshotter."""

    images: tuple[LayerUsage, ...]
    containers: tuple[LayerUsage, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a command: its output as far as there is room for it, and its exit code."""

    stdout: bytes
    stderr: bytes
    exit_code: int


@dataclass(frozen=True, slots=True)
class Stream:
    """A session of the streaming server that waits for its client."""

    url: str


@dataclass(frozen=True, slots=True)
class Usage:
    """The figures of one cgroup and everything below it, at one moment, with what was measured
    beside it."""

    timestamp: int
    cpu: int | None
    """Nanoseconds of all cores since the cgroup was made."""
    memory: Memory | None
    swap: Swap | None
    """None on a node that cannot limit swap."""
    processes: int | None
    """Processes and threads as the pids controller counts them."""
    cpu_pressure: Pressure | None = None
    memory_pressure: Pressure | None = None
    io_pressure: Pressure | None = None
    nano_cores: int | None = None
    """Billionths of a core, the mean between two readings; None until there were two."""
    layer: LayerUsage | None = None
    """What a container wrote into its root file system."""
    network: Network | None = None
    """Of a pod that has a network of its own."""
    process_count: int | None = None
    """Of a pod: the processes of its containers."""


@dataclass(frozen=True, slots=True)
class Versions:
    """What Version answers."""

    daemon: str
    """containerd's own version."""
    daemon_name: str = "containerd"
    kubelet_api: str = "0.1.0"
    """The version of the kubelet's runtime interface, the same since there is a CRI."""
    cri: str = "v1"


@dataclass(frozen=True, slots=True)
class Condition:
    """Whether something that the kubelet waits for holds, and why not."""

    type: str
    status: bool = True
    reason: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class HandlerStatus:
    """What the kubelet may ask of a runtime handler; "" is the default one."""

    name: str
    recursive_read_only: bool
    user_namespaces: bool


@dataclass(frozen=True, slots=True)
class ServerFeatures:
    """What this server does whichever the handler."""

    supplemental_groups_policy: bool = True
    user_namespaces_host_network: bool = False
    """Becomes true together with user namespaces of any handler."""


@dataclass(frozen=True, slots=True)
class Node:
    """What Status answers."""

    conditions: tuple[Condition, ...]
    handlers: tuple[HandlerStatus, ...]
    info: Mapping[str, str] = field(default_factory=dict)
    """JSON texts by key; only where they are asked for."""
