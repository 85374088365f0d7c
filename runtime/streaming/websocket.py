"""The WebSocket forms of the Kubernetes streaming protocols, as state machines: no I/O.

`WebSocket` speaks RFC 6455 (wsproto does the framing). Messages are reported in parts as they
arrive, so a long message is never buffered whole. `Channels` splits the messages into numbered byte
channels as defined by ``v5.channel.k8s.io`` and its predecessors: the first byte of a message is
the channel number; in the ``base64`` forms it is a digit followed by base64 text. In v5, a message
of 255 and a channel number closes that channel.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias

from wsproto import events
from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.frame_protocol import CloseReason

_END_OF_CHANNEL: Final = 255


@dataclass(frozen=True, slots=True)
class Part:
    """Part of a message; ``first`` and ``last`` mark its beginning and end."""

    data: bytes
    first: bool
    last: bool


@dataclass(frozen=True, slots=True)
class Closed:
    """Nothing more will be received. ``code`` is defined in RFC 6455, section 7.4."""

    code: int
    reason: str


@dataclass(frozen=True, slots=True)
class Data:
    """Bytes of a channel."""

    channel: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Ended:
    """The peer will send no more on a channel."""

    channel: int


class WebSocket:
    """One end of a connection after its handshake; the server's unless ``client``."""

    def __init__(self, *, client: bool = False) -> None:
        kind = ConnectionType.CLIENT if client else ConnectionType.SERVER
        self._connection = Connection(kind)
        self._output: list[bytes] = []
        self._in_message = False
        self._deaf = False

    @property
    def closed(self) -> bool:
        """Whether nothing more can be sent."""
        return self._connection.state is not ConnectionState.OPEN

    def output(self) -> bytes:
        """Take the bytes to be sent."""
        output = b"".join(self._output)
        self._output.clear()
        return output

    def send(self, message: bytes | str) -> None:
        """Send one message; ignored once the connection is closing."""
        if not self.closed:
            event = (
                events.TextMessage(data=message)
                if isinstance(message, str)
                else events.BytesMessage(data=message)
            )
            self._output.append(self._connection.send(event))

    def ping(self) -> None:
        """Send a ping."""
        if not self.closed:
            self._output.append(self._connection.send(events.Ping()))

    def close(self, code: int = CloseReason.NORMAL_CLOSURE, reason: str = "") -> None:
        """Start to close, or reply to the peer's close."""
        if self._connection.state in (ConnectionState.OPEN, ConnectionState.REMOTE_CLOSING):
            # a control frame carries at most 125 bytes, two of them the code
            text = reason.encode()[:123].decode(errors="ignore")
            self._output.append(self._connection.send(events.CloseConnection(code, text)))

    def fail(self, code: int, reason: str) -> None:
        """Close and ignore further input: what was received cannot be parsed."""
        self._deaf = True
        self.close(code, reason)

    def receive(self, data: bytes | memoryview) -> Iterator[Part | Closed]:
        """The message parts in these bytes."""
        if self._deaf:
            return
        self._connection.receive_data(bytes(data))
        for event in self._connection.events():
            yield from self._event(event)

    def _event(self, event: events.Event) -> Iterator[Part | Closed]:
        if isinstance(event, events.Message):
            first, self._in_message = not self._in_message, not event.message_finished
            data = event.data.encode() if isinstance(event.data, str) else bytes(event.data)
            yield Part(data, first, event.message_finished)
        elif isinstance(event, events.Ping):
            if not self.closed:
                self._output.append(self._connection.send(event.response()))
        elif isinstance(event, events.CloseConnection):
            self._deaf = True
            code = int(event.code)
            # codes that must not be sent (such as "no code given") are answered with the normal one
            self.close(code if _may_be_sent(code) else CloseReason.NORMAL_CLOSURE)
            yield Closed(code, event.reason or "")


def _may_be_sent(code: int) -> bool:
    return 1000 <= code <= 4999 and code not in (1004, 1005, 1006, 1015)


Event: TypeAlias = Data | Ended | Closed


class Channels:
    """Numbered byte channels over the messages of a WebSocket."""

    def __init__(self, protocol: str, *, client: bool = False) -> None:
        """``protocol`` is the negotiated subprotocol; "" is the oldest."""
        self._socket = WebSocket(client=client)
        self._base64 = "base64" in protocol
        self._half_close = protocol.startswith("v5.")
        self._channel: int | None = None
        self._text = b""

    def output(self) -> bytes:
        """Take the bytes to be sent."""
        return self._socket.output()

    def send(self, channel: int, data: bytes) -> None:
        """Send bytes on a channel."""
        if self._base64:
            self._socket.send(f"{channel}{base64.b64encode(data).decode()}")
        else:
            self._socket.send(bytes((channel,)) + data)

    def end(self, channel: int) -> None:
        """Signal the end of a channel, if the protocol can express it."""
        if self._half_close:
            self._socket.send(bytes((_END_OF_CHANNEL, channel)))

    def close(self, code: int = CloseReason.NORMAL_CLOSURE, reason: str = "") -> None:
        """Start to close."""
        self._socket.close(code, reason)

    def ping(self) -> None:
        """Send a ping."""
        self._socket.ping()

    def receive(self, data: bytes | memoryview) -> list[Event]:
        """The channel events in these bytes."""
        found: list[Event] = []
        for part in self._socket.receive(data):
            if isinstance(part, Closed):
                found.append(part)
                continue
            try:
                found.extend(self._part(part))
            except ValueError as error:
                self._socket.fail(CloseReason.INVALID_FRAME_PAYLOAD_DATA, str(error))
                found.append(Closed(CloseReason.INVALID_FRAME_PAYLOAD_DATA, str(error)))
                break
        return found

    def _part(self, part: Part) -> Iterator[Event]:
        data = part.data
        if part.first:
            self._channel = None
            self._text = b""
        if self._channel is None:
            if not data:
                return
            self._channel = self._number(data[:1])
            data = data[1:]
        if self._half_close and self._channel == _END_OF_CHANNEL:
            if data:
                yield Ended(data[0])
                self._channel = -1  # anything after that belongs to no channel
            return
        if self._base64:
            data = self._decoded(data, last=part.last)
        if data:
            yield Data(self._channel, data)

    def _number(self, first: bytes) -> int:
        if not self._base64:
            return first[0]
        if not first.isdigit():
            raise ValueError("a message must begin with its channel number, a digit")
        return int(first)

    def _decoded(self, text: bytes, *, last: bool) -> bytes:
        """Decode complete groups of four; the rest waits for the next part."""
        text = self._text + text
        whole = len(text) - len(text) % 4
        self._text = text[whole:]
        if last and self._text:
            raise ValueError("a message is truncated: base64 comes in groups of four")
        try:
            return base64.b64decode(text[:whole], validate=True)
        except binascii.Error as error:
            raise ValueError(f"a message is not base64: {error}") from None
