"""Rates of CPU use, which need two readings."""

from __future__ import annotations

from dataclasses import dataclass

from runtime.readings import Usage

_SHORTEST_WINDOW = 1_000_000_000
"""Nanoseconds. A shorter one would report the noise of the kernel's accounting."""


@dataclass(frozen=True, slots=True)
class _Rate:
    timestamp: int
    cpu: int
    nano_cores: int | None


class CpuRates:
    """The rate of CPU use of each cgroup between the two latest readings that lie far enough apart.

    Only those who ask make readings: nothing runs in the background, and a client that asks every
    ten seconds gets the mean of these ten.
    """

    def __init__(self) -> None:
        self._latest: dict[str, _Rate] = {}

    def rate(self, key: str, usage: Usage) -> int | None:
        """Billionths of a core used up to ``usage``; None until there were two readings."""
        if usage.cpu is None:
            return None
        before = self._latest.get(key)
        if before is None or usage.cpu < before.cpu:
            # a counter that went back belongs to a new cgroup of the old name
            self._latest[key] = _Rate(usage.timestamp, usage.cpu, None)
            return None
        window = usage.timestamp - before.timestamp
        if window < _SHORTEST_WINDOW:
            return before.nano_cores
        nano_cores = (usage.cpu - before.cpu) * 1_000_000_000 // window
        self._latest[key] = _Rate(usage.timestamp, usage.cpu, nano_cores)
        return nano_cores

    def forget_all_but(self, keys: set[str]) -> None:
        """Drop the readings of cgroups that are no more."""
        for key in self._latest.keys() - keys:
            del self._latest[key]
