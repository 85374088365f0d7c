"""Steps that run in parallel and are always waited for.

Cancelling a call to containerd does not undo it: it can take effect after the caller has started to
clean up. Therefore steps that create something are always waited for before a failure or a
cancellation is raised.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine, Iterable, Sequence
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


async def both(
    *, cancellable: Coroutine[Any, Any, S], uninterrupted: Coroutine[Any, Any, F]
) -> tuple[S, F]:
    """The results of both steps, once both have succeeded.

    If ``uninterrupted`` fails or the caller is cancelled, ``cancellable`` is cancelled, and
    ``uninterrupted`` is always waited for. If both fail, its failure is raised.
    """
    # The uninterrupted step is usually the longer one, so it starts first.
    finished, stopped = asyncio.ensure_future(uninterrupted), asyncio.ensure_future(cancellable)
    finished.add_done_callback(lambda task: _stop_after_failure(task, stopped))
    try:
        await asyncio.wait({stopped, finished})
    except asyncio.CancelledError:
        stopped.cancel()
        await _wait_for_all([stopped, finished])
        raise
    _retrieve_failures([finished, stopped])
    result = finished.result()
    return stopped.result(), result


async def all_succeeded(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Return when every task has succeeded.

    If one fails or the caller is cancelled, the others are cancelled and waited for, and the first
    failure is raised; of several at the same time, that of the first in ``tasks``.
    """
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in tasks:
            if task in done:
                task.result()
    finally:
        await cancel_all(tasks)


async def cancel_all(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel the tasks that are still running, and wait for them."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


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
    _retrieve_failures(tasks)
    if cancelled is not None:
        raise cancelled


def _retrieve_failures(tasks: Sequence[asyncio.Future[Any]]) -> None:
    """Retrieve every failure, because asyncio warns about exceptions that are not retrieved."""
    for task in tasks:
        if not task.cancelled():
            task.exception()
