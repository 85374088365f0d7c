"""The wrapper of every CRI call: readiness, error translation, log line and metrics.

The generated handlers contain none of this; ``unary`` and ``stream`` wrap each of them.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import itertools
import operator
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import Any, Final, NoReturn, Protocol, TypeAlias, TypeVar

import grpc
from google.protobuf import text_format
from google.protobuf.message import Message
from grpc import aio

from generated.handlers.redacted import REDACTED
from runtime import ignored, text
from runtime.errors import CriError, InvalidArgument, Unavailable, Violation, from_rpc

Q = TypeVar("Q")
"""A request, or the stream of requests of one call."""
R = TypeVar("R", bound=Message)
T = TypeVar("T")
Context: TypeAlias = aio.ServicerContext[Any, Any]

BATCH: Final = 5000
"""Objects in one message of a streaming list."""
_OF_THE_NODE: Final = frozenset(
    (
        errno.EDQUOT,
        errno.EIO,
        errno.EISDIR,
        errno.ELOOP,
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOMEM,
        errno.ENOSPC,
        errno.ENOTDIR,
        errno.ENOTEMPTY,
        errno.EROFS,
        errno.ESTALE,
    )
)
"""Errors of the operating system that say what the node lacks, not that the server has a bug: a
full or failed disk, no open files or memory left, something else in the place of a file."""


class Log(Protocol):
    """A structured logger, as structlog makes them."""

    def debug(self, event: str, **fields: object) -> object: ...
    def info(self, event: str, **fields: object) -> object: ...
    def error(self, event: str, **fields: object) -> object: ...


class Frame:
    """One for the server, shared by its services.

    ``closed`` returns why the server does not accept calls now, or None. ``observe`` gets RPC, code
    and seconds of every finished call.
    """

    def __init__(
        self,
        *,
        closed: Callable[[], str | None],
        observe: Callable[[str, grpc.StatusCode, float], None],
        log: Log,
        debugging: bool,
        set_but_ignored: Callable[[str], None] = lambda _field: None,
        unknown: Callable[[str], None] = lambda _message: None,
        awaited_at_shutdown: Callable[[str], None] = lambda _rpc: None,
    ) -> None:
        """``set_but_ignored`` counts fields that are set and have no effect, ``unknown`` counts
        fields of a newer CRI by their message; both in requests that change something. In the task
        of each call that changes something, ``awaited_at_shutdown`` is called with its RPC first.
        """
        self._closed = closed
        self._observe = observe
        self._log = log
        self._debugging = debugging
        self._set_but_ignored = set_but_ignored
        self._unknown = unknown
        self.awaited_at_shutdown = awaited_at_shutdown
        self._unknown_logged: set[str] = set()

    def must_be_open(self) -> None:
        """Raise Unavailable, with the reason, while the server does not accept calls."""
        reason = self._closed()
        if reason is not None:
            raise Unavailable(reason)

    def ended(self, call: Call, code: grpc.StatusCode, error: str = "") -> None:
        """Log and count a finished call."""
        seconds = time.perf_counter() - call.began
        self._observe(call.rpc, code, seconds)
        request = call.request if isinstance(call.request, Message) else None
        if request is not None and call.mutates and code is grpc.StatusCode.OK:
            self._count_ignored(call.rpc, request)
        if not (call.mutates or self._debugging):
            return
        fields: dict[str, object] = {name: get(call.request) for name, get in call.shown}
        fields |= {"code": code.name, "ms": round(seconds * 1000, 1)}
        if error:
            fields["error"] = error
        if request is not None and self._debugging:
            fields["request"] = described(request)
        (self._log.info if call.mutates else self._log.debug)(call.rpc, **fields)

    def _count_ignored(self, rpc: str, request: Message) -> None:
        for field in ignored.set_but_ignored(request):
            self._set_but_ignored(field)
        for message, number in ignored.unknown(request):
            self._unknown(message)
            if message not in self._unknown_logged:
                self._unknown_logged.add(message)
                self._log.info(
                    "a field of a newer CRI is ignored; other fields of this message are only"
                    " counted",
                    rpc=rpc,
                    message=message,
                    number=number,
                )

    async def refuse(self, call: Call, error: Exception, context: Context) -> NoReturn:
        """End a call with the status for ``error``."""
        if isinstance(error, aio.AioRpcError):
            error = from_rpc(error, f"serve {call.rpc}")
        if isinstance(error, OSError) and error.errno in _OF_THE_NODE:
            self._log.error(
                "a call failed because of an I/O or resource error", rpc=call.rpc, exc_info=error
            )
            place = f"{error.filename}: " if error.filename else ""
            error = Unavailable(f"cannot serve {call.rpc}: {place}{error.strerror}")
        if isinstance(error, CriError):
            code, details = error.code, str(error)
        else:
            code = grpc.StatusCode.INTERNAL
            details = f"{call.rpc} failed with an internal error: {type(error).__name__}: {error}"
            self._log.error("a call failed with an internal error", rpc=call.rpc, exc_info=error)
        details = text.status(details)  # text that cannot be encoded would leave the call open
        self.ended(call, code, details)
        await context.abort(code, details)
        raise AssertionError("abort always raises")


class Call:
    """One running call."""

    __slots__ = ("began", "mutates", "request", "rpc", "shown")

    def __init__(self, rpc: str, request: object, mutates: bool, shown: Shown) -> None:
        self.rpc = rpc
        self.request = request
        self.mutates = mutates
        self.shown = shown
        self.began = time.perf_counter()


class Servicer(Protocol):
    """A generated service."""

    @property
    def frame(self) -> Frame: ...


Shown: TypeAlias = tuple[tuple[str, Callable[[Any], object]], ...]
Handler: TypeAlias = Callable[[Any, Q], Awaitable[R]]
StreamHandler: TypeAlias = Callable[[Any, Q], AsyncIterator[R]]


def unary(
    *, mutates: bool = False, shown: Sequence[str] = ()
) -> Callable[[Handler[Q, R]], Callable[[Any, Q, Context], Awaitable[R]]]:
    """Wrap a handler that returns one response; ``shown`` are the request fields in its log
    line."""
    getters = tuple((path, operator.attrgetter(path)) for path in shown)

    def wrap(handler: Handler[Q, R]) -> Callable[[Any, Q, Context], Awaitable[R]]:
        @functools.wraps(handler)
        async def framed(service: Servicer, request: Q, context: Context) -> R:
            frame = service.frame
            call = Call(handler.__name__, request, mutates, getters)
            if mutates:
                frame.awaited_at_shutdown(call.rpc)
            try:
                frame.must_be_open()
                response = await handler(service, request)
            except asyncio.CancelledError:
                frame.ended(call, grpc.StatusCode.CANCELLED)
                raise
            except Exception as error:
                await frame.refuse(call, error, context)
            frame.ended(call, grpc.StatusCode.OK)
            return response

        return framed

    return wrap


def stream(
    *, mutates: bool = False, shown: Sequence[str] = ()
) -> Callable[[StreamHandler[Q, R]], Callable[[Any, Q, Context], AsyncIterator[R]]]:
    """Wrap a handler that returns a stream of responses."""
    getters = tuple((path, operator.attrgetter(path)) for path in shown)

    def wrap(handler: StreamHandler[Q, R]) -> Callable[[Any, Q, Context], AsyncIterator[R]]:
        @functools.wraps(handler)
        async def framed(service: Servicer, request: Q, context: Context) -> AsyncIterator[R]:
            frame = service.frame
            call = Call(handler.__name__, request, mutates, getters)
            try:
                frame.must_be_open()
                async for response in handler(service, request):
                    yield response
            except (asyncio.CancelledError, GeneratorExit):
                frame.ended(call, grpc.StatusCode.CANCELLED)
                raise
            except Exception as error:
                await frame.refuse(call, error, context)
            frame.ended(call, grpc.StatusCode.OK)

        return framed

    return wrap


def refuse_if_any(violations: Sequence[Violation]) -> None:
    """Raise InvalidArgument with every violation."""
    if violations:
        raise InvalidArgument.from_violations(violations)


def batches(values: Sequence[T], size: int | None = None) -> Iterator[list[T]]:
    """Split a list into parts of at most ``size`` items, or BATCH; an empty list has no parts."""
    rest = iter(values)
    while part := list(itertools.islice(rest, size or BATCH)):
        yield part


def described(request: Message) -> str:
    """The request in one line, without the fields that must never be logged."""
    shown = type(request)()
    shown.CopyFrom(request)
    _clear_secrets(shown)
    return text_format.MessageToString(shown, as_one_line=True)


def _clear_secrets(message: Message) -> None:
    """Clear the secret fields of ``message`` and of all messages in it."""
    for name in REDACTED.get(message.DESCRIPTOR.name, ()):
        message.ClearField(name)
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        if not field.is_repeated:
            _clear_secrets(value)
        elif not field.message_type.GetOptions().map_entry:
            for item in value:
                _clear_secrets(item)
        elif field.message_type.fields_by_name["value"].message_type is not None:
            for item in value.values():
                _clear_secrets(item)
