"""The streaming metrics, as a Protocol; `runtime.server.metrics.Metrics` implements it."""

from __future__ import annotations

from typing import Protocol


class Metrics(Protocol):
    """Counts sessions and client faults."""

    def stream_began(self, kind: str, transport: str) -> None: ...

    def stream_ended(self, kind: str, transport: str, seconds: float) -> None: ...

    def stream_fault(self) -> None: ...
