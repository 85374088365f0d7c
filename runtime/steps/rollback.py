"""Undo what a failed call did, in reverse order, even if the call is cancelled.

    async with Rollback(incomplete=keep_as_unknown) as undo:
        names.reserve(name, id)
        undo.push("free the name", names.release, name, id)
        await create_namespace()
        undo.push("remove the network namespace", netns.remove, path)

If the block ends with an exception, including a cancellation of the caller, the pushed steps run in
reverse order in a separate task, which the caller's deadline or a second cancellation does not
affect. All steps together have `LIMIT` seconds. If a step fails, the remaining steps do not run,
because they would remove what a retry needs. Then ``incomplete`` is called, so that the object
stays known, and a later Stop or Remove, or `finish`, can complete the rollback.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, Self

import structlog

from runtime.errors import in_words
from runtime.steps.background import in_background
from runtime.steps.parallel import all_finished

log = structlog.get_logger(__name__)

LIMIT: Final = 60.0
"""Seconds for a whole rollback, as in containerd's ``io.containerd.timeout.cri.defercleanup``."""

_FIRST_PAUSE: Final = 1.0
_LONGEST_PAUSE: Final = 60.0
"""Seconds between retries of a failed step; doubled from the first to the longest."""


class Rollback:
    """The steps that undo a call, newest first; an async context manager around the call's work."""

    def __init__(
        self, incomplete: Callable[[str], object] | None = None, *, limit: float = LIMIT
    ) -> None:
        """``incomplete`` gets a sentence about the failed step; the call can replace it later."""
        self.incomplete = incomplete
        self._limit = limit
        self._steps: list[tuple[str, Callable[..., object], tuple[Any, ...]]] = []

    def push(self, what: str, step: Callable[..., object], *args: Any) -> None:
        """Add ``step(*args)``, a plain or async function, to the steps that undo the call.

        ``what`` describes it in the imperative, for the log. If an action can take effect although
        it fails, push its step before it; such a step must be idempotent, because it can run when
        nothing was created.
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
        # to completion, even if the caller is cancelled a second time
        await all_finished(in_background(self._undo(error), name="rollback"))

    async def finish(self) -> None:
        """Retry, with growing pauses, until every remaining step has succeeded.

        For objects that no client knows, so that no later call could finish the rollback.
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
            reason = in_words(error)
            log.error("rollback is incomplete", step=what, error=reason, cause=repr(cause))
            if self.incomplete is not None:
                self.incomplete(f"cannot {what}: {reason}")
