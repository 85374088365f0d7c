"""A minimal client of the streaming server: SPDY, WebSocket, and SPDY in WebSocket.

Go's own client is crictl; this one does what crictl never does: disconnect without closing, stop
reading, open unexpected streams.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import ssl
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Self
from urllib.parse import urlsplit

from runtime.streaming import spdy, websocket

from .waiting import PATIENCE

V5 = "v5.channel.k8s.io"
V4 = "v4.channel.k8s.io"
PORTS = "portforward.k8s.io"
TUNNEL = "SPDY/3.1+portforward.k8s.io"
_NUMBERS = {"stdin": 0, "stdout": 1, "stderr": 2, "error": 3, "resize": 4}


class Refused(Exception):
    """The server did not upgrade; ``status`` and ``headers`` are those of its response."""

    def __init__(self, status: int, headers: str):
        super().__init__(f"{status}\n{headers}")
        self.status = status
        self.headers = headers


async def upgraded(
    url: str,
    transport: str,
    protocol: str,
    method: str = "",
    more: str = "",
    tls: ssl.SSLContext | None = None,
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection after its upgrade; raises Refused."""
    parts = urlsplit(url)
    context = tls
    if parts.scheme == "https" and context is None:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    reader, writer = await asyncio.open_connection(
        parts.hostname, parts.port, ssl=context, limit=1 << 20
    )
    if transport == "spdy":
        lines = ["Upgrade: SPDY/3.1", f"X-Stream-Protocol-Version: {protocol}"]
    else:
        key = base64.b64encode(os.urandom(16)).decode()
        lines = ["Upgrade: websocket", "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {key}"]
        lines += [f"Sec-WebSocket-Protocol: {protocol}"] if protocol else []
    verb = method or ("POST" if transport == "spdy" else "GET")
    target = f"{parts.path}?{parts.query}" if parts.query else parts.path
    head = "\r\n".join([f"{verb} {target} HTTP/1.1", "Host: x", "Connection: Upgrade", *lines])
    writer.write(f"{head}\r\n{more}\r\n".encode())
    answer = (await reader.readuntil(b"\r\n\r\n")).decode()
    status = int(answer.split()[1])
    if status != 101:
        writer.close()
        raise Refused(status, answer)
    return reader, writer


