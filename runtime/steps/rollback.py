"""Undo what a failed call did, in reverse, whatever becomes of the call.

    async with Rollback(incomplete=keep_as_unknown) as undo:
        names.reserve(name, id)
        undo.push("free the name", names.release, name, id)
        await create_namespace()
        undo.push("remove the network namespace", netns.remove, path)

When the block ends by an exception, cancellation of the caller included, the pushed steps run in
reverse in a task of their own, which neither the caller's deadline nor a second cancellation
reaches; together they may take `LIMIT` seconds. A step that fails stops the rest: later steps
(earlier in the call) would take away what a new attempt needs. Then ``incomplete`` is called, so
that the object stays known and a later Stop or Remove goes on where this ended, or `finish` does.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, Self

import structlog

from runtime.steps.background import in_background
from runtime.steps.side_by_side import all_finished

log = structlog.get_logger(__name__)

LIMIT: Final = 60.0
"""Seconds for a whole rollback, as containerd's ``io.containerd.timeout.cri.defercleanup``."""

_FIRST_PAUSE: Final = 1.0
_LONGEST_PAUSE: Final = 60.0
"""Seconds between attempts of a step that failed; doubled from the first to the longest."""


class Rollback:
    """The steps that undo a call, newest first; an async context manager around the call's work."""

    def __init__(
        self, incomplete: Callable[[str], object] | None = None, *, limit: float = LIMIT
    ) -> None:
        """``incomplete`` gets a sentence about the step that failed; a call that learns more of
        what it makes may replace it."""
        self.incomplete = incomplete
        self._limit = limit
        self._steps: list[tuple[str, Callable[..., object], tuple[Any, ...]]] = []

    def push(self, what: str, step: Callable[..., object], *args: Any) -> None:
        """Remember ``step(*args)``, a plain or an async function, as the way to undo what was done.

        ``what`` says it in the imperative, for the log. Push before an action that may take effect
        although it fails; such a step must be
        idempotent: it may run when nothing was created.
        """
        self._steps.append((what, step, args))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None or not self._steps:
            return
        # to its end, also when the caller is cancelled a second time meanwhile
        await all_finished(in_background(self._undo(error), name="rollback"))

    async def finish(self) -> None:
        """Go on, with growing pauses, until every step that is left has gone through.

        For what no client knows of, so that no later call could finish it.
        """
        pause = _FIRST_PAUSE
        while self._steps:
            await asyncio.sleep(pause)
            what, step, args = self._steps[-1]
            try:
                async with asyncio.timeout(self._limit):
                    result = step(*args)
                    if inspect.isawaitable(result):
                        await result
            except Exception as error:
                log.warning("rollback is still incomplete", step=what, error=str(error))
                pause = min(max(pause * 2, _FIRST_PAUSE), _LONGEST_PAUSE)
            else:
                self._steps.pop()
                pause = 0.0

    async def _undo(self, cause: BaseException) -> None:
        what = ""
        try:
            async with asyncio.timeout(self._limit):
                while self._steps:
                    what, step, args = self._steps[-1]
                    result = step(*args)
                    if inspect.isawaitable(result):
                        await result
                    self._steps.pop()
        except Exception as error:
            reason = str(error) or type(error).__name__
            log.error("rollback is incomplete", step=what, error=reason, cause=repr(cause))
            if self.incomplete is not None:
                self.incomplete(f"cannot {what}: {reason}")
