"""WebSocket messages and the channels in them, byte by byte."""

from __future__ import annotations

import struct
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.streaming.websocket import Channels, Closed, Data, Ended, Event, Part, WebSocket

from .splits import cuts, pieces

V5 = "v5.channel.k8s.io"
V4 = "v4.channel.k8s.io"
BASE64 = "v4.base64.channel.k8s.io"
MASK = b"\x01\x02\x03\x04"


def frame(
    payload: bytes, opcode: int = 2, *, fin: bool = True, mask: bytes = MASK, rsv: int = 0
) -> bytes:
    """A client's frame."""
    head = bytes((fin << 7 | rsv << 4 | opcode,))
    masked = 0x80 if mask else 0
    if len(payload) < 126:
        head += bytes((masked | len(payload),))
    elif len(payload) < 1 << 16:
        head += struct.pack(">BH", masked | 126, len(payload))
    else:
        head += struct.pack(">BQ", masked | 127, len(payload))
    if not mask:
        return head + payload
    return head + mask + bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))


def joined(events: Iterable[Event]) -> list[Event]:
    """The events, with consecutive data of one channel joined."""
    result: list[Event] = []
    for event in events:
        last = result[-1] if result else None
        if isinstance(event, Data) and isinstance(last, Data) and last.channel == event.channel:
            result[-1] = Data(event.channel, last.data + event.data)
        else:
            result.append(event)
    return result


FRAMES: list[tuple[str, str, bytes, list[Event]]] = [
    ("bytes", V4, frame(b"\0in"), [Data(0, b"in")]),
    ("text", V4, frame(b"\0in", 1), [Data(0, b"in")]),
    ("an empty message", V4, frame(b""), []),
    ("a channel without bytes", V4, frame(b"\0"), []),
    ("a channel beyond all", V4, frame(b"\xfex"), [Data(254, b"x")]),
    ("255 is a channel before v5", V4, frame(b"\xff\0"), [Data(255, b"\0")]),
    ("half-close", V5, frame(b"\xff\0"), [Ended(0)]),
    ("half-close with more", V5, frame(b"\xff\0abc"), [Ended(0)]),
    ("half-close of nothing", V5, frame(b"\xff"), []),
    (
        "fragments",
        V5,
        frame(b"\0a", fin=False) + frame(b"b", 0, fin=False) + frame(b"c", 0),
        [Data(0, b"abc")],
    ),
    (
        "a ping between fragments",
        V5,
        frame(b"\0a", fin=False) + frame(b"!", 9) + frame(b"b", 0),
        [Data(0, b"ab")],
    ),
    ("a fragment of nothing", V5, frame(b"", fin=False) + frame(b"\0b", 0), [Data(0, b"b")]),
    ("half-close in fragments", V5, frame(b"\xff", fin=False) + frame(b"\4", 0), [Ended(4)]),
    ("a long message", V5, frame(b"\0" + b"x" * 70_000), [Data(0, b"x" * 70_000)]),
    ("base64", BASE64, frame(b"0aGVsbG8=", 1), [Data(0, b"hello")]),
    (
        "base64 in fragments",
        BASE64,
        frame(b"0aG", 1, fin=False) + frame(b"VsbG8=", 0),
        [Data(0, b"hello")],
    ),
    ("an empty base64 message", BASE64, frame(b"0", 1), []),
    ("close", V5, frame(struct.pack(">H", 1000) + b"bye", 8), [Closed(1000, "bye")]),
    ("close without a code", V5, frame(b"", 8), [Closed(1005, "")]),
]


@pytest.mark.parametrize(
    ("protocol", "data", "events"), [f[1:] for f in FRAMES], ids=[f[0] for f in FRAMES]
)
def test_each_message_gives_its_events(protocol: str, data: bytes, events: list[Event]) -> None:
    assert joined(Channels(protocol).receive(data)) == events


@pytest.mark.parametrize("protocol", [V5, V4, BASE64])
@given(cuts())
def test_any_split_gives_the_same_events(protocol: str, at: list[int]) -> None:
    mine = [row for row in FRAMES if row[1] == protocol]
    mine.sort(key=lambda row: any(isinstance(event, Closed) for event in row[3]))
    whole = b"".join(row[2] for row in mine)
    one = Channels(protocol)
    expected = joined(one.receive(whole))
    assert expected
    other = Channels(protocol)
    found = [event for piece in pieces(whole, at) for event in other.receive(piece)]
    assert joined(found) == expected
    assert one.output() == other.output()


