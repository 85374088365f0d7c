"""What is counted of streaming; `runtime.server.metrics.Metrics`."""

from __future__ import annotations

from typing import Protocol


class Metrics(Protocol):
    """Told of sessions and of clients' faults."""

    def stream_began(self, kind: str, transport: str) -> None: ...

    def stream_ended(self, kind: str, transport: str, seconds: float) -> None: ...

    def stream_fault(self) -> None: ...
