"""Copying between channels and pipes: what is passed on at once, and what has to wait."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from io import FileIO
from itertools import cycle
from pathlib import Path

import pytest

from runtime.linux.pipes import PipeReader, PipeWriter
from runtime.streaming.channels import Channel
from runtime.streaming.copying import cancelled, copy_input, copy_output
from tests.harness.waiting import until


class FakeLink:
    """Sends as much as the test gives room for."""

    def __init__(self) -> None:
        self.sent = bytearray()
        self.consumed_bytes = 0
        self.left = 1 << 30
        self._more = asyncio.Event()

    def give(self, room: int) -> None:
        self.left += room
        self._more.set()

    def room(self, number: int) -> int:
        return self.left

    async def wait_for_room(self) -> None:
        self._more.clear()
        await self._more.wait()

    def send(self, number: int, data: bytes) -> None:
        self.sent += data
        self.left -= len(data)

    def end(self, number: int) -> None: ...

    def reset(self, number: int) -> None: ...

    def fed(self, channel: Channel) -> None: ...

    def consumed(self, channel: Channel, count: int) -> None:
        self.consumed_bytes += count


class Output:
    """The output of a process, which counts how often it is asked for more."""

    def __init__(self, fifo: Path) -> None:
        self.pipe = PipeReader(fifo)
        self.reads = 0

    async def read(self, take: Callable[[bytes], bytes] | None = None) -> bytes:
        self.reads += 1
        return await self.pipe.read(take)


@dataclass
class Copy:
    """A copy in one direction: a client's channel, and the process's end of the pipe."""

    link: FakeLink
    channel: Channel
    process: FileIO
    task: asyncio.Task[None]
    reads: Callable[[], int] = lambda: 0
    """How often the copy has asked for output."""

    def has_sent(self, count: int) -> bool:
        return len(self.link.sent) == count


@asynccontextmanager
async def input_copied(fifo: Path) -> AsyncIterator[Copy]:
    with FileIO(os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)) as process:
        writer = await PipeWriter.opened(fifo)
        channel = Channel(link := FakeLink(), 1, "stdin")
        copying = asyncio.create_task(copy_input(channel, writer))
        await asyncio.sleep(0)  # now it waits for the first bytes
        yield Copy(link, channel, process, copying)
        await cancelled(copying)
        writer.close()


@asynccontextmanager
async def output_copied(fifo: Path) -> AsyncIterator[Copy]:
    output = Output(fifo)
    with FileIO(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK), "w") as process:
        output.pipe.writer_is_there()
        channel = Channel(link := FakeLink(), 1, "stdout")
        copying = asyncio.create_task(copy_output(output, channel))
        await asyncio.sleep(0)
        yield Copy(link, channel, process, copying, lambda: output.reads)
        await cancelled(copying)
        output.pipe.close()


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    os.mkfifo(tmp_path / "fifo")
    return tmp_path / "fifo"


async def test_a_typed_byte_reaches_the_process_without_waking_a_task(fifo: Path) -> None:
    async with input_copied(fifo) as copy:
        for byte in (b"a", b"b", b"c"):
            copy.channel.feed(byte)  # and nothing is awaited
            assert copy.process.read(10) == byte
        assert (copy.channel.unread, copy.link.consumed_bytes) == (0, 3)


async def test_an_echoed_byte_reaches_the_client_without_waking_the_copy(fifo: Path) -> None:
    async with output_copied(fifo) as copy:
        for count in (1, 2, 3):
            copy.process.write(b"x")
            await until(partial(copy.has_sent, count))
        assert copy.reads() == 1


async def test_input_for_a_full_pipe_waits_and_keeps_its_order(fifo: Path) -> None:
    data = os.urandom(2 << 20)
    async with input_copied(fifo) as copy:
        at = 0
        for size in cycle((1, 50_000, 7, 9_000, 100_000)):
            copy.channel.feed(data[at : at + size])
            await asyncio.sleep(0)
            at += size
            if at >= len(data):
                break
        assert copy.channel.unread
        found = bytearray()

        def read_all() -> bool:
            found.extend(copy.process.read(1 << 16) or b"")
            return len(found) >= len(data)

        await until(read_all)
        assert found == data
        assert (copy.channel.unread, copy.link.consumed_bytes) == (0, len(data))


async def test_input_does_not_overtake_what_waits_for_the_copy(fifo: Path) -> None:
    data = os.urandom(2 << 20)
    async with input_copied(fifo) as copy:
        copy.channel.feed(data)
        found = bytearray(copy.process.read(1 << 20) or b"")
        copy.channel.feed(b"later")  # the pipe has room, but the copy has not run yet

        def read_all() -> bool:
            found.extend(copy.process.read(1 << 16) or b"")
            return len(found) >= len(data) + 5

        await until(read_all)
        assert found == data + b"later"


async def test_output_for_a_slow_client_waits_and_keeps_its_order(fifo: Path) -> None:
    data = os.urandom(5_000)
    async with output_copied(fifo) as copy:
        copy.link.left = 0
        at = 0
        for size in cycle((1, 90, 3, 20)):
            copy.process.write(data[at : at + size])
            copy.link.give(25)
            await asyncio.sleep(0)
            at += size
            if at >= len(data):
                break
        assert len(copy.link.sent) < len(data)
        copy.link.give(len(data))
        await until(lambda: len(copy.link.sent) >= len(data))
        assert copy.link.sent == data


async def test_input_that_no_process_reads_is_dropped(fifo: Path) -> None:
    async with input_copied(fifo) as copy:
        copy.process.close()
        copy.channel.feed(b"unread")
        await until(lambda: copy.link.consumed_bytes == 6)
        copy.channel.feed(b"more")
        assert (copy.channel.unread, copy.link.consumed_bytes) == (0, 10)


async def test_output_is_read_to_its_end_without_its_client(fifo: Path) -> None:
    async with output_copied(fifo) as copy:
        copy.process.write(b"sent")
        await until(lambda: copy.link.sent == b"sent")
        copy.channel.lost()
        copy.process.write(b"dropped")
        await until(lambda: copy.reads() == 2)
        copy.process.close()
        await copy.task
        assert copy.link.sent == b"sent"
