"""Tasks that live as long as the server: an error never ends one without a word.

asyncio keeps the exception of a task that nobody awaits to itself, so a watch that failed once
would be gone until the next restart while everything looks well. Every endless loop of the server
is therefore started here, or by the App, where its failure ends the server.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

log = structlog.get_logger(__name__)

_FIRST_PAUSE: Final = 1.0
_LONGEST_PAUSE: Final = 30.0
"""Seconds between the failures of one task and its next tries; doubled from the first to this."""


def watched(name: str, work: Callable[[], Awaitable[object]]) -> asyncio.Task[None]:
    """Run ``work`` for ever: when it fails, or returns, it is logged and run again after a pause.

    The task ends only when it is cancelled; `ended` does that and waits.
    """
    return asyncio.create_task(_run(name, work), name=name)


async def _run(name: str, work: Callable[[], Awaitable[object]]) -> None:
    pause = _FIRST_PAUSE
    while True:
        began = time.monotonic()
        failure: Exception | None = None
        try:
            await work()
        except Exception as error:
            failure = error
        if time.monotonic() - began > _LONGEST_PAUSE:
            pause = _FIRST_PAUSE
        log.error(
            "a task of the server failed and is run again",
            task=name,
            error=repr(failure) if failure else "it returned",
            after=f"{pause:g} s",
            exc_info=failure,
        )
        await asyncio.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)


async def ended(task: asyncio.Future[object] | asyncio.Task[None] | None) -> None:
    """Cancel a task and return when it has ended, however it did; the caller may be cancelled."""
    if task is None:
        return
    task.cancel()
    # asyncio.wait raises a cancellation of the caller only, never that of the task
    await asyncio.wait({task})
    if not task.cancelled():
        task.exception()  # seen
