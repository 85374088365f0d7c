"""The metrics of image pulls, as a Protocol; `runtime.server.metrics.Metrics` implements it."""

from __future__ import annotations

from typing import Protocol


class Metrics(Protocol):
    """Counts pulls."""

    def pull_began(self) -> None: ...

    def pull_ended(self, *, succeeded: bool, received: int, seconds: float) -> None:
        """``received`` are bytes from the registry; 0 if the node had everything."""
