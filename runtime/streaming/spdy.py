"""SPDY/3.1 as a state machine: bytes in, events out; it does no I/O.

    spdy = Spdy()
    for event in spdy.receive(data): ...
    spdy.reply(stream_id)
    spdy.send(stream_id, b"...", fin=True)
    transport.write(spdy.output())

Implements what Kubernetes clients use of SPDY/3.1 (draft-mbelshe-httpbis-spdy-00 and its 3.1
amendments): streams opened by the client, data, half-close, reset, ping, flow control, goaway and
settings. Server push and credentials are not implemented.

An error in one stream resets that stream. An error after which frames or compressed headers can no
longer be parsed ends the connection: `receive` then returns `Failed`, the output ends with a
GOAWAY, and everything received later is ignored.

**Flow control.** The clients of Kubernetes (Go's spdystream) neither obey nor send WINDOW_UPDATE; a
server that obeyed the initial window would stall for ever after 64 KiB. A peer's windows are
therefore obeyed only once it has shown that it uses them: by SETTINGS with an initial window, or by
WINDOW_UPDATE. Our own windows are always announced and replenished by `consumed`, but the reader of
the connection must limit what a peer sends regardless.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, TypeAlias

from runtime.streaming.spdy_headers import CompressionFault, HeaderBlocks, Headers

MAX_CONTROL_BYTES: Final = 64 << 10
"""Largest payload of a control frame; a longer one ends the connection."""
MAX_STREAMS: Final = 2048
"""Streams that a peer may have open at once; more are refused."""
WINDOW: Final = 256 << 10
"""Bytes of one stream that a peer which obeys windows may send before we have consumed them."""

_DEFAULT_WINDOW: Final = 64 << 10
_MAX_WINDOW: Final = 0x7FFFFFFF
_STREAM_IDS: Final = 0x7FFFFFFF
_VERSION: Final = 3
_FIN: Final = 0x01

_WORDS: Final = struct.Struct(">II")
_WORD: Final = struct.Struct(">I")


class FrameType(IntEnum):
    """Control frames."""

    SYN_STREAM = 1
    SYN_REPLY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PING = 6
    GOAWAY = 7
    HEADERS = 8
    WINDOW_UPDATE = 9


class Status(IntEnum):
    """Why a stream is reset."""

    PROTOCOL_ERROR = 1
    INVALID_STREAM = 2
    REFUSED_STREAM = 3
    UNSUPPORTED_VERSION = 4
    CANCEL = 5
    INTERNAL_ERROR = 6
    FLOW_CONTROL_ERROR = 7
    STREAM_IN_USE = 8
    STREAM_ALREADY_CLOSED = 9
    FRAME_TOO_LARGE = 11


class GoAway(IntEnum):
    """Why a connection ends."""

    OK = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2


_MAX_CONCURRENT_STREAMS: Final = 4
_INITIAL_WINDOW_SIZE: Final = 7


@dataclass(frozen=True, slots=True)
class Opened:
    """The peer opened a stream; with ``fin`` it will not send data on it."""

    stream: int
    headers: Headers
    fin: bool


@dataclass(frozen=True, slots=True)
class Replied:
    """The peer accepted a stream that we opened."""

    stream: int
    headers: Headers
    fin: bool


@dataclass(frozen=True, slots=True)
class Data:
    """Bytes of a stream; one frame may be reported in several parts. ``fin`` comes with the last
    byte."""

    stream: int
    data: bytes
    fin: bool


@dataclass(frozen=True, slots=True)
class Reset:
    """The peer reset a stream."""

    stream: int
    status: int


@dataclass(frozen=True, slots=True)
class Pong:
    """The peer answered a ping."""

    number: int


@dataclass(frozen=True, slots=True)
class WindowOpened:
    """More may be sent: on ``stream``, or on all streams if it is 0."""

    stream: int


@dataclass(frozen=True, slots=True)
class WentAway:
    """The peer opens no more streams and will close."""

    status: int


@dataclass(frozen=True, slots=True)
class Failed:
    """The connection cannot continue; ``reason`` is a sentence for people."""

    reason: str


Event: TypeAlias = Opened | Replied | Data | Reset | Pong | WindowOpened | WentAway | Failed


_Reader: TypeAlias = Callable[["Spdy", int, bytes], Iterator[Event]]


class StreamFault(Exception):
    """An error that affects one stream only."""

    def __init__(self, stream: int, status: Status) -> None:
        super().__init__(f"stream {stream}: {status.name}")
        self.stream = stream
        self.status = status


class ConnectionFault(Exception):
    """Received bytes after which the connection cannot continue."""


class _Stream:
    """One open stream: which sides have finished, its send window, what is not consumed yet."""

    __slots__ = ("finished", "peer_finished", "unreported", "window")

    def __init__(self, window: int) -> None:
        self.finished = False
        self.peer_finished = False
        self.window = window
        self.unreported = 0


class Spdy:
    """One end of a connection; the server's unless ``client``."""

    def __init__(self, *, client: bool = False) -> None:
        self._client = client
        self._streams: dict[int, _Stream] = {}
        self._next_id = 1 if client else 2
        self._highest_peer_id = 0
        self._next_ping = 1 if client else 2
        self._peer_initial_window = _DEFAULT_WINDOW
        self._peer_window = _DEFAULT_WINDOW
        self._peer_keeps_windows = False
        self._header_blocks = HeaderBlocks()
        self._waiting = bytearray()
        self._needed = 0
        self._skip = 0
        self._data_stream = 0
        self._data_left = 0
        self._data_fin = False
        self._failed = False
        self._output: list[bytes] = []
        settings = [(_MAX_CONCURRENT_STREAMS, MAX_STREAMS), (_INITIAL_WINDOW_SIZE, WINDOW)]
        payload = _WORD.pack(len(settings)) + b"".join(_WORDS.pack(*pair) for pair in settings)
        self._control(FrameType.SETTINGS, payload)
        # The stream windows limit what is unread, so the connection's window may stay open.
        self._control(FrameType.WINDOW_UPDATE, _WORDS.pack(0, _MAX_WINDOW - _DEFAULT_WINDOW))

    # Sending

    def output(self) -> bytes:
        """Take the bytes to be sent."""
        if len(self._output) == 1:
            return self._output.pop()
        output = b"".join(self._output)
        self._output.clear()
        return output

    def open(self, headers: Headers, *, fin: bool = False) -> int:
        """Open a stream and return its number."""
        stream = self._next_id
        self._next_id += 2
        self._streams[stream] = state = _Stream(self._peer_initial_window)
        state.finished = fin
        payload = struct.pack(">IIH", stream, 0, 0) + self._header_blocks.encode(headers)
        self._control(FrameType.SYN_STREAM, payload, _FIN if fin else 0)
        return stream

    def reply(self, stream: int, headers: Headers | None = None) -> None:
        """Accept a stream that the peer opened; must precede its data."""
        if stream in self._streams:
            self._control(
                FrameType.SYN_REPLY, _WORD.pack(stream) + self._header_blocks.encode(headers or {})
            )

    def room(self, stream: int) -> int:
        """Bytes that the peer allows us to send on the stream now; 0 if the stream is not open."""
        state = self._streams.get(stream)
        if state is None or state.finished:
            return 0
        if not self._peer_keeps_windows:
            return _MAX_WINDOW
        return max(0, min(state.window, self._peer_window))

    def send(self, stream: int, data: bytes, *, fin: bool = False) -> None:
        """Send bytes, at most `room`; ``fin`` ends our direction. Ignored if the stream is not
        open."""
        state = self._streams.get(stream)
        if state is None or state.finished:
            return
        state.window -= len(data)
        self._peer_window -= len(data)
        flags = _FIN << 24 if fin else 0
        self._output.append(_WORDS.pack(stream, flags | len(data)))
        if data:
            self._output.append(data)
        if fin:
            state.finished = True
            self._forget_if_done(stream, state)

    def consumed(self, stream: int, count: int) -> None:
        """``count`` bytes of the stream were consumed: the peer may send more."""
        state = self._streams.get(stream)
        if state is None or state.peer_finished:
            return
        state.unreported += count
        if state.unreported >= WINDOW // 2:
            self._control(FrameType.WINDOW_UPDATE, _WORDS.pack(stream, state.unreported))
            state.unreported = 0

    def reset(self, stream: int, status: Status = Status.CANCEL) -> None:
        """Reset a stream; ignored if it is not open."""
        if self._streams.pop(stream, None) is not None:
            self._send_reset(stream, status)

    def ping(self) -> int:
        """Send a ping; the peer returns the number as `Pong`."""
        number = self._next_ping
        self._next_ping += 2
        self._control(FrameType.PING, _WORD.pack(number))
        return number

    def go_away(self, status: GoAway = GoAway.OK) -> None:
        """Announce that no further stream is accepted."""
        self._control(FrameType.GOAWAY, _WORDS.pack(self._highest_peer_id, status))

    def _control(self, kind: FrameType, payload: bytes, flags: int = 0) -> None:
        first = 0x80000000 | _VERSION << 16 | kind
        self._output.append(_WORDS.pack(first, flags << 24 | len(payload)) + payload)

    def _send_reset(self, stream: int, status: Status) -> None:
        self._control(FrameType.RST_STREAM, _WORDS.pack(stream, status))

    # Receiving

    def receive(self, data: bytes | memoryview) -> list[Event]:
        """The events completed by these bytes."""
        events: list[Event] = []
        if self._failed:
            return events
        try:
            events.extend(self._events(memoryview(data)))
        except ConnectionFault as fault:
            self._failed = True
            self._waiting.clear()
            self.go_away(GoAway.PROTOCOL_ERROR)
            events.append(Failed(str(fault)))
        return events

    def _events(self, data: memoryview) -> Iterator[Event]:
        if self._waiting:  # the frame's header arrived before
            self._waiting += data
            if len(self._waiting) < self._needed:
                return
            data = memoryview(bytes(self._waiting))
            self._waiting.clear()
        at = 0
        while at < len(data):
            if self._data_left:
                part = data[at : at + self._data_left]
                at += len(part)
                self._data_left -= len(part)
                yield from self._data(part)
            elif self._skip:
                part = data[at : at + self._skip]
                at += len(part)
                self._skip -= len(part)
            elif len(data) - at < _WORDS.size:
                self._needed = _WORDS.size
                break
            else:
                first, second = _WORDS.unpack_from(data, at)
                length = second & 0xFFFFFF
                if not first & 0x80000000:
                    at += _WORDS.size
                    yield from self._data_head(first, second >> 24, length)
                    continue
                if length > MAX_CONTROL_BYTES:
                    raise ConnectionFault(
                        f"a control frame of {length} bytes; the limit is {MAX_CONTROL_BYTES}"
                    )
                end = at + _WORDS.size + length
                if end > len(data):
                    self._needed = end - at
                    break
                payload = bytes(data[at + _WORDS.size : end])
                at = end
                yield from self._control_frame(first, second >> 24, payload)
        if at < len(data):
            self._waiting += data[at:]

    def _data_head(self, stream: int, flags: int, length: int) -> Iterator[Event]:
        state = self._streams.get(stream)
        fin = bool(flags & _FIN)
        if state is None or state.peer_finished:
            self._skip = length
            if state is not None:
                del self._streams[stream]
                self._send_reset(stream, Status.STREAM_ALREADY_CLOSED)
                yield Reset(stream, Status.STREAM_ALREADY_CLOSED)
            elif not self._was_open(stream):
                self._send_reset(stream, Status.INVALID_STREAM)
            # otherwise the frame was already in flight when the stream was reset
            return
        self._data_stream, self._data_left, self._data_fin = stream, length, fin
        if not length and fin:
            yield from self._data(memoryview(b""))

    def _data(self, part: memoryview) -> Iterator[Event]:
        stream = self._data_stream
        state = self._streams.get(stream)
        if state is None:  # we reset the stream while its frame was arriving
            return
        fin = self._data_fin and not self._data_left
        if fin:
            state.peer_finished = True
            self._forget_if_done(stream, state)
        yield Data(stream, bytes(part), fin)

    def _was_open(self, stream: int) -> bool:
        if bool(stream & 1) == self._client:
            return 0 < stream < self._next_id
        return 0 < stream <= self._highest_peer_id

    def _control_frame(self, first: int, flags: int, payload: bytes) -> Iterator[Event]:
        version, kind = first >> 16 & 0x7FFF, first & 0xFFFF
        if version != _VERSION:
            raise ConnectionFault(
                f"a frame of SPDY version {version}; only version {_VERSION} is supported"
            )
        read = self._READERS.get(kind)
        if read is None:  # the specification requires unknown frame types to be ignored
            return
        try:
            yield from read(self, flags, payload)
        except StreamFault as fault:
            known = self._streams.pop(fault.stream, None)
            self._send_reset(fault.stream, fault.status)
            if known is not None:
                yield Reset(fault.stream, fault.status)
        except struct.error:
            raise ConnectionFault(f"a {FrameType(kind).name} frame that is truncated") from None

    def _syn_stream(self, flags: int, payload: bytes) -> Iterator[Event]:
        stream = _WORD.unpack_from(payload)[0] & _STREAM_IDS
        # decompress before any check: the compression state spans all header blocks
        headers = self._headers(payload[10:], stream)
        if not stream or bool(stream & 1) == self._client:
            raise ConnectionFault(f"the peer may not open stream {stream}")
        if stream <= self._highest_peer_id:
            raise StreamFault(stream, Status.PROTOCOL_ERROR)
        self._highest_peer_id = stream
        if len(self._streams) >= MAX_STREAMS:
            raise StreamFault(stream, Status.REFUSED_STREAM)
        self._streams[stream] = state = _Stream(self._peer_initial_window)
        state.peer_finished = bool(flags & _FIN)
        yield Opened(stream, headers, state.peer_finished)

    def _syn_reply(self, flags: int, payload: bytes) -> Iterator[Event]:
        stream = _WORD.unpack_from(payload)[0] & _STREAM_IDS
        headers = self._headers(payload[4:], stream)
        if bool(stream & 1) != self._client:
            raise StreamFault(stream, Status.PROTOCOL_ERROR)  # only its opener gets a reply
        state = self._streams.get(stream)
        if state is None:
            if not self._was_open(stream):
                self._send_reset(stream, Status.INVALID_STREAM)
            return
        fin = bool(flags & _FIN)
        if fin:
            state.peer_finished = True
            self._forget_if_done(stream, state)
        yield Replied(stream, headers, fin)

    def _more_headers(self, flags: int, payload: bytes) -> Iterator[Event]:
        """HEADERS: no client uses it, but skipping it would corrupt the compression state."""
        stream = _WORD.unpack_from(payload)[0] & _STREAM_IDS
        self._headers(payload[4:], stream)
        state = self._streams.get(stream)
        if state is not None and flags & _FIN and not state.peer_finished:
            state.peer_finished = True
            self._forget_if_done(stream, state)
            yield Data(stream, b"", fin=True)

    def _rst_stream(self, flags: int, payload: bytes) -> Iterator[Event]:
        stream, status = _WORDS.unpack(payload)
        stream &= _STREAM_IDS
        if self._streams.pop(stream, None) is not None:
            yield Reset(stream, status)

    def _settings(self, flags: int, payload: bytes) -> Iterator[Event]:
        (count,) = _WORD.unpack_from(payload)
        if len(payload) != 4 + 8 * count:
            raise ConnectionFault(
                f"SETTINGS announces {count} entries but has {len(payload)} bytes"
            )
        for name, value in struct.iter_unpack(">II", payload[4:]):
            if name & 0xFFFFFF == _INITIAL_WINDOW_SIZE:
                if value > _MAX_WINDOW:
                    raise ConnectionFault(f"an initial window of {value} bytes")
                for state in self._streams.values():
                    state.window += value - self._peer_initial_window
                self._peer_initial_window = value
                self._peer_keeps_windows = True
                yield WindowOpened(0)

    def _ping_frame(self, flags: int, payload: bytes) -> Iterator[Event]:
        (number,) = _WORD.unpack(payload)
        if bool(number & 1) == self._client:
            yield Pong(number)
        else:
            self._control(FrameType.PING, payload)

    def _goaway(self, flags: int, payload: bytes) -> Iterator[Event]:
        _, status = _WORDS.unpack(payload)
        yield WentAway(status)

    def _window_update(self, flags: int, payload: bytes) -> Iterator[Event]:
        stream, delta = (word & 0x7FFFFFFF for word in _WORDS.unpack(payload))
        self._peer_keeps_windows = True
        if not stream:
            self._peer_window += delta
            if self._peer_window > _MAX_WINDOW:
                raise ConnectionFault("WINDOW_UPDATE overflows the connection's window")
        else:
            state = self._streams.get(stream)
            if state is None:
                return
            state.window += delta
            if state.window > _MAX_WINDOW or not delta:
                raise StreamFault(stream, Status.FLOW_CONTROL_ERROR)
        yield WindowOpened(stream)

    _READERS: Final[Mapping[int, _Reader]] = {
        FrameType.SYN_STREAM: _syn_stream,
        FrameType.SYN_REPLY: _syn_reply,
        FrameType.RST_STREAM: _rst_stream,
        FrameType.SETTINGS: _settings,
        FrameType.PING: _ping_frame,
        FrameType.GOAWAY: _goaway,
        FrameType.HEADERS: _more_headers,
        FrameType.WINDOW_UPDATE: _window_update,
    }

    def _headers(self, block: bytes, stream: int) -> Headers:
        """The headers in a block; a block that cannot be decompressed ends the connection."""
        try:
            return self._header_blocks.decode(block)
        except CompressionFault as error:
            raise ConnectionFault(str(error)) from None
        except ValueError:
            raise StreamFault(stream, Status.PROTOCOL_ERROR) from None

    def _forget_if_done(self, stream: int, state: _Stream) -> None:
        if state.finished and state.peer_finished:
            self._streams.pop(stream, None)
