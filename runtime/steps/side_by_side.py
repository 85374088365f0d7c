"""Steps that run in parallel and are always waited for.

Cancelling a call to containerd does not undo it: it can take effect after the caller has started to
clean up. Therefore steps that create something are always waited for before a failure or a
cancellation is raised.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine, Sequence
from typing import Any, TypeVar

S = TypeVar("S")
F = TypeVar("F")


async def all_finished(*steps: Awaitable[object]) -> None:
    """Return when every step has ended; raise the first failure among them then.

    A cancellation is passed on after the steps have ended.
    """
    tasks: list[asyncio.Future[object]] = [asyncio.ensure_future(step) for step in steps]
    await _wait_for_all(tasks)
    failures = [error for task in tasks if (error := task.exception()) is not None]
    if failures:
        raise failures[0]


async def beside(
    *, stoppable: Coroutine[Any, Any, S], finishing: Coroutine[Any, Any, F]
) -> tuple[S, F]:
    """The results of both steps, when both have ended well.

    If ``finishing`` fails or the caller is cancelled, ``stoppable`` is cancelled. ``finishing`` is
    always waited for. If both fail, the failure of ``finishing`` is raised.
    """
    # In this order: the step that is waited for is the one that takes longer, so it begins first.
    finished, stopped = asyncio.ensure_future(finishing), asyncio.ensure_future(stoppable)
    finished.add_done_callback(lambda task: _stop_after_failure(task, stopped))
    try:
        await asyncio.wait({stopped, finished})
    except asyncio.CancelledError:
        stopped.cancel()
        await _wait_for_all([stopped, finished])
        raise
    _see_failures([finished, stopped])
    result = finished.result()
    return stopped.result(), result


def _stop_after_failure(failed: asyncio.Future[F], other: asyncio.Future[S]) -> None:
    if failed.cancelled() or failed.exception() is not None:
        other.cancel()


async def _wait_for_all(tasks: Sequence[asyncio.Future[Any]]) -> None:
    """Wait until every task has ended, even if cancelled meanwhile; then raise the cancellation."""
    cancelled: asyncio.CancelledError | None = None
    while pending := [task for task in tasks if not task.done()]:
        try:
            await asyncio.wait(pending)
        except asyncio.CancelledError as error:
            cancelled = error
    _see_failures(tasks)
    if cancelled is not None:
        raise cancelled


def _see_failures(tasks: Sequence[asyncio.Future[Any]]) -> None:
    """Retrieve every failure, because asyncio warns about exceptions that are not retrieved."""
    for task in tasks:
        if not task.cancelled():
            task.exception()
