"""The server's own Prometheus metrics: how often each RPC is called and how long it takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

import grpc

from runtime.config.file import ConfigError

Observe: TypeAlias = Callable[[str, grpc.StatusCode, float], None]
"""Gets RPC, code and seconds of each call that ended."""

_BUCKETS: Final = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 120.0)
"""Seconds: from a list answered from memory to the kubelet's own limit."""


def unobserved(rpc: str, code: grpc.StatusCode, seconds: float) -> None:
    """Nobody asked for metrics."""


def serve(address: str) -> Observe:
    """Serve ``/metrics`` at ``host:port`` from a thread; gives the function that records calls.

    Raises ConfigError when the server cannot listen there.
    """
    # Only loaded when wanted: it costs 12 MB and a tenth of a second.
    from prometheus_client import CollectorRegistry, Histogram, start_http_server
    from prometheus_client.platform_collector import PlatformCollector
    from prometheus_client.process_collector import ProcessCollector

    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    calls = Histogram(
        "cri_containerd_rpc_duration_seconds",
        "Seconds that a CRI call took; _count is the number of calls.",
        ("rpc", "code"),
        registry=registry,
        buckets=_BUCKETS,
    )
    host, _, port = address.rpartition(":")
    try:
        start_http_server(int(port), addr=host.strip("[]"), registry=registry)
    except OSError as error:
        raise ConfigError(
            f"metrics.address: cannot listen at {address}: {error.strerror or error}; "
            "choose a free address and port, or leave the key out to serve no metrics"
        ) from error

    def observe(rpc: str, code: grpc.StatusCode, seconds: float) -> None:
        calls.labels(rpc, code.name).observe(seconds)

    return observe
