"""The progress of a pull: it fails if bytes are expected and none arrive.

Time spent unpacking layers does not count, however long it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Final, TypeVar

from runtime.errors import RegistryUnavailable

_STALL_LOOKS: Final = 10.0
"""Seconds between checks for progress; half of the limit if that is less."""

_T = TypeVar("_T")


class Activity:
    """Counts running requests and remembers when the last byte arrived."""

    def __init__(self) -> None:
        self._active = 0
        self._last = 0.0
        self.received = 0
        """Bytes that have arrived."""

    @asynccontextmanager
    async def request(self) -> AsyncIterator[None]:
        """Wraps one request; the clock restarts if a request begins after a silence."""
        if not self._active:
            self.moved()
        self._active += 1
        try:
            yield
        finally:
            self._active -= 1

    def moved(self, count: int = 0) -> None:
        """``count`` bytes have arrived."""
        self.received += count
        self._last = asyncio.get_running_loop().time()

    def stalled(self) -> float:
        """Seconds since the last byte; 0 while no request is running (layers are unpacked)."""
        return asyncio.get_running_loop().time() - self._last if self._active else 0.0


async def unless_stalled(work: Awaitable[_T], activity: Activity, limit: float) -> _T:
    """The result of ``work``.

    Raises RegistryUnavailable if no bytes arrive for ``limit`` seconds; 0 means no limit.
    """
    task = asyncio.ensure_future(work)
    interval = min(_STALL_LOOKS, limit / 2) if limit else None
    try:
        while not (await asyncio.wait({task}, timeout=interval))[0]:
            if activity.stalled() > limit:
                raise RegistryUnavailable(
                    f"no data received for {limit:g} s " "(images.image_pull_progress_timeout)"
                )
        return task.result()
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
