"""A shutdown waits for unfinished work of calls, for a limited time."""

from __future__ import annotations

import asyncio

import pytest

from runtime.steps.background import Tasks, finished, in_background, to_the_end
from runtime.steps.rollback import Rollback
from tests.harness.waiting import PATIENCE


async def test_a_shutdown_waits_for_running_rollbacks() -> None:
    undone: list[str] = []

    async def slow() -> None:
        await asyncio.sleep(0.02)
        # a rollback may start work of its own
        in_background(later())

    async def later() -> None:
        await asyncio.sleep(0.02)
        undone.append("all")

    async def call() -> None:
        async with Rollback() as undo:
            undo.push("undo slowly", slow)
            await asyncio.sleep(60)

    task = asyncio.create_task(call())
    await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.sleep(0)
    assert await finished(5) == []
    assert undone == ["all"]
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_shutdown_does_not_wait_for_ever() -> None:
    task = in_background(asyncio.sleep(60), name="something slow")
    assert await finished(0.01) == ["something slow"]
    task.cancel()


async def test_work_goes_on_when_its_caller_is_cancelled() -> None:
    done = asyncio.Event()

    async def work() -> None:
        await asyncio.sleep(0.02)
        done.set()

    caller = asyncio.create_task(to_the_end(work()))
    await asyncio.sleep(0.01)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    await asyncio.wait_for(done.wait(), PATIENCE)


async def test_tasks_report_their_failures_and_end_with_their_owner() -> None:
    failures: list[BaseException] = []
    tasks = Tasks(failed=failures.append)
    ended: list[str] = []

    async def fail() -> None:
        raise OSError("full")

    async def go_on() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append("cancelled")

    tasks.start(fail())
    tasks.start(go_on())
    await asyncio.sleep(0.01)
    assert [str(failure) for failure in failures] == ["full"]
    await tasks.cancel()
    assert ended == ["cancelled"]
    assert len(failures) == 1