@pytest.mark.parametrize("protocol", [V5, BASE64])
@given(st.binary(max_size=300), cuts(4))
def test_no_input_breaks_it(protocol: str, noise: bytes, at: list[int]) -> None:
    socket = Channels(protocol)
    found = [event for piece in pieces(noise, at) for event in socket.receive(piece)]
    assert not any(isinstance(event, Closed) for event in found[:-1])


FAULTS: list[tuple[str, str, bytes, int]] = [
    ("no mask", V5, frame(b"\0x", mask=b""), 1002),
    ("a reserved bit", V5, frame(b"\0x", rsv=4), 1002),
    ("a reserved opcode", V5, frame(b"\0x", 3), 1002),
    ("a continuation of nothing", V5, frame(b"\0x", 0), 1002),
    ("a new message within another", V5, frame(b"\0x", fin=False) + frame(b"\0x"), 1002),
    ("a fragmented ping", V5, frame(b"x", 9, fin=False), 1002),
    ("a long ping", V5, frame(b"x" * 126, 9), 1002),
    ("text that is none", V5, frame(b"\0\xff", 1), 1007),
    ("no digit", BASE64, frame(b"x", 1), 1007),
    ("no base64", BASE64, frame(b"0!!!!", 1), 1007),
    ("base64 cut short", BASE64, frame(b"0aGV", 1), 1007),
    ("padding in the middle", BASE64, frame(b"0aGU=aGVs", 1), 1007),
]


@pytest.mark.parametrize(
    ("protocol", "data", "code"), [f[1:] for f in FAULTS], ids=[f[0] for f in FAULTS]
)
def test_a_fault_closes_with_its_code(protocol: str, data: bytes, code: int) -> None:
    socket = Channels(protocol)
    events = socket.receive(data + frame(b"\0after"))
    assert isinstance(events[-1], Closed) and events[-1].code == code
    opcode, _, told = struct.unpack(">BBH", socket.output()[:4])
    assert (opcode, told) == (0x88, code)
    assert socket.receive(frame(b"\0after")) == []
    socket.send(1, b"ignored")
    assert socket.output() == b""


def test_a_ping_is_answered_and_a_close_too() -> None:
    socket = Channels(V5)
    socket.receive(frame(b"hello", 9))
    assert socket.output() == b"\x8a\x05hello"
    socket.receive(frame(struct.pack(">H", 1000), 8))
    assert socket.output() == b"\x88\x02\x03\xe8"


@pytest.mark.parametrize(
    ("protocol", "sent"),
    [(V4, b"\x82\x03\x01hi"), (V5, b"\x82\x03\x01hi"), (BASE64, b"\x81\x051aGk=")],
)
def test_what_is_sent(protocol: str, sent: bytes) -> None:
    socket = Channels(protocol)
    socket.send(1, b"hi")
    assert socket.output() == sent


def test_a_giant_frame_is_given_in_parts() -> None:
    """No part of a message is kept, so its length does not matter."""
    socket = WebSocket()
    head = struct.pack(">BBQ", 0x82, 0x80 | 127, 1 << 40) + MASK
    assert list(socket.receive(head)) == []
    parts = [part for _ in range(3) for part in socket.receive(b"\0" * 1000)]
    assert [(len(p.data), p.first, p.last) for p in parts if isinstance(p, Part)] == [
        (1000, True, False),
        (1000, False, False),
        (1000, False, False),
    ]


@pytest.mark.parametrize("protocol", ["", "channel.k8s.io", V4, V5, BASE64])
@given(
    st.lists(st.tuples(st.integers(0, 4), st.binary(min_size=1, max_size=50)), max_size=6), cuts()
)
def test_both_ends_interoperate(
    protocol: str, sent: list[tuple[int, bytes]], at: list[int]
) -> None:
    client, ours = Channels(protocol, client=True), Channels(protocol)
    for channel, data in sent:
        client.send(channel, data)
    whole = client.output()
    found = [event for piece in pieces(whole, at) for event in ours.receive(piece)]
    assert joined(found) == joined(Data(channel, data) for channel, data in sent)
