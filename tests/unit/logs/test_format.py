"""CRI log records: the format that the kubelet's reader expects in a log file."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.logs.format import Clock, LineFormatter, zone_offset

STAMP = b"2026-01-02T03:04:05.000000006Z"


def records(reads: list[bytes], limit: int = 8, *, end: bool = True) -> list[tuple[str, bytes]]:
    """Return (P or F, text) of the records for these reads of one stream."""
    formatter = LineFormatter("stdout", limit)
    written = b"".join(formatter.feed(read, STAMP) for read in reads)
    if end:
        written += formatter.flush(STAMP)
    result = []
    for line in written.split(b"\n")[:-1]:
        stamp, stream, tag, text = line.split(b" ", 3)
        assert (stamp, stream) == (STAMP, b"stdout")
        result.append((tag.decode(), text))
    return result


@pytest.mark.parametrize(
    ("reads", "expected"),
    [
        pytest.param([b"a\nb\n"], [("F", b"a"), ("F", b"b")], id="two lines of one read"),
        pytest.param([b"a", b"b\n"], [("F", b"ab")], id="a line of two reads"),
        pytest.param([b"\n\n"], [("F", b""), ("F", b"")], id="empty lines stay"),
        pytest.param([b"a"], [("P", b"a")], id="text at the end without line end is partial"),
        pytest.param([b""], [], id="nothing"),
        pytest.param([b"a\r\nb\r\n"], [("F", b"a"), ("F", b"b")], id="carriage returns are lost"),
        pytest.param([b"a\r", b"\n"], [("F", b"a")], id="line end cut by the read"),
        pytest.param([b"a\r\r\n"], [("F", b"a\r")], id="only one carriage return is lost"),
        pytest.param([b"a\rb\n"], [("F", b"a\rb")], id="a progress bar's carriage return stays"),
        pytest.param([b"12345678\n"], [("F", b"12345678")], id="exactly the limit is one record"),
        pytest.param([b"123456789\n"], [("P", b"12345678"), ("F", b"9")], id="one over the limit"),
        pytest.param(
            [b"1234567812345678x\nab\n"],
            [("P", b"12345678"), ("P", b"12345678"), ("F", b"x"), ("F", b"ab")],
            id="a long line in the middle of a read",
        ),
        pytest.param(
            [b"1234567", b"89", b"\n"],
            [("P", b"12345678"), ("F", b"9")],
            id="a long line in pieces",
        ),
        pytest.param([b"12345678\r", b"\n"], [("F", b"12345678")], id="line end at the limit"),
        pytest.param(
            [b"12345678\rx\n"], [("P", b"12345678"), ("F", b"\rx")], id="no line end at the limit"
        ),
    ],
)
def test_lines_become_records(reads: list[bytes], expected: list[tuple[str, bytes]]) -> None:
    assert records(reads) == expected


def test_text_without_end_waits_for_its_end() -> None:
    assert records([b"a\nb"], end=False) == [("F", b"a")]


def test_no_limit_never_cuts() -> None:
    assert records([b"x" * 100000, b"y\n"], limit=0) == [("F", b"x" * 100000 + b"y")]


@given(st.lists(st.binary(max_size=40)), st.integers(1, 12))
def test_records_hold_all_text_however_it_is_read(reads: list[bytes], limit: int) -> None:
    result = records(reads, limit)
    whole = b"".join(reads)
    if whole.endswith(b"\r"):
        # no line end followed: the carriage return is text
        whole, tail = whole[:-1], b"\r"
    else:
        tail = b""
    text = b"".join(text + (b"\n" if tag == "F" else b"") for tag, text in result)
    assert text == whole.replace(b"\r\n", b"\n") + tail
    assert all(len(text) <= limit or text.endswith(b"\r") for _, text in result)
    assert records([b"".join(reads)], limit) == result


def test_clock_writes_nine_decimals_and_the_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    for zone, expected in (
        ("UTC", b"2026-11-24T08:00:00.000000100Z"),
        ("Asia/Kolkata", b"2026-11-24T13:30:00.000000100+05:30"),
        ("America/St_Johns", b"2026-11-24T04:30:00.000000100-03:30"),
    ):
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        assert Clock().stamp(1795507200 * 10**9 + 100) == expected
    monkeypatch.undo()
    time.tzset()


def test_clock_goes_on_from_second_to_second() -> None:
    clock = Clock()
    assert clock.stamp(10**9)[17:29] == b"01.000000000"
    assert clock.stamp(2 * 10**9 - 1)[17:29] == b"01.999999999"
    assert clock.stamp(2 * 10**9)[17:29] == b"02.000000000"


def test_zone_offset() -> None:
    assert [zone_offset(s) for s in (0, 3600, -16200, 20700)] == ["Z", "+01:00", "-04:30", "+05:45"]
