"""Work that continues after its call was cancelled, and that a shutdown waits for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

_tasks: set[asyncio.Task[Any]] = set()
"""Strong references; asyncio itself has only weak references to tasks."""


def in_background(work: Coroutine[Any, Any, T], *, name: str | None = None) -> asyncio.Task[T]:
    """Start ``work`` in the background; if it can fail, the caller must retrieve the exception."""
    task = asyncio.create_task(work, name=name)
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)
    return task


def awaited_at_shutdown(name: str) -> None:
    """Let a shutdown wait for the current task too, as for work in the background.

    A cancelled call still runs until what it must not leave half done is done or undone.
    """
    task = asyncio.current_task()
    assert task is not None, "only a coroutine calls this"
    task.set_name(name)
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)


class Tasks:
    """Background work that is cancelled together with its owner."""

    def __init__(self, *, failed: Callable[[BaseException], object]) -> None:
        """``failed`` gets the exception of each work that fails."""
        self._failed = failed
        self._running: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Run ``work`` until it ends, or until `cancel`."""
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._done)

    async def cancel(self) -> None:
        """Cancel all work and return when it has ended."""
        running = list(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failed(error)


async def to_the_end(work: Coroutine[Any, Any, T]) -> T:
    """Wait for ``work``, which continues if the caller is cancelled."""
    return await asyncio.shield(in_background(work))


async def finished(limit: float) -> list[str]:
    """Wait until all such work has ended, for at most ``limit`` seconds.

    Returns the names of unfinished work.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + limit
    # work can start more work, e.g. a rollback that saves a status
    while mine := [task for task in _tasks if task.get_loop() is loop]:
        done, pending = await asyncio.wait(mine, timeout=max(end - loop.time(), 0))
        if not done:
            return sorted(task.get_name() for task in pending)
    return []
