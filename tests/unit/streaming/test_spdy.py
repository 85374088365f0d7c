"""SPDY/3.1, byte by byte."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.streaming import spdy
from runtime.streaming.spdy import (
    Data,
    Event,
    Failed,
    FrameType,
    Opened,
    Pong,
    Replied,
    Reset,
    Spdy,
    Status,
    WentAway,
    WindowOpened,
)
from runtime.streaming.spdy_dictionary import DICTIONARY

from .splits import cuts, pieces


def control(kind: int, payload: bytes, flags: int = 0, version: int = 3) -> bytes:
    return struct.pack(">HHI", 0x8000 | version, kind, flags << 24 | len(payload)) + payload


def data(stream: int, content: bytes, flags: int = 0) -> bytes:
    return struct.pack(">II", stream, flags << 24 | len(content)) + content


class Blocks:
    """Header blocks as one connection compresses them, in sequence."""

    def __init__(self) -> None:
        self._deflate = zlib.compressobj(9, zdict=DICTIONARY)

    def __call__(self, *pairs: tuple[str, str], count: int | None = None) -> bytes:
        block = struct.pack(">I", len(pairs) if count is None else count)
        for pair in pairs:
            for text in pair:
                block += struct.pack(">I", len(text)) + text.encode()
        return self.raw(block)

    def raw(self, block: bytes) -> bytes:
        return self._deflate.compress(block) + self._deflate.flush(zlib.Z_SYNC_FLUSH)


def syn(stream: int, block: bytes, flags: int = 0) -> bytes:
    return control(FrameType.SYN_STREAM, struct.pack(">IIH", stream, 0, 0) + block, flags)


def reply(stream: int, block: bytes, flags: int = 0) -> bytes:
    return control(FrameType.SYN_REPLY, struct.pack(">I", stream) + block, flags)


def joined(events: Iterable[Event]) -> list[Event]:
    """The events, with the parts of one frame's data joined."""
    result: list[Event] = []
    for event in events:
        last = result[-1] if result else None
        if (
            isinstance(event, Data)
            and isinstance(last, Data)
            and last.stream == event.stream
            and not last.fin
        ):
            result[-1] = Data(event.stream, last.data + event.data, event.fin)
        else:
            result.append(event)
    return result


def server() -> Spdy:
    made = Spdy()
    made.output()
    return made


def with_streams(*numbers: int) -> Spdy:
    made, blocks = server(), Blocks()
    for number in numbers:
        made.receive(syn(number, blocks()))
    assert made.output() == b""
    return made


def frames(output: bytes) -> list[tuple[int, bytes]]:
    """Control frames: type and payload."""
    found = []
    while output:
        kind, length = struct.unpack(">xxHI", output[:8])
        found.append((kind, output[8 : 8 + (length & 0xFFFFFF)]))
        output = output[8 + (length & 0xFFFFFF) :]
    return found


def test_the_dictionary_is_the_specification_s() -> None:
    assert len(DICTIONARY) == 1423
    assert zlib.adler32(DICTIONARY) == 0xE3C6A7C2  # the prefix of every compressed header block


def test_a_new_connection_announces_its_limits() -> None:
    settings, update = frames(Spdy().output())
    assert settings == (
        FrameType.SETTINGS,
        bytes.fromhex("00000002 00000004 00000800 00000007 00040000"),
    )
    assert update == (FrameType.WINDOW_UPDATE, bytes.fromhex("00000000 7ffeffff"))


