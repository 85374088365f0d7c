"""What happened to sandboxes and containers, for those who follow it.

`runtime.store.objects` emits an event after a change of state is saved and visible; nothing else
does, so the order of events is the order of changes. An event names its object only: who passes it
on adds the statuses of that moment. Without followers an event costs nothing and is forgotten.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Event:
    """One change of state that the CRI tells of."""

    kind: str
    """Name in the enum ContainerEventType, e.g. ``CONTAINER_STOPPED_EVENT``."""
    container_id: str
    """The container, or the sandbox itself: the CRI names both in this one field."""
    sandbox_id: str
    at: int
    """Nanoseconds since the epoch."""


class Events:
    """The hub between the store and its followers."""

    def __init__(self) -> None:
        self._followers: set[asyncio.Queue[Event]] = set()

    def emit(self, kind: str, container_id: str, sandbox_id: str) -> None:
        """Tell every follower; never waits for one."""
        if not self._followers:
            return
        event = Event(kind, container_id, sandbox_id, time.time_ns())
        for queue in self._followers:
            queue.put_nowait(event)

    @contextmanager
    def follow(self) -> Iterator[asyncio.Queue[Event]]:
        """Every event from now to the end of the block, in order."""
        queue: asyncio.Queue[Event] = asyncio.Queue()
        self._followers.add(queue)
        try:
            yield queue
        finally:
            self._followers.discard(queue)
