"""Named byte channels between a client and its command or port, with back-pressure both ways.

A `Channel` is one ordered stream of bytes in each direction, independent of the protocol that
carries it. A session is the set of channels of one client: a `CommandSession` has the channels of a
command, a `PortSession` opens a pair for each connection to a port.

Back-pressure: `Channel.write` waits while the connection, or the peer's window for this channel, is
full. At most `UNREAD` bytes plus one read of the socket are buffered for a channel; above that, the
connection is not read until the channel's reader has caught up.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Final, Protocol

from runtime.streaming.outcome import Outcome

UNREAD: Final = 128 << 10
"""Bytes of one channel that may be buffered for its reader."""

_SMALL: Final = 8 << 10
"""Chunks up to this size are merged: a buffered one-byte frame would cost a hundred bytes."""

MAX_WRITE: Final = 256 << 10
"""Maximum bytes in one frame that we send, so that the channels of a connection take turns."""


class Gone(Exception):
    """The client disconnected or reset this channel: nothing more can be written."""


class Link(Protocol):
    """What a channel needs from the protocol that carries it."""

    def room(self, number: int) -> int:
        """Bytes that may be sent on a channel now."""

    async def wait_for_room(self) -> None:
        """Return when there may be more room."""

    def send(self, number: int, data: bytes) -> None: ...

    def end(self, number: int) -> None: ...

    def reset(self, number: int) -> None: ...

    def fed(self, channel: Channel) -> None:
        """Called when bytes were received on the channel."""

    def consumed(self, channel: Channel, count: int) -> None:
        """Called when the reader has taken bytes."""


class Channel:
    """One two-way byte stream of a client."""

    __slots__ = (
        "_chunks",
        "_discarding",
        "_ended",
        "_finished",
        "_gone",
        "_link",
        "_reader",
        "_take",
        "name",
        "number",
        "unread",
    )

    def __init__(self, link: Link, number: int, name: str) -> None:
        self.name = name
        self.number = number
        self.unread = 0
        """Bytes received but not read yet."""
        self._link = link
        self._chunks: deque[bytes] = deque()
        self._reader: asyncio.Future[None] | None = None
        self._take: Callable[[bytes], bytes] | None = None
        self._ended = False
        self._finished = False
        self._gone = False
        self._discarding = False

    # Used by the command or port that the client is connected to

    async def read(self, take: Callable[[bytes], bytes] | None = None) -> bytes:
        """The next bytes; b"" once the client has closed its side or disconnected.

        What arrives while this waits is first offered to ``take``, which returns the bytes that it
        did not take; only those end the wait.
        """
        while not self._chunks:
            if self._ended or self._gone:
                return b""
            self._reader = asyncio.get_running_loop().create_future()
            self._take = take
            try:
                await self._reader
            finally:
                self._reader = self._take = None
        chunk = self._chunks.popleft()
        self.unread -= len(chunk)
        self._link.consumed(self, len(chunk))
        return chunk

    async def write(self, data: bytes) -> None:
        """Send all bytes, waiting for room as needed. Raises Gone."""
        while data := self.write_now(data):
            if self._gone or self._finished:
                raise Gone
            await self._link.wait_for_room()

    def write_now(self, data: bytes) -> bytes:
        """Send what there is room for and return the rest; `write` raises what this fails with."""
        while data and not (self._gone or self._finished):
            room = min(self._link.room(self.number), MAX_WRITE)
            if room <= 0:
                break
            self._link.send(self.number, data[:room])
            data = data[room:]
        return data

    def end(self) -> None:
        """Send no more; the client may continue to send."""
        if not (self._finished or self._gone):
            self._finished = True
            self._link.end(self.number)

    def reset(self) -> None:
        """Close the channel in both directions."""
        if not self._gone:
            self.lost()
            self._link.reset(self.number)

    def discard(self) -> None:
        """Drop everything received so far and from now on."""
        self._discarding = True
        self._chunks.clear()
        dropped, self.unread = self.unread, 0
        if dropped:
            self._link.consumed(self, dropped)

    # Used by the link

    @property
    def closed(self) -> bool:
        """Whether both sides have ended: nothing more will be sent or received."""
        return self._finished and self._ended

    def feed(self, data: bytes) -> None:
        """The client sent bytes."""
        if self._discarding or self._gone or self._ended:
            self._link.consumed(self, len(data))
        elif data := self._taken_at_once(data):
            if self._chunks and len(self._chunks[-1]) + len(data) <= _SMALL:
                self._chunks[-1] += data
            else:
                self._chunks.append(data)
            self.unread += len(data)
            self._wake()
            self._link.fed(self)

    def _taken_at_once(self, data: bytes) -> bytes:
        """Offer bytes to a reader that waits for them; returns what it did not take."""
        if self._take is None or self._reader is None or self._reader.done():
            return data
        rest = self._take(data)
        self._link.consumed(self, len(data) - len(rest))
        return rest

    def feed_end(self) -> None:
        """The client will send no more."""
        self._ended = True
        self._wake()

    def lost(self) -> None:
        """The client disconnected, or reset this channel."""
        self._gone = True
        self._wake()

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)


class CommandSession(Protocol):
    """One client of a command: the channels it opened, None for those it did not request."""

    @property
    def stdin(self) -> Channel | None: ...
    @property
    def stdout(self) -> Channel | None: ...
    @property
    def stderr(self) -> Channel | None: ...
    @property
    def resize(self) -> Channel | None: ...

    @property
    def gone(self) -> asyncio.Event:
        """Set when the client disconnects."""

    async def end(self, outcome: Outcome) -> None:
        """Send the outcome to the client after all pending output, then close the connection."""


@dataclass(frozen=True, slots=True)
class Connection:
    """A client's connection to one port of a pod."""

    port: int
    data: Channel
    error: Channel


class PortSession(Protocol):
    """One client of a pod's ports."""

    def connections(self) -> AsyncIterator[Connection]:
        """Each connection that the client opens, until it disconnects."""

    async def end(self) -> None:
        """Close the client's connection."""
