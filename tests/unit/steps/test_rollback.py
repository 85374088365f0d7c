"""Completed steps are undone in reverse, whatever happens to the caller."""

from __future__ import annotations

import asyncio

import pytest

from runtime.steps import rollback
from runtime.steps.rollback import Rollback


async def test_a_call_that_goes_well_undoes_nothing() -> None:
    done: list[str] = []
    async with Rollback() as undo:
        undo.push("undo a", done.append, "a")
    assert done == []


async def test_steps_are_undone_newest_first() -> None:
    done: list[str] = []

    async def later(what: str) -> None:
        await asyncio.sleep(0)
        done.append(what)

    with pytest.raises(ValueError, match="the cause"):
        async with Rollback() as undo:
            undo.push("undo a", done.append, "a")
            undo.push("undo b", later, "b")
            raise ValueError("the cause")
    assert done == ["b", "a"]


async def test_a_failing_step_stops_the_rest_and_is_reported() -> None:
    done: list[str] = []
    reported: list[str] = []

    def fail() -> None:
        raise OSError("busy")

    with pytest.raises(ValueError):
        async with Rollback(reported.append) as undo:
            undo.push("free the name", done.append, "name")
            undo.push("release the network", fail)
            undo.push("end the task", done.append, "task")
            raise ValueError
    assert done == ["task"]
    assert reported == ["cannot release the network: busy"]


async def test_a_cancelled_call_is_undone_even_when_cancelled_again() -> None:
    done = asyncio.Event()

    async def slow() -> None:
        await asyncio.sleep(0.05)
        done.set()

    async def call() -> None:
        async with Rollback() as undo:
            undo.push("undo slowly", slow)
            await asyncio.sleep(60)

    task = asyncio.create_task(call())
    await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done.is_set()


async def test_a_step_that_hangs_is_given_up() -> None:
    reported: list[str] = []
    with pytest.raises(ValueError):
        async with Rollback(reported.append, limit=0.02) as undo:
            undo.push("hang", asyncio.sleep, 60)
            raise ValueError
    assert reported == ["cannot hang: TimeoutError"]


async def test_what_could_not_be_undone_is_undone_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollback, "_FIRST_PAUSE", 0.001)
    done: list[str] = []
    broken = 2

    def step(name: str) -> None:
        nonlocal broken
        if name == "second" and broken:
            broken -= 1
            raise OSError("not yet")
        done.append(name)

    undo = Rollback()
    with pytest.raises(ValueError):
        async with undo:
            for name in ("first", "second", "third"):
                undo.push(f"undo {name}", step, name)
            raise ValueError
    assert done == ["third"]
    await undo.finish()
    assert done == ["third", "second", "first"]
