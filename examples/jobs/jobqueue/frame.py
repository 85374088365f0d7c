"""The wrapper of every call: it turns errors into the status of the call, and logs it."""

from __future__ import annotations

import functools
import logging
import operator
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from grpc import aio

from jobqueue.errors import CallError, InvalidArgument, Violation

_log = logging.getLogger("jobqueue")
Handler = Callable[[Any, Any], Awaitable[Any]]
Context = aio.ServicerContext[Any, Any]


class Frame:
    """What all calls share; nothing here."""


def unary(
    *, mutates: bool = False, shown: Sequence[str] = ()
) -> Callable[[Handler], Callable[[Any, Any, Context], Awaitable[Any]]]:
    """Wrap a handler; the fields ``shown`` are logged, at a higher level if it ``mutates``."""

    def wrap(handler: Handler) -> Callable[[Any, Any, Context], Awaitable[Any]]:
        @functools.wraps(handler)
        async def framed(service: Any, request: Any, context: Context) -> Any:
            fields = {path: operator.attrgetter(path)(request) for path in shown}
            _log.log(logging.INFO if mutates else logging.DEBUG, "%s %s", handler.__name__, fields)
            try:
                return await handler(service, request)
            except CallError as error:
                await context.abort(error.code, str(error))

        return framed

    return wrap


def refuse_if_any(violations: Sequence[Violation]) -> None:
    """Raise InvalidArgument with all violations."""
    if violations:
        raise InvalidArgument("; ".join(f"{v.field}: {v.detail}" for v in violations))
