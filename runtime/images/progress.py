"""Whether a pull gets on: it ends when bytes are awaited and none comes.

Time in which layers are unpacked does not count, however long it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Final, TypeVar

from runtime.errors import RegistryUnavailable

_STALL_LOOKS: Final = 10.0
"""Seconds between looks at whether bytes still come; half the limit if that is less."""

_T = TypeVar("_T")


class Activity:
    """Whether bytes still come: counts requests under way and remembers the last byte."""

    def __init__(self) -> None:
        self._active = 0
        self._last = 0.0

    @asynccontextmanager
    async def request(self) -> AsyncIterator[None]:
        """The length of one request; the clock starts anew when one begins after a silence."""
        if not self._active:
            self.moved()
        self._active += 1
        try:
            yield
        finally:
            self._active -= 1

    def moved(self) -> None:
        """Bytes have come."""
        self._last = asyncio.get_running_loop().time()

    def stalled(self) -> float:
        """Seconds since the last byte; 0 while nothing is asked for (layers are unpacked)."""
        return asyncio.get_running_loop().time() - self._last if self._active else 0.0


async def unless_stalled(work: Awaitable[_T], activity: Activity, limit: float) -> _T:
    """The result of ``work``.

    RegistryUnavailable when no byte came for ``limit`` seconds; 0 is no limit.
    """
    task = asyncio.ensure_future(work)
    interval = min(_STALL_LOOKS, limit / 2) if limit else None
    try:
        while not (await asyncio.wait({task}, timeout=interval))[0]:
            if activity.stalled() > limit:
                raise RegistryUnavailable(
                    f"no byte came for {limit:g} s " "(images.image_pull_progress_timeout)"
                )
        return task.result()
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
