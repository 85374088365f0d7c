"""Events wait for their readers, in limited numbers and for a limited time."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
import structlog
from structlog.testing import LogCapture

from runtime.errors import ResourceExhausted, Unavailable
from runtime.store import events as module
from runtime.store.events import BACKLOG, RETENTION, Events, Follower
from runtime.transforms.facts import Event


class Clock:
    """time.monotonic, moved by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Iterator[LogCapture]:
    capture = LogCapture()
    monkeypatch.setattr(module, "log", structlog.wrap_logger(None, processors=[capture]))
    yield capture


def an_event(name: object) -> Event:
    return Event("CONTAINER_STARTED_EVENT", str(name), 1, None, ())


async def taken(follower: Follower) -> list[str]:
    return [(await follower.get()).container_id for _ in range(len(follower))]


async def test_a_slow_follower_is_cut_off_without_harm_to_others(log: LogCapture) -> None:
    dropped: list[int] = []
    events = Events(dropped=dropped.append)
    with events.follow() as slow, events.follow() as quick:
        for number in range(BACKLOG + 5):
            events.emit(an_event(number))
            assert (await quick.get()).container_id == str(number)
        assert len(slow) == 0, "its events do not stay in memory"
        for _ in range(2):
            with pytest.raises(ResourceExhausted, match="were dropped; list the objects"):
                await slow.get()
        assert len(events._followers) == 1
    assert not events._followers
    assert dropped == [BACKLOG + 1]
    assert [entry["log_level"] for entry in log.entries] == ["warning"]


async def test_a_waiting_follower_receives_the_next_event() -> None:
    events = Events()
    with events.follow() as follower:
        waiting = asyncio.create_task(follower.get())
        await asyncio.sleep(0)
        events.emit(an_event("c"))
        assert (await waiting).container_id == "c"
        assert len(follower) == 0


async def test_events_without_a_follower_are_kept_five_minutes(
    clock: Clock, log: LogCapture
) -> None:
    dropped: list[int] = []
    events = Events(dropped=dropped.append)
    events.emit(an_event("first"))
    clock.now += RETENTION / 2
    events.emit(an_event("second"))
    clock.now += RETENTION / 2
    with events.follow() as follower, events.follow() as later:
        events.emit(an_event("third"))
        assert await taken(follower) == ["second", "third"]
        assert await taken(later) == ["third"], "what waited goes to one follower"
    assert dropped == [1]
    for _ in range(3):
        events.emit(an_event("unread"))
        clock.now += RETENTION
    with events.follow() as follower:
        assert len(follower) == 0
    assert sum(dropped) == 4
    assert len(log.entries) == 1, "said once: a kubelet without Evented PLEG never follows"


async def test_the_number_of_kept_events_is_limited(log: LogCapture) -> None:
    dropped: list[int] = []
    events = Events(dropped=dropped.append)
    for number in range(BACKLOG + 3):
        events.emit(an_event(number))
    with events.follow() as follower:
        names = await taken(follower)
    assert len(names) == BACKLOG
    assert names[0] == "3", "the oldest are dropped"
    assert sum(dropped) == 3


async def test_a_stopping_server_ends_its_followers_after_their_last_event() -> None:
    events = Events()
    with events.follow() as reading, events.follow() as waiting:
        events.emit(an_event("last"))
        await waiting.get()
        blocked = asyncio.create_task(waiting.get())
        await asyncio.sleep(0)
        events.close()
        with pytest.raises(Unavailable, match="the server is stopping"):
            await blocked
        assert (await reading.get()).container_id == "last"
        with pytest.raises(Unavailable):
            await reading.get()
    with pytest.raises(Unavailable), events.follow():
        pass
