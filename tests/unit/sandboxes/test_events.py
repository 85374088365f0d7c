"""A follower of events that does not read costs a bounded amount of memory and hears of it."""

from __future__ import annotations

import asyncio

import pytest

from runtime.errors import ResourceExhausted
from runtime.store.events import BACKLOG, Events


async def test_a_follower_that_falls_behind_is_told_and_let_go() -> None:
    events = Events()
    with events.follow() as slow, events.follow() as quick:
        for number in range(BACKLOG + 5):
            events.emit("CONTAINER_STARTED_EVENT", str(number), "pod")
            assert (await quick.get()).container_id == str(number)
        for _ in range(2):
            with pytest.raises(ResourceExhausted, match="some were dropped; list the objects"):
                await slow.get()
        assert len(events._followers) == 1
    assert not events._followers


async def test_who_waits_hears_of_the_next_event() -> None:
    events = Events()
    with events.follow() as follower:
        waiting = asyncio.create_task(follower.get())
        await asyncio.sleep(0)
        events.emit("CONTAINER_STARTED_EVENT", "c", "pod")
        assert (await waiting).container_id == "c"
        assert follower.empty()
        with pytest.raises(asyncio.QueueEmpty):
            follower.get_nowait()
