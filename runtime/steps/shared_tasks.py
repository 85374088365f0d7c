"""Work that several callers need at the same time and that is done once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from dataclasses import dataclass
from typing import Any


@dataclass(slots=True)
class _Running:
    task: asyncio.Task[None]
    callers: int = 0


class SharedTasks:
    """Tasks by key; a task is cancelled when all of its callers are."""

    def __init__(self) -> None:
        self._running: dict[Hashable, _Running] = {}

    async def run(self, key: Hashable, start: Callable[[], Coroutine[Any, Any, None]]) -> bool:
        """Wait until the work for ``key`` is done; True if our ``start`` did it.

        If another caller's attempt fails (with its credentials, or by its cancellation), we start
        our own. A failure of our own attempt is raised.
        """
        while True:
            running = self._running.get(key)
            own = running is None
            if running is None:
                running = _Running(asyncio.ensure_future(start()))
                running.task.add_done_callback(lambda _: self._running.pop(key, None))
                self._running[key] = running
            done = await self._wait(running)
            if own:
                running.task.result()
            if own or done:
                return own

    async def _wait(self, running: _Running) -> bool:
        """Whether the task succeeded; our own cancellation does not affect the other callers."""
        running.callers += 1
        try:
            await asyncio.wait({running.task})
        finally:
            running.callers -= 1
            if not running.callers and not running.task.done():
                running.task.cancel()
                await asyncio.wait({running.task})
        return not running.task.cancelled() and running.task.exception() is None
