"""Draining: from the FIFOs of all containers into their log files and to attached clients.

Draining never stops, whatever happens to a log file: lost bytes are counted and reported, and the
file is retried. There is one write per batch of lines. A batch is read and written before the next
one is read. If this process is killed, at most the current batch (64 KiB of one stream) is lost,
and the beginning of an unfinished line of each stream. The next keeper terminates a partly written
record, so that the next record starts on a new line.

While a log's file system does not respond, the container's FIFOs are not read, so the container
waits as for a slow disk. After `STALL_SECONDS` its output is read again, and counted as lost.
"""

from __future__ import annotations

import os
import select
import time

from runtime.logs.format import Clock
from runtime.logs.keeper.clients import Clients
from runtime.logs.keeper.container import Container
from runtime.logs.keeper.files import FIFO_BYTES, LogFile, make_fifo, open_fifo, touch_fifo
from runtime.logs.keeper.protocol import END_OF_OUTPUT, Facts
from runtime.logs.keeper.turn import Turn

TYPE_CHECKING = False  # without typing, to save the import
if TYPE_CHECKING:
    from collections.abc import Callable

_READ_BYTES = 65536
_READS_PER_TURN = 4
"""Reads of one FIFO before the other FIFOs are read."""


class Counts:
    """What was read and written since the keeper started, of all containers."""

    __slots__ = ("input_bytes", "input_entries", "output_bytes", "output_entries", "split_entries")

    def __init__(self) -> None:
        self.input_entries = 0
        """Lines, or beginnings of lines that never ended."""
        self.input_bytes = 0
        """Bytes read of outputs that have a log, line ends included."""
        self.output_entries = 0
        """Records that were written."""
        self.output_bytes = 0
        """Bytes of these records."""
        self.split_entries = 0
        """Further records of lines longer than the limit."""

    def facts(self) -> Facts:
        return {name: getattr(self, name) for name in self.__slots__}


