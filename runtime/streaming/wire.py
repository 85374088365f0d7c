"""What a protocol runs over: sends bytes with back-pressure, and can pause reading."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Protocol

from runtime.streaming.channels import UNREAD, Channel


class Wire(Protocol):
    """A connection, or a tunnel inside one."""

    @property
    def full(self) -> bool:
        """Whether the send buffer is so full that nothing should be added."""

    async def drained(self) -> None:
        """Return when it is no longer full, or the connection is lost."""

    def write(self, data: bytes) -> None: ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def close(self) -> None:
        """Send what is buffered, then close."""

    async def closed_by_client(self, seconds: float) -> None:
        """Return when the client has closed, or the time is over."""

    def report(self, fault: str) -> None:
        """Log and count a fault of the client."""


class Congestion:
    """Pauses reading from a connection while one of its channels has too much unread data."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._congested: set[int] = set()

    def fed(self, channel: Channel) -> None:
        """The channel received bytes."""
        if channel.unread > UNREAD and channel.number not in self._congested:
            self._congested.add(channel.number)
            if len(self._congested) == 1:
                self._wire.pause_reading()

    def consumed(self, channel: Channel) -> None:
        """The channel's reader took bytes."""
        if channel.unread <= UNREAD // 2:
            self.forget(channel.number)

    def forget(self, number: int) -> None:
        """The channel is closed."""
        if number in self._congested:
            self._congested.discard(number)
            if not self._congested:
                self._wire.resume_reading()


LINGER: Final = 2.0
"""Seconds that a client has to close after our last message; most close at once."""


def drop_input(*channels: Channel | None) -> None:
    """Drop what the client sends on channels that nothing reads: unread data would stop the
    reading of the whole connection."""
    for channel in channels:
        if channel is not None:
            channel.discard()


def lose(channels: Iterable[Channel]) -> None:
    """The client of these channels disconnected."""
    for channel in list(channels):
        channel.lost()
