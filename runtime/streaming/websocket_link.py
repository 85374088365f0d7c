"""Sessions over WebSocket: channels have fixed numbers and need not be opened.

A command uses 0 stdin, 1 stdout, 2 stderr, 3 error and 4 resize. For the n-th port that PortForward
names, 2n is data and 2n+1 is error; each begins with the port in two bytes, little-endian. `Tunnel`
carries another protocol in binary messages: SPDY for port-forward.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

from wsproto.frame_protocol import CloseReason

from runtime.streaming import websocket
from runtime.streaming.channels import Channel, Connection, Gone
from runtime.streaming.outcome import Outcome, encoded
from runtime.streaming.wire import LINGER, Congestion, Wire, drop_input, lose
from runtime.transforms.facts import Streams

_NAMES = ("stdin", "stdout", "stderr", "error", "resize")
_UNLIMITED = 1 << 30


class WebSocketLink:
    """Numbered channels on a wire."""

    def __init__(self, wire: Wire, protocol: str, names: Sequence[str | None]) -> None:
        """``names`` of the channels by number; None if there is no such channel."""
        self.wire = wire
        self.gone = asyncio.Event()
        self.channels = {
            number: Channel(self, number, name) for number, name in enumerate(names) if name
        }
        self.on_lost: Callable[[], None] = lambda: None
        self._socket = websocket.Channels(protocol)
        self._congestion = Congestion(wire)
        # Old clients take an empty message on our first channel as the sign that all is set up.
        for number, channel in self.channels.items():
            if channel.name != "stdin":
                self.send(number, b"")
                break

    # Called by the wire

    def receive(self, data: bytes | memoryview) -> None:
        """The client sent bytes."""
        for event in self._socket.receive(data):
            match event:
                case websocket.Data(number, content):
                    if channel := self.channels.get(number):
                        channel.feed(content)
                case websocket.Ended(number):
                    if channel := self.channels.get(number):
                        channel.feed_end()
                case websocket.Closed(code, reason):
                    if code not in (CloseReason.NORMAL_CLOSURE, CloseReason.GOING_AWAY, 1005):
                        self.wire.report(f"closed with code {code}: {reason}")
                    self._flush()
                    self.wire.close()
                    self.lost()
        self._flush()

    def lost(self) -> None:
        """The connection was lost."""
        self.gone.set()
        lose(self.channels.values())
        self.on_lost()

    def _flush(self) -> None:
        output = self._socket.output()
        if output:
            self.wire.write(output)

    # Called by channels

    def room(self, number: int) -> int:
        return 0 if self.wire.full else _UNLIMITED

    async def wait_for_room(self) -> None:
        await self.wire.drained()

    def send(self, number: int, data: bytes) -> None:
        self._socket.send(number, data)
        self._flush()

    def end(self, number: int) -> None:
        """Clients take the closing of the connection as the end of the stream."""

    def reset(self, number: int) -> None:
        self._congestion.forget(number)

    def fed(self, channel: Channel) -> None:
        self._congestion.fed(channel)

    def consumed(self, channel: Channel, count: int) -> None:
        self._congestion.consumed(channel)

    async def close(self) -> None:
        """Send Close, as the side that speaks last does, and wait briefly for the reply."""
        if not self.gone.is_set():
            self._socket.close()
            self._flush()
            await self.wire.closed_by_client(LINGER)
            self.wire.close()


@dataclass
class WebSocketCommand:
    """A `CommandSession`."""

    link: WebSocketLink
    protocol: str

    def __post_init__(self) -> None:
        drop_input(self.stdout, self.stderr, self.link.channels[3])

    @property
    def gone(self) -> asyncio.Event:
        return self.link.gone

    @property
    def stdin(self) -> Channel | None:
        return self.link.channels.get(0)

    @property
    def stdout(self) -> Channel | None:
        return self.link.channels.get(1)

    @property
    def stderr(self) -> Channel | None:
        return self.link.channels.get(2)

    @property
    def resize(self) -> Channel | None:
        return self.link.channels.get(4)

    @classmethod
    def names(cls, streams: Streams) -> list[str | None]:
        """The channels of a command, for `WebSocketLink`."""
        there = (streams.stdin, streams.stdout, streams.stderr, True, streams.tty)
        return [name if is_there else None for name, is_there in zip(_NAMES, there, strict=True)]

    async def end(self, outcome: Outcome) -> None:
        drop_input(self.stdin, self.resize)
        with contextlib.suppress(Gone):
            await self.link.channels[3].write(encoded(outcome, self.protocol))
        await self.link.close()


@dataclass
class WebSocketPorts:
    """A `PortSession` for the ports named in the request."""

    link: WebSocketLink
    ports: Sequence[int]
    _gone: asyncio.Event = field(init=False)

    def __post_init__(self) -> None:
        self._gone = self.link.gone
        for number, channel in self.link.channels.items():
            self.link.send(number, self.ports[channel.number // 2].to_bytes(2, "little"))

    @classmethod
    def names(cls, ports: Sequence[int]) -> list[str | None]:
        """The channels of these ports, for `WebSocketLink`."""
        return ["data", "error"] * len(ports)

    async def connections(self) -> AsyncIterator[Connection]:
        channels = self.link.channels
        for index, port in enumerate(self.ports):
            yield Connection(port, channels[2 * index], channels[2 * index + 1])
        await self._gone.wait()

    async def end(self) -> None:
        await self.link.close()


class Tunnel:
    """A wire inside the binary messages of a WebSocket on another wire."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._socket = websocket.WebSocket()
        self.carried: Callable[[bytes], None]
        """Receives what the client sent."""
        self.on_lost: Callable[[], None]

    def receive(self, data: bytes | memoryview) -> None:
        """The client sent bytes."""
        for part in self._socket.receive(data):
            if isinstance(part, websocket.Closed):
                self._flush()
                self._wire.close()
                self.on_lost()
            else:
                self.carried(part.data)
        self._flush()

    def lost(self) -> None:
        """The connection was lost."""
        self.on_lost()

    def _flush(self) -> None:
        output = self._socket.output()
        if output:
            self._wire.write(output)

    @property
    def full(self) -> bool:
        return self._wire.full

    async def drained(self) -> None:
        await self._wire.drained()

    def write(self, data: bytes) -> None:
        self._socket.send(data)
        self._flush()

    def pause_reading(self) -> None:
        self._wire.pause_reading()

    def resume_reading(self) -> None:
        self._wire.resume_reading()

    def close(self) -> None:
        self._socket.close()
        self._flush()
        self._wire.close()

    async def closed_by_client(self, seconds: float) -> None:
        await self._wire.closed_by_client(seconds)

    def report(self, fault: str) -> None:
        self._wire.report(fault)