WORDS = ("streamtype", "error")
SESSION: list[tuple[Callable[[Blocks], bytes], list[Event]]] = [
    (lambda b: syn(1, b(WORDS)), [Opened(1, {"streamtype": "error"}, False)]),
    (lambda b: syn(3, b(("a", "1"), ("b", "")), 1), [Opened(3, {"a": "1", "b": ""}, True)]),
    (lambda b: data(1, b"hello"), [Data(1, b"hello", False)]),
    (lambda b: data(1, b""), []),
    (lambda b: data(1, b"\xff" * 5000, 1), [Data(1, b"\xff" * 5000, True)]),
    (lambda b: syn(5, b(WORDS)), [Opened(5, {"streamtype": "error"}, False)]),
    (lambda b: data(5, b"", 1), [Data(5, b"", True)]),
    (lambda b: syn(7, b()), [Opened(7, {}, False)]),
    (
        lambda b: control(FrameType.RST_STREAM, struct.pack(">II", 7, 5)),
        [Reset(7, Status.CANCEL)],
    ),
    (lambda b: data(7, b"on its way when the stream was reset"), []),
    (lambda b: control(FrameType.PING, struct.pack(">I", 2)), [Pong(2)]),
    (lambda b: control(FrameType.PING, struct.pack(">I", 1)), []),
    (
        lambda b: control(FrameType.SETTINGS, struct.pack(">III", 1, 7, 1000)),
        [WindowOpened(0)],
    ),
    (lambda b: control(FrameType.SETTINGS, struct.pack(">III", 1, 4, 100)), []),
    (lambda b: control(FrameType.WINDOW_UPDATE, struct.pack(">II", 5, 9)), [WindowOpened(5)]),
    (lambda b: control(FrameType.WINDOW_UPDATE, struct.pack(">II", 99, 9)), []),
    (lambda b: control(77, b"of a later version"), []),
    (lambda b: syn(9, b()), [Opened(9, {}, False)]),
    (
        lambda b: control(FrameType.HEADERS, struct.pack(">I", 9) + b(("x", "y")), 1),
        [Data(9, b"", True)],
    ),
    (lambda b: control(FrameType.GOAWAY, struct.pack(">II", 0, 0)), [WentAway(0)]),
]
"""Frames of one connection, and their meaning."""


def recorded() -> tuple[bytes, list[Event]]:
    blocks = Blocks()
    return (
        b"".join(frame(blocks) for frame, _ in SESSION),
        [event for _, events in SESSION for event in events],
    )


def test_frames_produce_their_events() -> None:
    connection, blocks = server(), Blocks()
    for frame, events in SESSION:
        assert connection.receive(frame(blocks)) == events


@given(cuts())
def test_any_split_gives_the_same_events(at: list[int]) -> None:
    whole, events = recorded()
    connection = server()
    found = [event for piece in pieces(whole, at) for event in connection.receive(piece)]
    assert joined(found) == joined(events)
    assert connection.output() == control(FrameType.PING, struct.pack(">I", 1))


def test_bytes_one_by_one_give_the_same_events() -> None:
    whole, events = recorded()
    connection = server()
    found = [event for byte in whole for event in connection.receive(bytes((byte,)))]
    assert joined(found) == joined(events)


@given(st.binary(max_size=400), cuts(4))
def test_no_input_breaks_it(noise: bytes, at: list[int]) -> None:
    """Any input produces events, and none after a failure."""
    connection = with_streams(1, 3)
    found = [event for piece in pieces(noise, at) for event in connection.receive(piece)]
    assert not any(isinstance(event, Failed) for event in found[:-1])
    connection.output()
    if found and isinstance(found[-1], Failed):
        assert connection.receive(data(1, b"x")) == []


@given(
    st.lists(st.tuples(st.integers(0, 12), st.binary(max_size=60), st.integers(0, 3)), max_size=8)
)
def test_no_frames_break_it(made: list[tuple[int, bytes, int]]) -> None:
    connection = with_streams(1, 3)
    for kind, payload, flags in made:
        whole = control(kind, payload, flags) if kind else data(flags, payload, flags & 1)
        connection.receive(whole)
    connection.output()


