"""Parallel steps: none is abandoned, and the failure that matters is raised."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable

import pytest

from runtime.steps.parallel import all_finished, all_succeeded, both
from tests.harness.waiting import PATIENCE


async def step(log: list[str], name: str, seconds: float, fail: bool = False) -> None:
    try:
        await asyncio.sleep(seconds)
        if fail:
            raise ValueError(name)
        log.append(name)
    except asyncio.CancelledError:
        log.append(f"{name} cancelled")
        raise


async def test_a_failure_waits_for_the_others() -> None:
    log: list[str] = []
    with pytest.raises(ValueError, match="a"):
        await all_finished(step(log, "a", 0, fail=True), step(log, "b", 0.02))
    assert log == ["b"]


async def test_a_cancelled_caller_waits_for_its_steps() -> None:
    log: list[str] = []
    task = asyncio.create_task(all_finished(step(log, "a", 0.02), step(log, "b", 0.01)))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert log == ["b", "a"]


async def test_only_the_cancellable_step_is_cancelled() -> None:
    log: list[str] = []
    with pytest.raises(ValueError, match="task"):
        await both(cancellable=step(log, "cni", 60), uninterrupted=step(log, "task", 0, fail=True))
    assert log == ["cni cancelled"]


async def test_a_failed_network_waits_for_the_task() -> None:
    log: list[str] = []
    with pytest.raises(ValueError, match="cni"):
        await both(
            cancellable=step(log, "cni", 0, fail=True), uninterrupted=step(log, "task", 0.02)
        )
    assert log == ["task"]


async def test_a_cancelled_creation_waits_for_the_task() -> None:
    log: list[str] = []
    made = asyncio.Event()

    async def task() -> None:
        await made.wait()
        log.append("task")

    call = asyncio.create_task(both(cancellable=step(log, "cni", 60), uninterrupted=task()))
    await asyncio.sleep(0.01)
    call.cancel()
    async with asyncio.timeout(PATIENCE):
        while not log:  # noqa: ASYNC110  nothing else tells of it
            await asyncio.sleep(0)
    assert not call.done()
    made.set()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert log == ["cni cancelled", "task"]


@pytest.mark.parametrize("cancel", [False, True])
async def test_no_failure_is_reported_as_never_retrieved(cancel: bool) -> None:
    reported: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))

    async def fail(name: str) -> None:
        try:
            await asyncio.sleep(0)
        finally:
            raise ValueError(name)

    together: tuple[Callable[[], Awaitable[object]], ...] = (
        lambda: both(cancellable=fail("cancellable"), uninterrupted=fail("uninterrupted")),
        lambda: all_finished(fail("one"), fail("other")),
    )
    for steps in together:
        call = asyncio.ensure_future(steps())
        await asyncio.sleep(0)
        if cancel:
            call.cancel()
        with pytest.raises((ValueError, asyncio.CancelledError)):
            await call
        del call
    gc.collect()
    assert reported == []


async def test_after_a_failure_the_others_are_cancelled_and_waited_for() -> None:
    log: list[str] = []
    work = [step(log, "a", 60), step(log, "b", 0, fail=True), step(log, "c", 60)]
    with pytest.raises(ValueError, match="b"):
        await all_succeeded([asyncio.ensure_future(each) for each in work])
    assert log == ["a cancelled", "c cancelled"]


async def test_a_cancelled_caller_cancels_all_of_them() -> None:
    log: list[str] = []
    work = [asyncio.ensure_future(step(log, name, 60)) for name in "ab"]
    task = asyncio.create_task(all_succeeded(work))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert log == ["a cancelled", "b cancelled"]


async def test_all_of_them_succeed() -> None:
    log: list[str] = []
    await all_succeeded([asyncio.ensure_future(step(log, name, 0)) for name in "ab"])
    assert log == ["a", "b"]
