"""A blob in parts: in order, within the node's limit of downloads, with nothing left running."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from runtime.images.registry.ranges import Ranges, in_parallel

DATA = bytes(range(256)) * 40
PART = 1000


class Server:
    """Returns parts, the later ones first."""

    def __init__(self) -> None:
        self.running = self.most = 0
        self.asked: list[tuple[int, int]] = []

    async def fetch(self, begin: int, end: int) -> bytes:
        self.asked.append((begin, end))
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await asyncio.sleep(0.003 * (3 - begin // PART % 3))
            return DATA[begin:end]
        finally:
            self.running -= 1


async def content(server: Server, begin: int, slots: asyncio.Semaphore | None) -> bytes:
    ranges = Ranges(PART, slots)
    return b"".join([part async for part in in_parallel(begin, len(DATA), ranges, server.fetch)])


@pytest.mark.parametrize("begin", [0, 1, 5000, len(DATA) - PART - 1])
async def test_parts_come_in_order_and_each_once(begin: int) -> None:
    server = Server()
    assert await content(server, begin, None) == DATA[begin:]
    expected = [(start, min(start + PART, len(DATA))) for start in range(begin, len(DATA), PART)]
    assert server.asked == expected


async def test_parts_use_free_slots_and_give_them_back() -> None:
    server, slots = Server(), asyncio.Semaphore(3)
    async with slots:  # the blob's own
        assert await content(server, 0, slots) == DATA
        assert server.most == 3
    for _ in range(3):
        assert not slots.locked()
        await slots.acquire()


async def test_without_a_free_slot_the_blob_goes_on_alone() -> None:
    server, slots = Server(), asyncio.Semaphore(1)
    async with slots:
        assert await content(server, 0, slots) == DATA
    assert server.most == 1
    assert not slots.locked()


@pytest.mark.parametrize("slots", [None, 4])
async def test_cancelled_or_failed_downloads_leave_nothing_running(slots: int | None) -> None:
    server = Server()
    limit = asyncio.Semaphore(slots) if slots else None
    if limit:
        await limit.acquire()
    parts = in_parallel(0, len(DATA), Ranges(PART, limit), server.fetch)
    async with aclosing(parts):
        await anext(parts)
        await anext(parts)
    assert server.running == 0
    if limit:
        limit.release()
        assert [await limit.acquire() for _ in range(4) if not limit.locked()] == [True] * 4


@pytest.mark.parametrize(
    ("size", "length", "divided"),
    [(0, 10**9, False), (512, 10**9, False), (513, 514, True), (1000, 1000, False)],
)
def test_which_blobs_are_divided(size: int, length: int, divided: bool) -> None:
    assert Ranges(size).divide(length) is divided
