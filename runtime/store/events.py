"""Events of sandboxes and containers, for followers.

Only `runtime.store.objects` emits events, each after a change of state is saved and visible, so
events arrive in the order of the changes. An event names its object only; the reader adds the
statuses of that moment. Without followers an event costs nothing and is dropped.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from runtime.errors import ResourceExhausted

BACKLOG: Final = 1024
"""Maximum number of unread events of one follower; an active reader stays far below it."""


@dataclass(frozen=True, slots=True)
class Event:
    """One change of state that is a CRI event."""

    kind: str
    """Name in the enum ContainerEventType, e.g. ``CONTAINER_STOPPED_EVENT``."""
    container_id: str
    """ID of the container or sandbox: the CRI uses this one field for both."""
    sandbox_id: str
    at: int
    """Nanoseconds since the epoch."""


class Follower:
    """The unread events of one follower, in order."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[Event | None] = asyncio.Queue()
        self._behind = False

    async def get(self) -> Event:
        """Return the next event, waiting for it.

        Raises ResourceExhausted if the reader fell more than `BACKLOG` events behind: some were
        dropped, and it must list all objects before it follows again.
        """
        return self._checked(None if self._behind else await self._queue.get())

    def get_nowait(self) -> Event:
        """Like ``get``; raises asyncio.QueueEmpty if there is none."""
        return self._checked(None if self._behind else self._queue.get_nowait())

    def empty(self) -> bool:
        """Return whether the reader has taken everything."""
        return self._queue.empty()

    def qsize(self) -> int:
        """Return how many events wait."""
        return self._queue.qsize()

    def _put(self, event: Event) -> bool:
        """Add an event; returns False if the queue is full, which the next ``get`` reports."""
        if self._queue.qsize() >= BACKLOG:
            self._behind = True
            self._queue = asyncio.Queue()
            self._queue.put_nowait(None)
            return False
        self._queue.put_nowait(event)
        return True

    @staticmethod
    def _checked(event: Event | None) -> Event:
        if event is None:
            raise ResourceExhausted(
                f"more than {BACKLOG} events were unread and some were dropped; "
                "list the objects, then follow the events again"
            )
        return event


class Events:
    """Passes events from the store to its followers."""

    def __init__(self) -> None:
        self._followers: set[Follower] = set()

    def emit(self, kind: str, container_id: str, sandbox_id: str) -> None:
        """Send an event to every follower, without waiting."""
        if not self._followers:
            return
        event = Event(kind, container_id, sandbox_id, time.time_ns())
        for follower in list(self._followers):
            if not follower._put(event):
                self._followers.discard(follower)

    @contextmanager
    def follow(self) -> Iterator[Follower]:
        """Receive every event from now to the end of the block, in order."""
        follower = Follower()
        self._followers.add(follower)
        try:
            yield follower
        finally:
            self._followers.discard(follower)
