"""Sessions over SPDY/3.1: the client opens a stream per channel and names its purpose in headers.

Streams may arrive in any order. The streams of a command are known in advance, each exactly once.
The streams of a port come in pairs, ``data`` and ``error``, with the same ``requestid``. Older
clients send none: then the error stream is opened first, and the number of the data stream is two
higher.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from runtime.streaming import spdy
from runtime.streaming.channels import Channel, Connection, Gone
from runtime.streaming.outcome import Outcome, encoded
from runtime.streaming.spdy_headers import Headers
from runtime.streaming.wire import LINGER, Congestion, Wire, drop_input, lose
from runtime.transforms.facts import Streams

CREATION_LIMIT: Final = 30.0
"""Seconds for a client to open all streams of a command, or both of a connection."""


class StreamsMissing(Exception):
    """The client did not open the streams it requested."""


class SpdyLink:
    """SPDY on a wire; the session decides what a new stream is for."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.gone = asyncio.Event()
        self.channels: dict[int, Channel] = {}
        self.on_stream: Callable[[int, Headers], Channel | spdy.Status]
        self.on_lost: Callable[[], None] = lambda: None
        self._spdy = spdy.Spdy()
        self._congestion = Congestion(wire)
        self._window = asyncio.Event()
        self._flush()

    # Called by the wire

    def receive(self, data: bytes | memoryview) -> None:
        """The client sent bytes."""
        for event in self._spdy.receive(data):
            self._handle(event)
        self._flush()

    def lost(self) -> None:
        """The connection was lost."""
        self.gone.set()
        lose(self.channels.values())
        self.channels.clear()
        self._window.set()
        self.on_lost()

    def _handle(self, event: spdy.Event) -> None:
        match event:
            case spdy.Data(stream, data, fin):
                channel = self.channels.get(stream)
                if channel is not None:
                    channel.feed(data)
                    if fin:
                        channel.feed_end()
                        self._forget_if_closed(channel)
            case spdy.Opened(stream, headers, fin):
                self._opened(stream, headers, fin)
            case spdy.Reset(stream, _):
                channel = self.channels.pop(stream, None)
                if channel is not None:
                    channel.lost()
                    self._congestion.forget(stream)
                    self._window.set()
            case spdy.WindowOpened():
                self._window.set()
            case spdy.Failed(reason):
                self.wire.report(reason)
                self._flush()
                self.wire.close()
                self.lost()

    def _opened(self, stream: int, headers: Headers, fin: bool) -> None:
        channel = self.on_stream(stream, headers)
        if isinstance(channel, spdy.Status):
            self.wire.report(f"refused stream: {channel.name}")
            self._spdy.reset(stream, channel)
            return
        self.channels[stream] = channel
        self._spdy.reply(stream)
        if fin:
            channel.feed_end()

    def _flush(self) -> None:
        output = self._spdy.output()
        if output:
            self.wire.write(output)

    # Called by channels

    def room(self, number: int) -> int:
        return 0 if self.wire.full else self._spdy.room(number)

    async def wait_for_room(self) -> None:
        if self.wire.full:
            await self.wire.drained()
        else:  # the peer's window is closed
            self._window.clear()
            await self._window.wait()

    def send(self, number: int, data: bytes) -> None:
        self._spdy.send(number, data)
        self._flush()

    def end(self, number: int) -> None:
        self._spdy.send(number, b"", fin=True)
        if channel := self.channels.get(number):
            self._forget_if_closed(channel)
        self._flush()

    def _forget_if_closed(self, channel: Channel) -> None:
        """A session of days may have a million connections."""
        if channel.closed:
            self.channels.pop(channel.number, None)

    def reset(self, number: int, status: spdy.Status = spdy.Status.CANCEL) -> None:
        self.channels.pop(number, None)
        self._congestion.forget(number)
        self._spdy.reset(number, status)
        self._flush()

    def fed(self, channel: Channel) -> None:
        self._congestion.fed(channel)

    def consumed(self, channel: Channel, count: int) -> None:
        self._congestion.consumed(channel)
        self._spdy.consumed(channel.number, count)
        self._flush()

    async def close(self, linger: float = LINGER) -> None:
        """Wait for the client to close, which it does after the command's result; then close."""
        await self.wire.closed_by_client(linger)
        if not self.gone.is_set():
            self._spdy.go_away()
            self._flush()
            self.wire.close()


