"""The built-in plugin's metrics, as a scraper reads them."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, generate_latest

from runtime.logs.client import LogCounts
from runtime.server.builtin_metrics import BuiltinMetrics


def test_logs_are_counted_under_the_plugins_names() -> None:
    registry = CollectorRegistry()
    metrics = BuiltinMetrics(registry)
    metrics.logs.counts = LogCounts(
        input_entries=1, input_bytes=2, output_entries=3, output_bytes=4, split_entries=5
    )
    lines = generate_latest(registry).decode().splitlines()
    assert [
        line for line in lines if line.startswith(("containerd_cri_in", "containerd_cri_out"))
    ] == [
        "containerd_cri_input_entries_total 1.0",
        "containerd_cri_input_bytes_total 2.0",
        "containerd_cri_output_entries_total 3.0",
        "containerd_cri_output_bytes_total 4.0",
    ]
    assert "containerd_cri_split_entries_total 5.0" in lines
    metrics.logs.counts = LogCounts()  # of a new keeper
    assert registry.get_sample_value("containerd_cri_input_bytes_total") == 0