FATAL: list[tuple[str, Callable[[Blocks], bytes], str]] = [
    ("another version", lambda b: control(1, b"", version=2), "version 2"),
    ("a giant frame", lambda b: struct.pack(">HHI", 0x8003, 4, 0xFFFFFF), "16777215 bytes"),
    ("a frame cut short", lambda b: control(FrameType.RST_STREAM, b"\0\0\0\1"), "truncated"),
    ("an empty SYN_STREAM", lambda b: control(FrameType.SYN_STREAM, b""), "truncated"),
    ("no compression", lambda b: syn(1, b"\0\0\0\0"), "not compressed"),
    ("headers that expand", lambda b: syn(1, b.raw(b"\0" * (1 << 20))), "more than 65536"),
    ("an even stream", lambda b: syn(2, b()), "the peer may not open stream"),
    ("stream 0", lambda b: syn(0, b()), "the peer may not open stream"),
    (
        "settings that lie",
        lambda b: control(FrameType.SETTINGS, struct.pack(">III", 9, 7, 1)),
        "9 entries",
    ),
    (
        "a window beyond all",
        lambda b: control(FrameType.SETTINGS, struct.pack(">III", 1, 7, 0xFFFFFFFF)),
        "initial window",
    ),
    (
        "the connection's window beyond all",
        lambda b: control(FrameType.WINDOW_UPDATE, struct.pack(">II", 0, 0x7FFFFFFF)),
        "overflows",
    ),
]


@pytest.mark.parametrize(
    ("frame", "words"), [(f, w) for _, f, w in FATAL], ids=[n for n, *_ in FATAL]
)
def test_a_fault_of_the_connection_ends_it(frame: Callable[[Blocks], bytes], words: str) -> None:
    connection = server()
    (event,) = connection.receive(frame(Blocks()))
    assert isinstance(event, Failed) and words in event.reason
    assert frames(connection.output())[-1] == (FrameType.GOAWAY, struct.pack(">II", 0, 1))
    assert connection.receive(syn(1, Blocks()())) == []


STREAM_FAULTS: list[tuple[str, Callable[[Blocks], bytes], Status]] = [
    ("opened twice", lambda b: syn(1, b()), Status.PROTOCOL_ERROR),
    ("upper case", lambda b: syn(5, b(("StreamType", "error"))), Status.PROTOCOL_ERROR),
    ("twice the same name", lambda b: syn(5, b(("a", "1"), ("a", "2"))), Status.PROTOCOL_ERROR),
    ("no name", lambda b: syn(5, b(("", "1"))), Status.PROTOCOL_ERROR),
    ("fewer than it says", lambda b: syn(5, b(("a", "1"), count=2)), Status.PROTOCOL_ERROR),
    ("more than it says", lambda b: syn(5, b(("a", "1"), count=0)), Status.PROTOCOL_ERROR),
    ("millions", lambda b: syn(5, b(count=1 << 31)), Status.PROTOCOL_ERROR),
    ("a reply to the peer's own stream", lambda b: reply(1, b(), 1), Status.PROTOCOL_ERROR),
    ("a reply to a stream of its own", lambda b: reply(5, b()), Status.PROTOCOL_ERROR),
    ("data of no stream", lambda b: data(5, b"x"), Status.INVALID_STREAM),
    (
        "a window beyond all",
        lambda b: control(FrameType.WINDOW_UPDATE, struct.pack(">II", 3, 0x7FFFFFFF)),
        Status.FLOW_CONTROL_ERROR,
    ),
]


@pytest.mark.parametrize(
    ("frame", "status"), [(f, s) for _, f, s in STREAM_FAULTS], ids=[n for n, *_ in STREAM_FAULTS]
)
def test_a_fault_of_a_stream_costs_that_stream(
    frame: Callable[[Blocks], bytes], status: Status
) -> None:
    connection, blocks = server(), Blocks()
    connection.receive(syn(1, blocks()) + syn(3, blocks()))
    events = connection.receive(frame(blocks))
    ((kind, payload),) = frames(connection.output())
    stream, told = struct.unpack(">II", payload)
    assert (kind, told) == (FrameType.RST_STREAM, status)
    assert events in ([], [Reset(stream, status)])
    other = 3 if stream == 1 else 1
    assert connection.receive(data(other, b"goes on")) == [Data(other, b"goes on", False)]


