"""The CRI log format: ``<RFC 3339 time with nanoseconds> <stdout|stderr> <P|F> <text>\\n``.

Pure, and imports only ``time``, because every import makes the log keeper's process larger. F ends
a line of the container; P is a part of a line that continues in the next record of its stream.  The
format is Kubernetes' ("CRI: Log management for container stdout/stderr streams"); lines are split
as in containerd's CRI plugin, and the kubelet's log reader must be able to read them.
"""

from __future__ import annotations

import time

DEFAULT_LINE_LIMIT = 16384
"""Bytes of text in one record (``max_container_log_line_size``); 0 or less means no limit."""

_NANOSECONDS = 1_000_000_000


class Clock:
    """Formats times as RFC 3339 in the node's time zone, always with nine decimals.

    The part up to the seconds is cached, because formatting it dominates at a million lines a
    second.
    """

    __slots__ = ("_head", "_second", "_zone")

    def __init__(self) -> None:
        self._second = -1
        self._head = b""
        self._zone = b""

    def stamp(self, nanoseconds: int) -> bytes:
        """Return the time that is this many nanoseconds after the epoch."""
        second, fraction = divmod(nanoseconds, _NANOSECONDS)
        if second != self._second:
            local = time.localtime(second)
            self._head = time.strftime("%Y-%m-%dT%H:%M:%S", local).encode()
            self._zone = zone_offset(local.tm_gmtoff).encode()
            self._second = second
        return b"%b.%09d%b" % (self._head, fraction, self._zone)


def zone_offset(seconds_east: int) -> str:
    """Return ``Z`` for UTC, else ``+hh:mm`` or ``-hh:mm``."""
    if seconds_east == 0:
        return "Z"
    hours, minutes = divmod(abs(seconds_east) // 60, 60)
    return f"{'-' if seconds_east < 0 else '+'}{hours:02d}:{minutes:02d}"


class LineFormatter:
    """Converts the bytes of one output stream into records, independent of how reads split them.

    Text without a line end is buffered until the line end arrives, the limit is exceeded (a P
    record), or ``flush`` is called.  A carriage return before a line end is part of the line end.
    """

    __slots__ = ("_limit", "_pending", "_stream", "records", "splits")

    def __init__(self, stream: str, limit: int = DEFAULT_LINE_LIMIT) -> None:
        self._stream = stream.encode()
        self._limit = limit
        self._pending = bytearray()
        self.records = 0
        """Records made so far."""
        self.splits = 0
        """Those among them that end where the limit is, and not where a line does."""

    def feed(self, data: bytes, stamp: bytes) -> bytes:
        """Return the records that ``data`` completes; all have the time at which it was read."""
        last_end = data.rfind(b"\n")
        if last_end < 0:
            self._pending += data
            return self._cut_pending(stamp)
        text = data[:last_end]
        if self._pending:
            text = bytes(self._pending) + text
        self._pending = bytearray(data[last_end + 1 :])
        # A carriage return before the last line end has lost its "\n" to the slice above.
        if text.endswith(b"\r"):
            text = text[:-1]
        lines = text.replace(b"\r\n", b"\n").split(b"\n")
        self.records += len(lines)
        full = b"%b %b F " % (stamp, self._stream)
        if self._limit > 0 and max(map(len, lines)) > self._limit:
            records = b"".join(self._cut_line(line, full, stamp) for line in lines)
        else:
            records = full + (b"\n" + full).join(lines) + b"\n"
        return records + self._cut_pending(stamp) if self._pending else records

    def flush(self, stamp: bytes) -> bytes:
        """Return the buffered text as a P record, b"" if there is none, and clear the buffer."""
        if not self._pending:
            return b""
        text, self._pending = bytes(self._pending), bytearray()
        self.records += 1
        return self._partial(text, stamp)

    def _partial(self, text: bytes, stamp: bytes) -> bytes:
        return b"%b %b P %b\n" % (stamp, self._stream, text)

    def _cut_line(self, line: bytes, full: bytes, stamp: bytes) -> bytes:
        limit = self._limit
        records = []
        while len(line) > limit:
            records.append(self._partial(line[:limit], stamp))
            line = line[limit:]
        self._count_splits(len(records))
        return b"".join(records) + full + line + b"\n"

    def _cut_pending(self, stamp: bytes) -> bytes:
        limit, pending = self._limit, self._pending
        if limit <= 0:
            return b""
        records = []
        # A carriage return at the end does not count yet: it can be half of a line end.
        while len(pending) - pending.endswith(b"\r") > limit:
            records.append(self._partial(bytes(pending[:limit]), stamp))
            del pending[:limit]
        self._count_splits(len(records))
        return b"".join(records)

    def _count_splits(self, number: int) -> None:
        self.records += number
        self.splits += number
