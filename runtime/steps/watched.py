"""Tasks that run as long as the server; a failure is logged and the task restarted.

asyncio does not report the exception of a task that is never awaited, so a failed watch would stay
dead until the next restart without any sign. Therefore every endless loop of the server is started
here, or by the App, where a failure stops the server.
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
"""Maximum seconds between a failure and the next attempt; doubled from the first to this."""


def watched(name: str, work: Callable[[], Awaitable[object]]) -> asyncio.Task[None]:
    """Run ``work`` forever: if it fails or returns, log that and run it again after a pause.

    The task ends only if it is cancelled; `ended` cancels it and waits.
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
            "a background task failed and is restarted",
            task=name,
            error=repr(failure) if failure else "it returned",
            after=f"{pause:g} s",
            exc_info=failure,
        )
        await asyncio.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)


async def ended(task: asyncio.Future[object] | asyncio.Task[None] | None) -> None:
    """Cancel a task and wait until it has ended; the caller can be cancelled meanwhile."""
    if task is None:
        return
    task.cancel()
    # asyncio.wait raises only a cancellation of the caller, never that of the task
    await asyncio.wait({task})
    if not task.cancelled():
        task.exception()  # seen
