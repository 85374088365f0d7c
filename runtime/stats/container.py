"""CPU usage rates, which need two readings."""

from __future__ import annotations

from dataclasses import dataclass

from runtime.readings import Usage

_SHORTEST_WINDOW = 1_000_000_000
"""Nanoseconds. Over a shorter interval, the rate would show the noise of the kernel's
accounting."""


@dataclass(frozen=True, slots=True)
class _Rate:
    timestamp: int
    cpu: int
    nano_cores: int | None


class CpuRates:
    """The CPU usage rate of each cgroup, between the two latest readings that are far enough apart.

    Readings are taken only on request, not in the background: a client that asks every ten seconds
    gets the average over ten seconds.
    """

    def __init__(self) -> None:
        self._latest: dict[str, _Rate] = {}

    def rate(self, key: str, usage: Usage) -> int | None:
        """Nanocores used between the last two readings; None until there are two."""
        if usage.cpu is None:
            return None
        before = self._latest.get(key)
        if before is None or usage.cpu < before.cpu:
            # the counter decreased, so it belongs to a new cgroup with the same name
            self._latest[key] = _Rate(usage.timestamp, usage.cpu, None)
            return None
        window = usage.timestamp - before.timestamp
        if window < _SHORTEST_WINDOW:
            return before.nano_cores
        nano_cores = (usage.cpu - before.cpu) * 1_000_000_000 // window
        self._latest[key] = _Rate(usage.timestamp, usage.cpu, nano_cores)
        return nano_cores

    def forget_all_but(self, keys: set[str]) -> None:
        """Drop the readings of removed cgroups."""
        for key in self._latest.keys() - keys:
            del self._latest[key]