class Streams:
    """Named streams of one connection; received data is stored by name."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        self._reader = reader
        self.writer = writer
        self.received: dict[str, bytearray] = defaultdict(bytearray)
        self.ended: set[str] = set()
        self.resets: set[str] = set()
        self.closed = False
        self.changed = asyncio.Condition()
        self._receiving: asyncio.Task[None] | None = None

    def start(self) -> Self:
        self._receiving = asyncio.create_task(self._receive())
        return self

    async def _receive(self) -> None:
        try:
            while data := await self._reader.read(1 << 18):
                self.take(data)
                self.flush()
                async with self.changed:
                    self.changed.notify_all()
        except ConnectionError:
            pass
        self.closed = True
        async with self.changed:
            self.changed.notify_all()

    def stop_reading(self) -> None:
        assert self._receiving is not None
        self._receiving.cancel()

    async def until(self, condition: Any, seconds: float = PATIENCE) -> None:
        try:
            async with asyncio.timeout(seconds), self.changed:
                await self.changed.wait_for(condition)
        except TimeoutError:
            if self._receiving is not None and self._receiving.done():
                self._receiving.result()  # what it did not understand
            raise AssertionError(
                f"after {seconds} s: received {dict(self.received)}, ended {self.ended}, "
                f"reset {self.resets}, {'closed' if self.closed else 'open'}"
            ) from None

    async def gone(self, seconds: float = PATIENCE) -> None:
        """Return when the server has closed the connection."""
        await self.until(lambda: self.closed, seconds)

    async def all_ended(self, names: tuple[str, ...], seconds: float = PATIENCE) -> None:
        """Return when nothing more will arrive on these: each has ended, or the connection has."""
        await self.until(lambda: self.closed or self.ended.issuperset(names), seconds)

    async def close(self) -> None:
        if self._receiving is not None:
            self._receiving.cancel()
        self.writer.close()

    def vanish(self) -> None:
        """Disconnect by a reset."""
        if self._receiving is not None:
            self._receiving.cancel()
        self.writer.transport.abort()

    @property
    def status(self) -> dict[str, Any]:
        """The result on the error channel."""
        answer: dict[str, Any] = json.loads(bytes(self.received["error"]))
        return answer

    @property
    def exit_code(self) -> int:
        status = self.status
        if status["status"] == "Success":
            return 0
        assert status["reason"] == "NonZeroExitCode", status
        return int(status["details"]["causes"][0]["message"])

    # What differs between the protocols.

    def take(self, data: bytes) -> None:
        raise NotImplementedError

    def flush(self) -> None:
        raise NotImplementedError

    async def open(self, name: str) -> None:
        raise NotImplementedError

    async def send(self, name: str, data: bytes) -> None:
        raise NotImplementedError

    async def end(self, name: str) -> None:
        raise NotImplementedError


class SpdyStreams(Streams):
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        super().__init__(reader, writer)
        self.spdy = spdy.Spdy(client=True)
        # like Go's client: neither settings nor windows
        self.spdy.output()
        self.names: dict[int, str] = {}

    def take(self, data: bytes) -> None:
        for event in self.spdy.receive(data):
            match event:
                case spdy.Data(stream, content, fin):
                    self.received[self.names[stream]] += content
                    if fin:
                        self.ended.add(self.names[stream])
                case spdy.Reset(stream, _):
                    self.resets.add(self.names[stream])

    def flush(self) -> None:
        if output := self.spdy.output():
            self.writer.write(output)

    async def open(self, name: str, **headers: str) -> None:
        self.names[self.spdy.open(headers or {"streamType": name})] = name
        self.flush()

    def _number(self, name: str) -> int:
        return next(number for number, known in self.names.items() if known == name)

    async def send(self, name: str, data: bytes) -> None:
        for start in range(0, len(data), 1 << 16):
            self.spdy.send(self._number(name), data[start : start + (1 << 16)])
            self.flush()
            await self.writer.drain()

    async def end(self, name: str) -> None:
        self.spdy.send(self._number(name), b"", fin=True)
        self.flush()


class WebSocketStreams(Streams):
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, protocol: str):
        super().__init__(reader, writer)
        self.socket = websocket.Channels(protocol, client=True)
        self.code: int | None = None

    def take(self, data: bytes) -> None:
        names = {number: name for name, number in _NUMBERS.items()}
        for event in self.socket.receive(data):
            match event:
                case websocket.Data(channel, content):
                    self.received[names.get(channel, str(channel))] += content
                case websocket.Closed(code, _):
                    self.code = code
                    self.closed = True

    def flush(self) -> None:
        if output := self.socket.output():
            self.writer.write(output)

    async def open(self, name: str) -> None:
        """Channels need not be opened."""

    async def send(self, name: str, data: bytes) -> None:
        for start in range(0, len(data), 1 << 16):
            self.socket.send(_NUMBERS[name], data[start : start + (1 << 16)])
            self.flush()
            await self.writer.drain()

    async def end(self, name: str) -> None:
        self.socket.end(_NUMBERS[name])
        self.flush()


class TunnelledStreams(SpdyStreams):
    """SPDY in the messages of a WebSocket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        super().__init__(reader, writer)
        self._outer = websocket.WebSocket(client=True)

    def take(self, data: bytes) -> None:
        for part in self._outer.receive(data):
            if isinstance(part, websocket.Part):
                super().take(part.data)

    def flush(self) -> None:
        if output := self.spdy.output():
            self._outer.send(output)
        if output := self._outer.output():
            self.writer.write(output)


@asynccontextmanager
async def connected(
    url: str,
    transport: str = "spdy",
    protocol: str = "",
    names: tuple[str, ...] = (),
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[Streams]:
    """The streams of a command, those named opened; closed at the end."""
    chosen = protocol or (V4 if transport == "spdy" else V5)
    reader, writer = await upgraded(url, transport, chosen, tls=tls)
    streams: Streams
    if transport == "spdy":
        streams = SpdyStreams(reader, writer)
    else:
        streams = WebSocketStreams(reader, writer, chosen)
    streams.start()
    for name in names:
        await streams.open(name)
    try:
        yield streams
    finally:
        await streams.close()


@asynccontextmanager
async def ports(
    url: str, transport: str = "spdy", tls: ssl.SSLContext | None = None
) -> AsyncIterator[SpdyStreams]:
    """A port-forward connection; `forward` opens the streams of one port."""
    made: SpdyStreams
    if transport == "spdy":
        made = SpdyStreams(*await upgraded(url, "spdy", PORTS, tls=tls))
    else:
        made = TunnelledStreams(*await upgraded(url, "websocket", TUNNEL, tls=tls))
    made.start()
    try:
        yield made
    finally:
        await made.close()


async def forward(streams: SpdyStreams, port: int, request: int) -> tuple[str, str]:
    """Open the two streams of a connection; returns their names, data and error."""
    for kind in ("error", "data"):
        await streams.open(
            f"{kind}{request}", streamType=kind, port=str(port), requestID=str(request)
        )
    return f"data{request}", f"error{request}"
