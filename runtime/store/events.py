"""Events of sandboxes and containers, for followers.

Only `runtime.store.objects` emits events, each after a change of state is saved and visible, so
events arrive in the order of the changes. Without followers, events are kept for up to five
minutes, so a kubelet that reconnects learns what happened meanwhile. A follower that does not read
is cut off: it delays no other follower and its queue stays bounded.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Final

import structlog

from runtime.errors import CriError, ResourceExhausted, Unavailable
from runtime.transforms.facts import Event

log = structlog.get_logger(__name__)

BACKLOG: Final = 1024
"""Maximum number of unread events of one follower, and of those that wait while nobody follows; an
active reader stays far below it."""

RETENTION: Final = 300.0
"""Seconds that an event waits for a follower if there is none, as in the built-in plugin."""


class Follower:
    """The unread events of one follower, in order."""

    def __init__(self, waiting: Iterable[Event] = ()) -> None:
        self._waiting = deque(waiting)
        self._ended: CriError | None = None
        self._news = asyncio.Event()

    async def get(self) -> Event:
        """Return the next event, waiting for it.

        Raises ResourceExhausted if the reader fell more than `BACKLOG` events behind: it has missed
        some, and must list the objects before it follows again. Raises Unavailable after the last
        event if the server stops.
        """
        while not self._waiting:
            if self._ended is not None:
                raise self._ended
            self._news.clear()
            await self._news.wait()
        return self._waiting.popleft()

    def __len__(self) -> int:
        """How many events wait."""
        return len(self._waiting)

    def _put(self, event: Event) -> None:
        self._waiting.append(event)
        self._news.set()

    def _end(self, why: CriError) -> None:
        self._ended = why
        self._news.set()

    def _cut_off(self) -> None:
        self._waiting.clear()
        self._end(
            ResourceExhausted(
                f"more than {BACKLOG} events waited to be read and were dropped; "
                "list the objects, then follow the events again"
            )
        )


class Events:
    """Passes events from the store to its followers."""

    def __init__(self, dropped: Callable[[int], None] = lambda count: None) -> None:
        """``dropped`` counts events that no follower, or a too slow one, has read."""
        self._count_dropped = dropped
        self._followers: set[Follower] = set()
        self._kept: deque[tuple[float, Event]] = deque()
        """Events that wait for a follower, with the time at which they are dropped."""
        self._said = False
        self._closed: Unavailable | None = None

    def emit(self, event: Event) -> None:
        """Send an event to every follower, without waiting."""
        if not self._followers:
            self._keep(event)
        for follower in list(self._followers):
            if len(follower) < BACKLOG:
                follower._put(event)
                continue
            self._followers.discard(follower)
            self._count_dropped(len(follower) + 1)
            log.warning(
                "a client that follows container events does not read them and was cut off",
                dropped=len(follower) + 1,
            )
            follower._cut_off()

    @contextmanager
    def follow(self) -> Iterator[Follower]:
        """Every event to the end of the block, in order: those that waited, then the new ones.

        Raises Unavailable if the server is stopping.
        """
        if self._closed:
            raise self._closed
        self._drop_expired()
        follower = Follower(event for _, event in self._kept)
        self._kept.clear()
        self._followers.add(follower)
        try:
            yield follower
        finally:
            self._followers.discard(follower)

    def close(self) -> None:
        """Let every follower read what waits for it, then end it; nobody can follow any more."""
        self._closed = Unavailable("the server is stopping; follow the events of the next one")
        for follower in self._followers:
            follower._end(self._closed)
        self._followers.clear()

    def _keep(self, event: Event) -> None:
        self._drop_expired()
        if len(self._kept) == BACKLOG:
            self._kept.popleft()
            self._drop(1)
        self._kept.append((time.monotonic() + RETENTION, event))

    def _drop_expired(self) -> None:
        before = len(self._kept)
        now = time.monotonic()
        while self._kept and self._kept[0][0] <= now:
            self._kept.popleft()
        self._drop(before - len(self._kept))

    def _drop(self, count: int) -> None:
        """Count kept events that were dropped; nobody may ever follow, so it is logged once."""
        if not count:
            return
        self._count_dropped(count)
        if not self._said:
            self._said = True
            log.info(
                "container events are dropped because no client follows them",
                after=f"{RETENTION:.0f} s",
                hint="only a kubelet with the feature gate EventedPLEG does",
            )
