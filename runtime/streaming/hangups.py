"""Notices clients that close while their connection is not read.

A connection that is paused is not looked at by the event loop, so the end of its client would be
noticed only when it is read again, which may be never. One epoll, which the loop waits for as it
does for a socket, asks for nothing but hang-ups.
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable


class Hangups:
    """The connections that are not read now."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._epoll = select.epoll()
        self._watched: dict[int, Callable[[], None]] = {}
        self._loop.add_reader(self._epoll.fileno(), self._look)

    def watch(self, fd: int, hung_up: Callable[[], None]) -> None:
        """Call ``hung_up``, once, when the peer closes or resets the connection."""
        self._watched[fd] = hung_up
        self._epoll.register(fd, select.EPOLLRDHUP | select.EPOLLONESHOT)

    def forget(self, fd: int) -> None:
        """The connection is read again, or about to be closed. Repeatable."""
        if self._watched.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def close(self) -> None:
        """Watch no more."""
        self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()

    def _look(self) -> None:
        for fd, _ in self._epoll.poll(0):
            if hung_up := self._watched.get(fd):
                hung_up()
