"""Work needed by several callers is done once, and a failure of one does not affect the others."""

from __future__ import annotations

import asyncio

import pytest

from runtime.steps.shared_tasks import SharedTasks


class Work:
    """Counts its runs; each ends when told, or fails."""

    def __init__(self) -> None:
        self.runs = 0
        self.go_on = asyncio.Event()
        self.failures: list[Exception] = []

    async def __call__(self) -> None:
        self.runs += 1
        await self.go_on.wait()
        if self.failures:
            raise self.failures.pop()


async def started(count: int, work: Work, shared: SharedTasks) -> list[asyncio.Task[bool]]:
    tasks = [asyncio.create_task(shared.run("key", work)) for _ in range(count)]
    await asyncio.sleep(0)
    return tasks


async def test_shared_work_is_done_once_by_its_first_caller() -> None:
    work = Work()
    tasks = await started(3, work, SharedTasks())
    work.go_on.set()
    assert await asyncio.gather(*tasks) == [True, False, False]
    assert work.runs == 1


async def test_a_failure_is_raised_to_its_owner_and_others_retry() -> None:
    work = Work()
    work.failures = [ValueError("the owner's")]
    first, second = await started(2, work, SharedTasks())
    work.go_on.set()
    with pytest.raises(ValueError, match="the owner's"):
        await first
    assert await second is True
    assert work.runs == 2


async def test_a_cancelled_owner_does_not_cancel_the_others() -> None:
    work = Work()
    first, second = await started(2, work, SharedTasks())
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    work.go_on.set()
    assert await second is False
    assert work.runs == 1


async def test_work_without_callers_is_cancelled() -> None:
    work, shared = Work(), SharedTasks()
    tasks = await started(2, work, shared)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert shared._running == {}
