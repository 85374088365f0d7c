"""Download a blob in parts, several at the same time (``concurrent_layer_fetch_buffer``)."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final

_LEAST: Final = 512
"""Bytes; up to this part size, containerd downloads a blob in one piece."""
_PARTS: Final = 8
"""Parts of a blob in memory: being downloaded or waiting for earlier ones."""


@dataclass(frozen=True, slots=True)
class Ranges:
    """How large blobs are downloaded."""

    size: int = 0
    """Bytes of a part; at most eight parts of a blob are in memory at a time."""
    slots: asyncio.Semaphore | None = None
    """The node's download limit, of which this blob's download already holds one slot; None: no
    limit."""

    def divide(self, length: int) -> bool:
        """Whether ``length`` bytes are downloaded in parts."""
        return _LEAST < self.size < length


async def in_parallel(
    begin: int,
    end: int,
    ranges: Ranges,
    fetch: Callable[[int, int], Coroutine[Any, Any, bytes]],
) -> AsyncGenerator[bytes, None]:
    """The bytes from ``begin`` to ``end``, in order; ``fetch`` downloads one part.

    The first part is fetched alone, so that a server without range support is detected before more
    are requested. Further parts are fetched while the node's limit allows it, but always at least
    one.
    """
    yield await fetch(begin, min(begin + ranges.size, end))
    begin += ranges.size
    parts: deque[asyncio.Task[bytes]] = deque()
    turns = _Turns(ranges.slots)
    try:
        while begin < end or parts:
            while begin < end and len(parts) < _PARTS and await turns.begin():
                part = asyncio.ensure_future(fetch(begin, min(begin + ranges.size, end)))
                part.add_done_callback(turns.end)
                parts.append(part)
                begin += ranges.size
            yield await parts.popleft()
    finally:
        for part in parts:
            part.cancel()
        await asyncio.gather(*parts, return_exceptions=True)


class _Turns:
    """Slots for parts: the blob's own, and any that are free."""

    def __init__(self, slots: asyncio.Semaphore | None) -> None:
        self._slots = slots
        self._running = 0

    async def begin(self) -> bool:
        """Whether another part may start now."""
        if self._running and self._slots is not None:
            if self._slots.locked():
                return False
            await self._slots.acquire()  # does not wait
        self._running += 1
        return True

    def end(self, _: object) -> None:
        """A part has ended; the last one leaves the blob's own slot taken."""
        self._running -= 1
        if self._running and self._slots is not None:
            self._slots.release()
