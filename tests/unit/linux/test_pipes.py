"""FIFOs on the event loop."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path
from unittest.mock import Mock

import pytest

from runtime.linux.pipes import PipeReader, PipeWriter
from tests.harness.waiting import PATIENCE


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    os.mkfifo(tmp_path / "fifo")
    return tmp_path / "fifo"


async def test_an_output_that_has_not_begun_has_not_ended(fifo: Path) -> None:
    reader = PipeReader(fifo)
    reading = asyncio.create_task(reader.read())
    await asyncio.sleep(0.02)
    assert not reading.done()
    writer = os.open(fifo, os.O_WRONLY)
    reader.writer_is_there()
    os.write(writer, b"out")
    assert await reading == b"out"
    os.close(writer)
    assert await reader.read() == b""
    reader.close()
    assert await reader.read() == b""


async def test_a_writer_waits_for_its_reader(fifo: Path) -> None:
    opening = asyncio.create_task(PipeWriter.opened(fifo, 5))
    await asyncio.sleep(0.02)
    assert not opening.done()
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    writer = await asyncio.wait_for(opening, PATIENCE)
    await writer.write(b"in")
    writer.close()
    assert os.read(reader, 10) == b"in"  # what was written outlives the writer
    assert os.read(reader, 10) == b""
    os.close(reader)


async def test_a_fifo_without_a_reader(fifo: Path) -> None:
    with pytest.raises(OSError) as error:
        await PipeWriter.opened(fifo, 0.01)
    assert error.value.errno == errno.ENXIO


async def test_a_full_pipe_holds_up_its_writer_until_it_is_read(fifo: Path) -> None:
    fd = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    writer = await PipeWriter.opened(fifo)
    data = os.urandom(3 << 20)
    writing = asyncio.create_task(writer.write(data))
    await asyncio.sleep(0.02)
    assert not writing.done()
    found = b""
    while len(found) < len(data):
        try:
            found += os.read(fd, 1 << 20)
        except BlockingIOError:
            await asyncio.sleep(0)
    await writing
    assert found == data
    os.close(fd)
    with pytest.raises(BrokenPipeError):
        await writer.write(b"x")
    writer.close()
    with pytest.raises(BrokenPipeError):
        await writer.write(b"x")


async def test_closing_ends_a_write_that_waits(fifo: Path) -> None:
    reader = PipeReader(fifo)
    writer = await PipeWriter.opened(fifo)
    writing = asyncio.create_task(writer.write(b"x" * 1_000_000))
    await asyncio.sleep(0.01)
    assert not writing.done()
    writer.close()
    with pytest.raises(BrokenPipeError):
        await asyncio.wait_for(writing, PATIENCE)
    other = await PipeWriter.opened(fifo)  # with the same descriptor
    writing = asyncio.create_task(other.write(b"y" * 1_000_000))
    while not writing.done():
        await reader.read()
    other.close()
    reader.close()


async def test_bytes_that_come_one_by_one_need_one_registration(
    fifo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    add = Mock(wraps=loop.add_reader)
    monkeypatch.setattr(loop, "add_reader", add)
    reader = PipeReader(fifo)
    writer = os.open(fifo, os.O_WRONLY)
    for byte in (b"a", b"b", b"c"):
        reading = asyncio.create_task(reader.read())
        await asyncio.sleep(0.01)
        os.write(writer, byte)
        assert await reading == byte
    assert add.call_count == 1
    reader.close()
    os.close(writer)


async def test_the_loop_does_not_watch_a_pipe_that_is_not_read(
    fifo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    remove = Mock(wraps=loop.remove_reader)
    monkeypatch.setattr(loop, "remove_reader", remove)
    reader = PipeReader(fifo)
    writer = os.open(fifo, os.O_WRONLY)
    reading = asyncio.create_task(reader.read())
    await asyncio.sleep(0.01)
    os.write(writer, b"first")
    assert await reading == b"first"
    os.write(writer, b"second")
    await asyncio.sleep(0.02)
    assert remove.call_count == 1  # otherwise the loop would wake up for it again and again
    assert await reader.read() == b"second"
    reader.close()
    os.close(writer)


async def test_bytes_that_are_taken_as_they_come_do_not_end_the_wait(fifo: Path) -> None:
    reader = PipeReader(fifo)
    writer = os.open(fifo, os.O_WRONLY)
    reader.writer_is_there()
    offered: list[bytes] = []

    def take(data: bytes) -> bytes:
        """All but what follows a slash."""
        offered.append(data)
        return data.partition(b"/")[2]

    reading = asyncio.create_task(reader.read(take))
    for data in (b"a", b"b", b"c/rest"):
        await asyncio.sleep(0.01)
        os.write(writer, data)
    assert await reading == b"rest"
    assert offered == [b"a", b"b", b"c/rest"]
    os.write(writer, b"present")
    assert await reader.read(take) == b"present"  # it did not wait
    reading = asyncio.create_task(reader.read(take))
    await asyncio.sleep(0.01)
    os.close(writer)
    assert await reading == b""
    assert offered == [b"a", b"b", b"c/rest"]  # the end is not offered
    reader.close()


async def test_a_fault_of_the_taker_is_the_reader_s(fifo: Path) -> None:
    reader = PipeReader(fifo)
    writer = os.open(fifo, os.O_WRONLY)

    def take(data: bytes) -> bytes:
        raise ZeroDivisionError

    reading = asyncio.create_task(reader.read(take))
    await asyncio.sleep(0.01)
    os.write(writer, b"a")
    with pytest.raises(ZeroDivisionError):
        await reading
    reader.close()
    os.close(writer)


async def test_what_a_full_pipe_has_no_room_for_is_returned(fifo: Path) -> None:
    fd = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    writer = await PipeWriter.opened(fifo)
    data = os.urandom(3 << 20)
    rest = writer.write_now(data)
    assert writer.write_now(rest) == rest
    found = os.read(fd, len(data))
    assert found + rest == data
    assert writer.write_now(b"x") == b""
    os.close(fd)
    assert writer.write_now(b"x") == b"x"
    with pytest.raises(BrokenPipeError):
        await writer.write(b"x")
    writer.close()
    assert writer.write_now(b"x") == b"x"


async def test_a_pipe_is_read_to_its_end_while_it_is_watched(fifo: Path) -> None:
    reader = PipeReader(fifo)
    writer = await PipeWriter.opened(fifo)
    reader.writer_is_there()
    data = os.urandom(3 << 20)

    async def write() -> None:
        await writer.write(data)
        writer.close()

    writing = asyncio.create_task(write())
    found = b""
    while chunk := await reader.read():
        found += chunk
    await writing
    assert found == data
    reader.close()
