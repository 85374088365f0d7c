"""Work that several callers want at once and that is done once."""

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
    """Tasks by key; a task that every caller has given up is cancelled."""

    def __init__(self) -> None:
        self._running: dict[Hashable, _Running] = {}

    async def run(self, key: Hashable, start: Callable[[], Coroutine[Any, Any, None]]) -> bool:
        """Return when the work under ``key`` is done; True: by our ``start``, not somebody else's.

        A failure of somebody else's try (their credentials, their cancellation) says nothing of
        ours: then we start our own. Our own failure is raised.
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
        """Whether the task ended well; our own cancellation leaves it to the other callers."""
        running.callers += 1
        try:
            await asyncio.wait({running.task})
        finally:
            running.callers -= 1
            if not running.callers and not running.task.done():
                running.task.cancel()
                await asyncio.wait({running.task})
        return not running.task.cancelled() and running.task.exception() is None