@dataclass
class SpdyCommand:
    """A `CommandSession`."""

    link: SpdyLink
    protocol: str
    stdin: Channel | None = None
    stdout: Channel | None = None
    stderr: Channel | None = None
    resize: Channel | None = None
    error: Channel | None = None

    @property
    def gone(self) -> asyncio.Event:
        return self.link.gone

    @classmethod
    def expected(cls, link: SpdyLink, protocol: str, streams: Streams) -> Awaitable[SpdyCommand]:
        """The session once all its streams are open; awaiting it may raise StreamsMissing."""
        session = cls(link, protocol)
        missing = {name for name, requested in _streams(protocol, streams).items() if requested}
        complete = asyncio.Event()

        def on_stream(stream: int, headers: Headers) -> Channel | spdy.Status:
            name = headers.get("streamtype", "").lower()
            if name not in missing:
                return spdy.Status.REFUSED_STREAM
            missing.discard(name)
            channel = Channel(link, stream, name)
            setattr(session, name, channel)
            if name not in _READ:
                drop_input(channel)
            if not missing:
                complete.set()
            return channel

        link.on_stream = on_stream
        link.on_lost = complete.set
        return session._complete(complete, missing)

    async def _complete(self, complete: asyncio.Event, missing: set[str]) -> SpdyCommand:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CREATION_LIMIT):
                await complete.wait()
        if missing:
            why = (
                "disconnected before it opened its streams"
                if self.gone.is_set()
                else f"did not open its streams within {CREATION_LIMIT:.0f} s"
            )
            raise StreamsMissing(f"the client {why}; missing: {', '.join(sorted(missing))}")
        if self.protocol in ("channel.k8s.io", "v1.channel.k8s.io") and self.stdin is not None:
            self.stdin.end()  # clients wait for this before they send data
        return self

    async def end(self, outcome: Outcome) -> None:
        error = self.error
        assert error is not None
        drop_input(self.stdin, self.resize)
        for channel in (self.stdout, self.stderr):
            if channel is not None:
                channel.end()
        text = encoded(outcome, self.protocol)
        with contextlib.suppress(Gone):
            await error.write(text)
        for channel in (error, self.stdin, self.resize):
            if channel is not None:
                channel.end()
        await self.link.close()


_READ: Final = ("stdin", "resize")
"""The streams on which a client sends data."""


def _streams(protocol: str, streams: Streams) -> dict[str, bool]:
    """The streams a client opens, by name."""
    return {
        "error": True,
        "stdin": streams.stdin,
        "stdout": streams.stdout,
        "stderr": streams.stderr and not streams.tty,
        "resize": streams.tty and protocol.startswith(("v3.", "v4.")),
    }


@dataclass
class SpdyPorts:
    """A `PortSession`."""

    link: SpdyLink
    _halves: dict[str, _Half] = field(default_factory=dict)
    _arrived: asyncio.Queue[Connection | None] = field(default_factory=asyncio.Queue)

    def __post_init__(self) -> None:
        self.link.on_stream = self._on_stream
        self.link.on_lost = self._on_lost

    async def connections(self) -> AsyncIterator[Connection]:
        while connection := await self._arrived.get():
            yield connection

    async def end(self) -> None:
        await self.link.close(0)

    def _on_lost(self) -> None:
        for half in self._halves.values():
            half.timer.cancel()
        self._halves.clear()
        self._arrived.put_nowait(None)

    def _on_stream(self, stream: int, headers: Headers) -> Channel | spdy.Status:
        name = headers.get("streamtype", "").lower()
        port = headers.get("port", "")
        if name not in ("data", "error") or not port.isascii() or not port.isdigit():
            return spdy.Status.PROTOCOL_ERROR
        number = int(port[:6])
        if not 0 < number < 1 << 16:
            return spdy.Status.PROTOCOL_ERROR
        # clients write requestID; header names arrive in lower case
        request = headers.get("requestid") or f"#{stream if name == 'error' else stream - 2}"
        half = self._halves.get(request)
        if half is not None and (half.name == name or half.port != number):
            return spdy.Status.PROTOCOL_ERROR
        channel = Channel(self.link, stream, name)
        if half is None:
            timer = asyncio.get_running_loop().call_later(CREATION_LIMIT, self._give_up, request)
            self._halves[request] = _Half(name, number, channel, timer)
        else:
            half.timer.cancel()
            del self._halves[request]
            data, error = (channel, half.channel) if name == "data" else (half.channel, channel)
            self._arrived.put_nowait(Connection(number, data, error))
        return channel

    def _give_up(self, request: str) -> None:
        half = self._halves.pop(request)
        self.link.wire.report(f"a {half.name} stream whose partner did not arrive")
        half.channel.reset()


@dataclass(frozen=True, slots=True)
class _Half:
    name: str
    port: int
    channel: Channel
    timer: asyncio.TimerHandle
