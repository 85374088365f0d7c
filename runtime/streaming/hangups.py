"""Detects clients that disconnect while reading from them is paused.

The event loop does not poll a paused connection, so a disconnect would be noticed only when reading
resumes, which may be never. One epoll instance, registered with the loop like a socket, polls for
hang-ups only.
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable


class Hangups:
    """The connections whose reading is paused."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._epoll = select.epoll()
        self._watched: dict[int, Callable[[], None]] = {}
        self._loop.add_reader(self._epoll.fileno(), self._look)

    def watch(self, fd: int, hung_up: Callable[[], None]) -> None:
        """Call ``hung_up`` once when the peer closes or resets the connection."""
        self._watched[fd] = hung_up
        self._epoll.register(fd, select.EPOLLRDHUP | select.EPOLLONESHOT)

    def forget(self, fd: int) -> None:
        """Stop watching: reading resumes or the connection is closed. May be called again."""
        if self._watched.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def close(self) -> None:
        """Stop watching all connections."""
        self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()

    def _look(self) -> None:
        for fd, _ in self._epoll.poll(0):
            if hung_up := self._watched.get(fd):
                hung_up()