def test_data_after_the_end_resets_the_stream() -> None:
    connection = with_streams(1)
    connection.receive(data(1, b"", 1))
    assert connection.receive(data(1, b"more")) == [Reset(1, Status.STREAM_ALREADY_CLOSED)]


def test_a_peer_has_a_limited_number_of_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spdy, "MAX_STREAMS", 2)
    connection, blocks = server(), Blocks()
    for stream in range(1, 20001, 2):
        connection.receive(syn(stream, blocks()))
    refused = frames(connection.output())
    assert len(refused) == 9998
    assert refused[0] == (FrameType.RST_STREAM, struct.pack(">II", 5, Status.REFUSED_STREAM))
    connection.reset(1)
    assert connection.receive(syn(20001, blocks())) == [Opened(20001, {}, False)]


def test_a_peer_that_ignores_windows_is_not_held_to_them() -> None:
    """Go's spdystream never sends WINDOW_UPDATE: every output would end after 64 KiB."""
    connection = with_streams(1)
    connection.send(1, b"x" * 200_000)
    assert connection.room(1) > 1 << 20


def test_the_windows_of_a_peer_that_keeps_them_are_obeyed() -> None:
    connection, blocks = server(), Blocks()
    connection.receive(control(FrameType.SETTINGS, struct.pack(">III", 1, 7, 100)))
    connection.receive(syn(1, blocks()) + syn(3, blocks()))
    connection.send(1, b"x" * 100)
    assert (connection.room(1), connection.room(3)) == (0, 100)
    connection.receive(control(FrameType.WINDOW_UPDATE, struct.pack(">II", 1, 30)))
    assert connection.room(1) == 30
    connection.receive(control(FrameType.SETTINGS, struct.pack(">III", 1, 7, 50)))
    assert (connection.room(1), connection.room(3)) == (0, 50)


def test_the_window_of_the_connection_is_obeyed_too() -> None:
    connection = with_streams(1, 3)
    connection.receive(control(FrameType.SETTINGS, struct.pack(">III", 1, 7, 1 << 20)))
    connection.send(1, b"x" * (64 << 10))
    assert connection.room(3) == 0
    connection.receive(control(FrameType.WINDOW_UPDATE, struct.pack(">II", 0, 5)))
    assert connection.room(3) == 5


def test_consumed_bytes_replenish_the_window() -> None:
    connection = with_streams(1)
    connection.consumed(1, spdy.WINDOW // 2 - 1)
    assert connection.output() == b""
    connection.consumed(1, 1)
    ((kind, payload),) = frames(connection.output())
    assert (kind, struct.unpack(">II", payload)) == (
        FrameType.WINDOW_UPDATE,
        (1, spdy.WINDOW // 2),
    )


def test_both_ends_interoperate() -> None:
    client, ours = Spdy(client=True), Spdy()
    client.receive(ours.output())
    ours.receive(client.output())
    stream = client.open({"streamType": "stdout"})
    assert ours.receive(client.output()) == [Opened(stream, {"streamtype": "stdout"}, False)]
    ours.reply(stream, {"x": "y"})
    ours.send(stream, b"out")
    ours.send(stream, b"", fin=True)
    assert client.receive(ours.output()) == [
        Replied(stream, {"x": "y"}, False),
        Data(stream, b"out", False),
        Data(stream, b"", True),
    ]
    number = ours.ping()
    client.receive(ours.output())
    assert ours.receive(client.output()) == [Pong(number)]
    client.send(stream, b"in", fin=True)
    assert ours.receive(client.output()) == [Data(stream, b"in", True)]
    ours.send(stream, b"too late")
    assert ours.output() == b""