class Outputs:
    """The open FIFOs of all containers, registered with the loop's epoll."""

    def __init__(self, epoll: select.epoll, turn: Turn, clients: Clients) -> None:
        self._epoll = epoll
        self._turn = turn
        self._clients = clients
        self._clock = Clock()
        self.counts = Counts()
        self._fifos: dict[int, tuple[Container, str]] = {}

    def __bool__(self) -> bool:
        """Whether a FIFO is open."""
        return bool(self._fifos)

    def __contains__(self, fd: int) -> bool:
        """Whether the descriptor is a FIFO that is drained here."""
        return fd in self._fifos

    # Opening and closing

    def open(self, container: Container) -> None:
        """Create and open the container's FIFOs; raises OSError, and then none is open."""
        try:
            if container.request.stdin:
                make_fifo(container.request.stdin)
            for stream, path in container.request.fifos().items():
                container.streams[stream] = open_fifo(path)
        except OSError:
            for fd in container.streams.values():
                os.close(fd)
            container.streams.clear()
            self.finish(container)
            raise
        for stream, fd in container.streams.items():
            self._fifos[fd] = (container, stream)
            self._epoll.register(fd, select.EPOLLIN)

    def close(self, container: Container, *, drain: bool) -> None:
        """Close the container's FIFOs; with ``drain``, write what is left in them to the log."""
        for stream, fd in list(container.streams.items()):
            if drain:
                self.drain(fd, reads=FIFO_BYTES // _READ_BYTES + 1)
            if container.streams.get(stream) == fd:
                self._end_stream(fd)
        self.finish(container)

    def when_written(self, container: Container, reply: Callable[[], None]) -> None:
        """Call ``reply`` once all streams have ended and their output is in the log."""
        if container.all_written:
            reply()
            return
        container.waiting.append(reply)
        for fd in container.streams.values():
            touch_fifo(fd)

    # Reading

    def drain(self, fd: int, reads: int = _READS_PER_TURN) -> None:
        """Read a FIFO up to ``reads`` times, and write and send what was read."""
        entry = self._fifos[fd]
        container, stream = entry
        for _ in range(reads):
            if container.call_since and not container.stalled:
                self._park(container)
                return
            try:
                data = os.read(fd, _READ_BYTES)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._end_stream(fd)
                return
            container.bytes_read += len(data)
            for client in list(container.feeds):
                self._clients.feed(client, stream, data)
            if container.log is not None:
                stamp = self._clock.stamp(time.time_ns())
                formatter = container.formatters[stream]
                made, splits = formatter.records, formatter.splits
                records = formatter.feed(data, stamp)
                entries, split = formatter.records - made, formatter.splits - splits
                counts = self.counts
                counts.input_bytes += len(data)
                counts.input_entries += entries - split
                counts.split_entries += split
                if records:
                    self._write(container, container.log, records, entries)
            if len(data) < _READ_BYTES or self._fifos.get(fd) is not entry:
                return

    def _end_stream(self, fd: int) -> None:
        container, stream = self._fifos.pop(fd)
        if not container.parked:
            self._epoll.unregister(fd)
        os.close(fd)
        del container.streams[stream]
        self.flush(container, stream)
        if not container.streams:
            self.finish(container)

    def finish(self, container: Container) -> None:
        """All streams have ended: send waiting replies, end attached clients, close the file."""
        container.finish_later = bool(container.call_since)
        if container.finish_later and not container.stalled:
            return
        waiting, container.waiting = container.waiting, []
        for reply in waiting:
            reply()
        for client in list(container.feeds):
            self._clients.send(client, END_OF_OUTPUT)
        container.feeds.clear()
        if container.log is not None and not container.call_since:
            self.call(container, container.log.close)

    # Writing

    def flush(self, container: Container, stream: str) -> None:
        """Write the beginning of an unfinished line."""
        if container.log is not None:
            records = container.formatters[stream].flush(self._clock.stamp(time.time_ns()))
            if records:
                self.counts.input_entries += 1
                self._write(container, container.log, records, 1)

    def _write(self, container: Container, file: LogFile, records: bytes, entries: int) -> None:
        if container.call_since:
            container.dropped += len(records)
        elif self._turn.anything_hangs and self._turn.hangs(file):
            container.call_since = time.monotonic()  # by now, and not only once the thread runs
            self._turn.in_own_thread(self._write_now, container, file, records, entries)
        else:
            self._write_now(container, file, records, entries)

    def _write_now(self, container: Container, file: LogFile, records: bytes, entries: int) -> None:
        lost = file.lost
        self.call(container, lambda: file.write(records))
        if file.lost == lost:
            self.counts.output_entries += entries
            self.counts.output_bytes += len(records)
        if container.problem != container.notified:
            self._notify(container)

    def _notify(self, container: Container) -> None:
        """Notify clients of a log file's problem, or that it is solved."""
        container.notified = container.problem
        news: Facts = {"seq": None, "id": container.identity, "lost": container.lost}
        self._clients.notify({**news, "problem": container.problem})

    # File systems that hang

    def call(self, container: Container, function: Callable[[], None]) -> None:
        """Make a call into the log's file system. Any state can change meanwhile."""
        try:
            self._turn.call(container, function)
        finally:
            self._read_again(container)
        if container.finish_later:
            self.finish(container)

    def stall(self, container: Container) -> None:
        """The container's log has been blocked for too long: drain its output without writing."""
        self._read_again(container)
        if container.finish_later:
            self.finish(container)
        self._notify(container)

    def _park(self, container: Container) -> None:
        """Do not read the FIFOs while the log's file system does not respond."""
        if not container.parked:
            container.parked = True
            for fd in container.streams.values():
                self._epoll.unregister(fd)

    def _read_again(self, container: Container) -> None:
        if container.parked:
            container.parked = False
            for fd in container.streams.values():
                self._epoll.register(fd, select.EPOLLIN)
