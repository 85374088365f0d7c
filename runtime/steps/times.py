"""The time of each step of a call, for the debug log and the benchmark, and of whole operations,
for the metrics."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class StepTimes:
    """Milliseconds from the start of the call to the start and the end of each step.

    Steps can overlap; both times are stored, so that the critical path is visible.
    """

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._spans: dict[str, str] = {}

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Measure the block, whether it succeeds or fails."""
        begin = self._now()
        try:
            yield
        finally:
            self._spans[name] = f"{begin:.1f}-{self._now():.1f}"

    def spans(self) -> dict[str, str]:
        """For a log line: step name to ``start-end`` in milliseconds, ordered by end."""
        return dict(self._spans)

    def _now(self) -> float:
        return (time.perf_counter() - self._began) * 1000


class Timer(Protocol):
    """Receives the duration of each successful operation on a pod or container."""

    def __call__(self, operation: str, handler: str, seconds: float) -> None:
        """``handler`` is the name of the pod's runtime handler, "" for the default one."""


def untimed(operation: str, handler: str, seconds: float) -> None:
    """A timer for a server without metrics."""


@contextmanager
def timed(timer: Timer, operation: str, handler: str) -> Iterator[None]:
    """Measure the block if it succeeds."""
    began = time.monotonic()
    yield
    timer(operation, handler, time.monotonic() - began)
