"""CPU usage rates, which need two readings of a cgroup's counter."""

from __future__ import annotations

from dataclasses import dataclass

_SECOND = 1_000_000_000


@dataclass(frozen=True, slots=True)
class _Reading:
    at: int
    cpu: int
    nano_cores: int | None


class CpuRates:
    """The CPU rate of each cgroup between its two latest readings.

    `runtime.stats.sampler` adds a reading every ``period`` seconds; each response adds its own.
    With a period of 0 there are only those of the responses.
    """

    def __init__(self, period: float, retention: float) -> None:
        """Readings closer together than half a ``period`` would report the noise of the kernel's
        accounting; a reading older than ``retention`` seconds is not used."""
        self._shortest = int((period / 2 or 1.0) * _SECOND)
        self._longest = int(retention * _SECOND)
        self._latest: dict[str, _Reading] = {}

    def rate(self, key: str, cpu: int | None, at: int) -> int | None:
        """Return the rate up to this reading, in nanocores; None if there is no earlier reading to
        compare with.

        ``cpu`` is in nanoseconds of all cores, ``at`` in those of a monotonic clock.
        """
        if cpu is None:
            return None
        before = self._latest.get(key)
        if before is None or cpu < before.cpu or at - before.at > self._longest:
            # the counter decreased, so it belongs to a new cgroup with the same name
            self._latest[key] = _Reading(at, cpu, None)
            return None
        window = at - before.at
        if window < self._shortest:
            return before.nano_cores
        nano_cores = (cpu - before.cpu) * _SECOND // window
        self._latest[key] = _Reading(at, cpu, nano_cores)
        return nano_cores

    def forget_all_but(self, keys: set[str]) -> None:
        """Drop the readings of removed cgroups."""
        for key in self._latest.keys() - keys:
            del self._latest[key]
