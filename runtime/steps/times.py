"""The time of each step of a call, for the debug log and the benchmark."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


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
