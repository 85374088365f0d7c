"""The server's own Prometheus metrics: calls, durations, objects left out of lists, streams."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import grpc

from runtime.config.tables import ConfigError
from runtime.logs.client import LogCounts
from runtime.server.builtin_metrics import BuiltinMetrics

_BUCKETS: Final = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 120.0)
"""Seconds: from a list answered from memory to the kubelet's own timeout."""


class Metrics:
    """Counts only once it is served, because until then nothing can read it."""

    def __init__(self, *, unsaved: Callable[[], float]) -> None:
        """``unsaved`` returns how many containers have a status that could not be written."""
        self._unsaved = unsaved
        self._served: _Counters | None = None

    def serve(self, address: str) -> None:
        """Serve ``/metrics`` at ``host:port`` from a thread.

        Raises ConfigError when the server cannot listen there.
        """
        self._served = _Counters(address, self._unsaved)

    def observe(self, rpc: str, code: grpc.StatusCode, seconds: float) -> None:
        """Count a finished call."""
        if self._served:
            self._served.calls.labels(rpc, code.name).observe(seconds)
            self._served.builtin.observe(rpc, code, seconds)

    def left_out(self, kind: str) -> None:
        """Count an object (``image``, ``cgroup``, ``network``) that cannot be shown in lists."""
        if self._served:
            self._served.left_out.labels(kind).inc()

    def given_up(self, kind: str) -> None:
        """Count something (``cni``: a pod's network) abandoned because it cannot be undone."""
        if self._served:
            self._served.given_up.labels(kind).inc()

    def events_dropped(self, count: int) -> None:
        """Container events were dropped, because nobody followed them or too slowly."""
        if self._served:
            self._served.builtin.events_dropped.inc(count)

    @property
    def served(self) -> bool:
        """Whether anything can read them."""
        return self._served is not None

    def logs_counted(self, counts: LogCounts) -> None:
        """Show what the log keeper has read and written since it started."""
        if self._served:
            self._served.builtin.logs.counts = counts

    def timed(self, operation: str, handler: str, shim: str, seconds: float) -> None:
        """Count a successful operation on a pod or container."""
        if self._served:
            self._served.builtin.timed(operation, handler, shim, seconds)

    def network_operated(self, operation: str, seconds: float, *, succeeded: bool) -> None:
        """Count a setup (``set_up_pod``) or teardown (``tear_down_pod``) of a pod's network."""
        if self._served:
            self._served.builtin.network_operated(operation, seconds, succeeded=succeeded)

    def pull_began(self) -> None:
        """Count the start of an image pull."""
        if self._served:
            self._served.builtin.pulling.inc()

    def pull_ended(self, *, succeeded: bool, received: int, seconds: float) -> None:
        """Count the end of an image pull that received this many bytes from the registry."""
        if self._served:
            self._served.builtin.pull_ended(succeeded=succeeded, received=received, seconds=seconds)

    def field_ignored(self, field: str) -> None:
        """Count a field of a request, as ``Message.field``, that was set and had no effect."""
        if self._served:
            self._served.fields_ignored.labels(field).inc()

    def field_unknown(self, message: str) -> None:
        """Count a field of a newer CRI in a message of a request."""
        if self._served:
            self._served.fields_unknown.labels(message).inc()

    def stream_began(self, kind: str, transport: str) -> None:
        """Count the start of an ``exec``, ``attach`` or ``portforward`` session, over SPDY or
        WebSocket."""
        if self._served:
            self._served.streams_open.labels(kind, transport).inc()

    def stream_ended(self, kind: str, transport: str, seconds: float) -> None:
        """Count the end of a streaming session."""
        if self._served:
            self._served.streams_open.labels(kind, transport).dec()
            self._served.streams.labels(kind, transport).observe(seconds)

    def stream_fault(self) -> None:
        """Count a streaming client that was refused, violated a protocol, or vanished."""
        if self._served:
            self._served.stream_faults.inc()


class _Counters:
    def __init__(self, address: str, unsaved: Callable[[], float]) -> None:
        # Only loaded if needed: it costs 12 MB and a tenth of a second.
        from prometheus_client import (
            CollectorRegistry,
            Counter,
            Gauge,
            Histogram,
            start_http_server,
        )
        from prometheus_client.platform_collector import PlatformCollector
        from prometheus_client.process_collector import ProcessCollector

        registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        self.calls = Histogram(
            "cri_containerd_rpc_duration_seconds",
            "Duration of CRI calls in seconds; _count is the number of calls.",
            ("rpc", "code"),
            registry=registry,
            buckets=_BUCKETS,
        )
        self.left_out = Counter(
            "cri_containerd_objects_left_out_total",
            "Objects found that cannot be shown in lists; the log has the reason.",
            ("kind",),
            registry=registry,
        )
        self.given_up = Counter(
            "cri_containerd_given_up_total",
            "Things that could not be undone and were abandoned; the log has the details.",
            ("kind",),
            registry=registry,
        )
        self.fields_ignored = Counter(
            "cri_field_set_but_ignored_total",
            "Fields that requests set and that had no effect; COVERAGE.md says why.",
            ("field",),
            registry=registry,
        )
        self.fields_unknown = Counter(
            "cri_containerd_unknown_fields_total",
            "Fields of a newer CRI in requests, by message; they were ignored.",
            ("message",),
            registry=registry,
        )
        self.streams_open = Gauge(
            "cri_containerd_streams_open",
            "Open exec, attach and port-forward sessions.",
            ("kind", "transport"),
            registry=registry,
        )
        self.streams = Histogram(
            "cri_containerd_stream_duration_seconds",
            "Duration of streaming sessions in seconds; _count is the number that ended.",
            ("kind", "transport"),
            registry=registry,
            buckets=_BUCKETS,
        )
        self.stream_faults = Counter(
            "cri_containerd_stream_client_faults_total",
            "Streaming clients or streams that were refused, violated a protocol or vanished.",
            registry=registry,
        )
        self.builtin = BuiltinMetrics(registry)
        Gauge(
            "cri_containerd_unsaved_statuses",
            "Containers whose status is in memory only, because the disk cannot be written.",
            registry=registry,
        ).set_function(unsaved)
        host, _, port = address.rpartition(":")
        try:
            start_http_server(int(port), addr=host.strip("[]"), registry=registry)
        except OSError as error:
            raise ConfigError(
                f"metrics.address: cannot listen at {address}: {error.strerror or error}; "
                "choose a free address and port, or remove the key to serve no metrics"
            ) from error
