"""The metrics of containerd's built-in CRI plugin under their names, for existing dashboards.

The doubled endings (``_total_total``, ``_seconds_seconds``) are the plugin's. As there, timers
count successful operations only.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import grpc

from runtime.logs.client import LogCounts

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry, Metric

_TIMERS: Final = {
    "ListPodSandbox": ("sandbox_list", "time to list sandboxes"),
    "StreamPodSandboxes": ("stream_sandbox_list", "time to stream sandboxes"),
    "ListContainers": ("container_list", "time to list containers"),
    "StreamContainers": ("stream_container_list", "time to stream containers"),
}
"""By RPC: the name between ``containerd_cri_`` and ``_seconds``."""

_RUNTIME_TIMERS: Final = {
    "sandbox_runtime_create": "time to create a sandbox, with its network",
    "sandbox_runtime_stop": "time to stop a sandbox, with its network",
    "sandbox_remove": "time to remove a sandbox",
    "container_create": "time to create a container",
    "container_start": "time to start a container",
    "container_stop": "time to stop a container",
    "container_remove": "time to remove a container",
    "container_checkpoint": "time to checkpoint a container",
}

_BY_HANDLER: Final = ("sandbox_runtime_stop", "sandbox_remove")
"""Timers whose label ``runtime`` is the name of the handler, not the type of its shim."""

_NETWORK_TIMERS: Final = {
    "set_up_pod": ("sandbox_create_network", "time to create the network for a sandbox"),
    "tear_down_pod": ("sandbox_delete_network", "time to delete a sandbox's network"),
}
"""By operation."""

_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_MIB_PER_SECOND: Final = (0.1, 1, 10, 25, 75, 150, 300, 500, 1000, 2000, 4000)
_MIB: Final = 1 << 20


_LOG_COUNTERS: Final = {
    "input_entries": "Number of log entries received",
    "input_bytes": "Size of logs received",
    "output_entries": "Number of log entries successfully written to disk",
    "output_bytes": "Size of logs successfully written to disk",
    "split_entries": "Number of extra log entries created by splitting entries that exceed the"
    " length limit",
}
"""By name between ``containerd_cri_`` and ``_total``."""


class _Logs:
    """A collector of the log keeper's counts, which start again with each keeper."""

    def __init__(self) -> None:
        self.counts = LogCounts()

    def collect(self) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily

        for name, help in _LOG_COUNTERS.items():
            value = getattr(self.counts, name)
            yield CounterMetricFamily(f"containerd_cri_{name}", help, value=value)


class BuiltinMetrics:
    """All of these metrics; created only if metrics are served."""

    def __init__(self, registry: CollectorRegistry) -> None:
        from prometheus_client import Counter, Gauge, Histogram

        def timer(name: str, help: str, *labels: str) -> Histogram:
            full = f"containerd_cri_{name}_seconds"
            return Histogram(full, help, labels, registry=registry, buckets=_BUCKETS)

        self._timers = {rpc: timer(*named) for rpc, named in _TIMERS.items()}
        self._runtime_timers = {
            name: timer(name, help, "runtime") for name, help in _RUNTIME_TIMERS.items()
        }
        self._network_timers = {op: timer(*named) for op, named in _NETWORK_TIMERS.items()}
        operations = "network_plugin_operations"
        self._operations = Counter(
            f"containerd_cri_{operations}_total_total",
            "Network operations by type: set_up_pod, tear_down_pod.",
            ("operation_type",),
            registry=registry,
        )
        self._operation_errors = Counter(
            f"containerd_cri_{operations}_errors_total_total",
            "Failed network operations by type.",
            ("operation_type",),
            registry=registry,
        )
        self._operation_seconds = timer(
            f"{operations}_duration_seconds", "time of network operations", "operation_type"
        )
        self.logs = _Logs()
        registry.register(self.logs)
        self.events_dropped = Counter(
            "containerd_cri_container_events_dropped_total",
            "Container events that no client of GetContainerEvents has read in time.",
            registry=registry,
        )
        self.pulling = Gauge(
            "containerd_cri_sandboxed_in_progress_image_pulls_total",
            "Image pulls in progress.",
            registry=registry,
        )
        self._pulls = Counter(
            "containerd_cri_sandboxed_image_pulls_total",
            "Image pulls by status: success, failure.",
            ("status",),
            registry=registry,
        )
        self._throughputs = [
            Histogram(
                f"containerd_cri_sandboxed_image_pulling_throughput{ending}",
                "MiB received from the registry per second of a pull that received something.",
                registry=registry,
                buckets=buckets,
            )
            for ending, buckets in (("", _BUCKETS), ("_mibps", _MIB_PER_SECOND))
        ]

    def observe(self, rpc: str, code: grpc.StatusCode, seconds: float) -> None:
        """Count a finished call."""
        timer = self._timers.get(rpc)
        if timer is not None and code is grpc.StatusCode.OK:
            timer.observe(seconds)

    def timed(self, operation: str, handler: str, shim: str, seconds: float) -> None:
        """Count a successful operation on a pod or container; ``shim`` is the type of its
        handler."""
        label = handler if operation in _BY_HANDLER else shim
        self._runtime_timers[operation].labels(label).observe(seconds)

    def network_operated(self, operation: str, seconds: float, *, succeeded: bool) -> None:
        """Count the setup or teardown of a pod's network."""
        self._operations.labels(operation).inc()
        self._operation_seconds.labels(operation).observe(seconds)
        if succeeded:
            self._network_timers[operation].observe(seconds)
        else:
            self._operation_errors.labels(operation).inc()

    def pull_ended(self, *, succeeded: bool, received: int, seconds: float) -> None:
        """Count a finished pull."""
        self.pulling.dec()
        self._pulls.labels("success" if succeeded else "failure").inc()
        if succeeded and received and seconds > 0:
            for throughput in self._throughputs:
                throughput.observe(received / _MIB / seconds)
