"""CPU counters read in the background, so that the first response already has rates.

Only the counters of running containers and ready pods are read: one small file each.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from generated.lifecycle import ContainerState, SandboxState
from runtime.linux.cgroups import Cgroups
from runtime.stats.rates import CpuRates
from runtime.steps import threads
from runtime.steps.watched import ended, watched

if TYPE_CHECKING:
    from runtime.store.objects import Container, Sandbox, Store


class Sampler:
    """Reads the counters every ``period`` seconds while started; never with a period of 0."""

    def __init__(
        self,
        *,
        store: Store,
        cgroups: Cgroups,
        rates: CpuRates,
        period: float,
        path: Callable[[Container | Sandbox], str | None],
    ) -> None:
        """``path`` finds a cgroup, in a thread; it may raise OSError if there is none."""
        self._store = store
        self._cgroups = cgroups
        self._rates = rates
        self._period = period
        self._path = path
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start to read."""
        if self._period:
            self._task = watched("CPU samples", self._sample_for_ever)

    async def stop(self) -> None:
        """Stop reading."""
        await ended(self._task)

    async def _sample_for_ever(self) -> None:
        while True:
            await asyncio.sleep(self._period)
            await self.sample()

    async def sample(self) -> None:
        """Read each counter once."""
        running = [c for c in self._store.containers if c.state is ContainerState.RUNNING]
        ready = [pod for pod in self._store.sandboxes if pod.state is SandboxState.READY]
        if running or ready:
            await threads.CGROUPS.run(self._read, [*running, *ready])

    def _read(self, objects: Sequence[Container | Sandbox]) -> None:
        for item in objects:
            try:
                path = self._path(item)
                cpu = self._cgroups.cpu(path) if path is not None else None
            except (OSError, ValueError):
                continue  # the response without a rate says why
            self._rates.rate(item.id, cpu, time.monotonic_ns())
