"""One connection to the log keeper: requests and answers in JSON lines, matched by number."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

import structlog

from runtime.errors import NotFound, Unavailable, Unknown
from runtime.steps.watched import ended

log = structlog.get_logger(__name__)

ANSWER_SECONDS: Final = 20.0
"""Time limit for an answer, in seconds; only a hung file system of a log takes this long."""

_LINE_BYTES: Final = 64 << 20
"""Maximum length of an answer: a list of every container of a node."""

_KINDS: Final = {"not-found": NotFound, "busy": Unavailable}
"""Errors by the keeper's names for them; all others are Unknown."""


class Connection:
    """Requests and answers over one socket. Made by ``open``."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self.receiving = asyncio.create_task(self._receive(), name="log keeper answers")
        """Ends with the connection."""

    @classmethod
    async def open(cls, path: str) -> Connection:
        """Connect to the socket at ``path``; raises OSError."""
        return cls(*await asyncio.open_unix_connection(path, limit=_LINE_BYTES))

    async def call(
        self, operation: str, *, within: float | None = ANSWER_SECONDS, **fields: Any
    ) -> dict[str, Any]:
        """Return the facts in the answer.

        Raises ConnectionError if the keeper dies before it answers, Unavailable if there is no
        answer ``within`` seconds, and NotFound, Unavailable or Unknown if the keeper refuses.
        """
        if self.receiving.done():
            raise ConnectionResetError("the log keeper is gone")
        number = next(self._numbers)
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        try:
            self._writer.write(line(seq=number, op=operation, **fields))
            async with asyncio.timeout(within):
                reply = await answer
        except TimeoutError:
            raise Unavailable(
                f"the log keeper has not answered {operation} within {within:g} s; "
                "does the file system of the container logs hang?"
            ) from None
        finally:
            del self._waiting[number]
        return facts(reply)

    async def aclose(self) -> None:
        """Close the connection; waiting calls fail with ConnectionError."""
        await ended(self.receiving)

    async def _receive(self) -> None:
        try:
            while text := await self._reader.readline():
                reply = json.loads(text)
                if reply["seq"] is None:
                    _log_news(reply)
                    continue
                waiting = self._waiting.get(reply["seq"])
                if waiting is not None and not waiting.done():
                    waiting.set_result(reply)
        except ConnectionError:
            return
        except (ValueError, KeyError, TypeError) as error:
            log.error("invalid answer from the log keeper", error=repr(error))
        finally:
            self._writer.close()
            for waiting in self._waiting.values():
                if not waiting.done():
                    waiting.set_exception(ConnectionResetError("the log keeper is gone"))


@contextlib.asynccontextmanager
async def attached(
    path: str, hint: str, **fields: Any
) -> AsyncIterator[AsyncIterator[tuple[str, bytes]]]:
    """Yield (stream, bytes) of a container's live output, over a new connection to ``path``.

    Raises Unavailable, with ``hint``, if the keeper dies, or drops a reader that is too far behind.
    """
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        writer.write(line(seq=0, op="attach", **fields))
        answer = await reader.readline()
        if not answer:
            raise Unavailable(f"the log keeper is gone; {hint}")
        facts(json.loads(answer))
        yield _frames(reader, hint)
    finally:
        writer.close()


async def _frames(reader: asyncio.StreamReader, hint: str) -> AsyncIterator[tuple[str, bytes]]:
    try:
        while stream := (await reader.readexactly(1))[0]:
            size = int.from_bytes(await reader.readexactly(4), "big")
            yield ("stdout", "stderr")[stream - 1], await reader.readexactly(size)
    except (asyncio.IncompleteReadError, ConnectionError) as error:
        raise Unavailable(
            f"cut off from the output: too far behind it, or the log keeper ended; {hint}"
        ) from error


def _log_news(news: Mapping[str, Any]) -> None:
    """Log the keeper's notifications about a container's log file."""
    if news["problem"]:
        log.error("container log", container=news["id"], problem=news["problem"])
    else:
        log.info("container log is written again", container=news["id"], bytes_lost=news["lost"])


def line(**request: Any) -> bytes:
    """Return a request in the keeper's format."""
    return json.dumps(request).encode() + b"\n"


def facts(reply: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts in an answer; raises an error if the keeper refused."""
    if "error" in reply:
        raise _KINDS.get(reply["kind"], Unknown)(reply["error"])
    told: dict[str, Any] = reply["ok"]
    return told
