"""The log keeper's protocol: requests and replies, each a JSON object on one line.

    {"seq": 1, "op": "open", "id": ..., "stdout": PATH, "stderr": PATH, "stdin": PATH,
     "tty": bool, "log": PATH, "limit": BYTES, "tolerant": bool}
    {"seq": 1, "ok": {...}}        or        {"seq": 1, "error": "sentence", "kind": "not-found"}

=========  ====================================================================================
hello      protocol facts: build, pid, number of containers
open       creates the named FIFOs, opens their read ends and the log file; idempotent
reopen     writes a partial line to the old file, later text to a new one at the same path
drained    replies once every stream of the container has ended; called after its task's exit
close      drains what is left in the FIFOs, then removes the container; idempotent
list       every container with its paths, open streams, bytes read and bytes lost
counts     entries and bytes read and written since the start, of all containers
attach     after the reply, this connection carries the container's live output as frames:
           one byte stream (1 stdout, 2 stderr, 0 the end), four bytes length, the bytes
retire     flushes, releases everything and exits, so that a newer build can take over
=========  ====================================================================================

Every connected client is also notified when a log file cannot be written, and when it can again:

    {"seq": null, "id": ..., "lost": BYTES, "problem": "sentence, or empty"}
"""

from __future__ import annotations

import json
import os

from runtime.logs.format import DEFAULT_LINE_LIMIT

TYPE_CHECKING = False  # without typing, to save the import
if TYPE_CHECKING:
    from collections.abc import Mapping

Facts = dict[str, object]
"""The content of a reply: a JSON object."""

STREAMS = ("stdout", "stderr")

END_OF_OUTPUT = b"\0\0\0\0\0"
"""The last frame of an attached connection."""


class RequestError(Exception):
    """A request that is refused; the sentence is for the client's error message."""

    def __init__(self, sentence: str, kind: str = "failed") -> None:
        super().__init__(sentence)
        self.kind = kind


class Request:
    """The fields of one request, read with type checks; raises RequestError."""

    __slots__ = ("_fields",)

    def __init__(self, fields: Mapping[str, object]) -> None:
        self._fields = fields

    @property
    def operation(self) -> object:
        """The name of the operation."""
        return self._fields.get("op")

    @property
    def sequence(self) -> object:
        """The number that the reply repeats."""
        return self._fields.get("seq")

    def text(self, key: str) -> str:
        """Return a required string."""
        value = self._fields.get(key)
        if value is None:
            raise RequestError(f"{key!r} is missing")
        if not isinstance(value, str):
            raise RequestError(f"{key!r} must be a string, not {value!r}")
        return value

    def path(self, key: str) -> str | None:
        """Return a path, or None if it is missing."""
        if not self._fields.get(key):
            return None
        path = self.text(key)
        try:
            unusable = "\0" in path or not os.fsencode(path)
        except UnicodeEncodeError:
            unusable = True
        if unusable:
            raise RequestError(f"{key!r} cannot be a path: {path!r}")
        return path

    def flag(self, key: str) -> bool:
        """Return a flag; false if it is missing."""
        value = self._fields.get(key, False)
        if not isinstance(value, bool):
            raise RequestError(f"{key!r} must be true or false, not {value!r}")
        return value

    def number(self, key: str, default: int) -> int:
        """Return an integer."""
        value = self._fields.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool):
            raise RequestError(f"{key!r} must be an integer, not {value!r}")
        return value


class OpenRequest:
    """The parameters of ``open``: a container's FIFOs and log file."""

    __slots__ = ("container_id", "limit", "log", "stderr", "stdin", "stdout", "tty")

    def __init__(self, request: Request) -> None:
        self.container_id = request.text("id")
        self.stdin = request.path("stdin")
        self.stdout = request.path("stdout")
        self.stderr = request.path("stderr")
        self.tty = request.flag("tty")
        self.log = request.path("log")
        self.limit = request.number("limit", DEFAULT_LINE_LIMIT)

    def fifos(self) -> dict[str, str]:
        """Return the FIFO of each output stream; a terminal has only one."""
        paths = (self.stdout, None if self.tty else self.stderr)
        return {stream: path for stream, path in zip(STREAMS, paths, strict=True) if path}

    def facts(self) -> Facts:
        """Return the request with which a new keeper can open it."""
        return {
            "id": self.container_id,
            "stdin": self.stdin,
            "stdout": self.stdout,
            "stderr": self.stderr,
            "tty": self.tty,
            "log": self.log,
            "limit": self.limit,
        }


def frame(stream: str, data: bytes) -> bytes:
    """Return live output in the format of an attached connection."""
    number = 1 + STREAMS.index(stream)
    return bytes((number,)) + len(data).to_bytes(4, "big") + data


def decode(line: bytes) -> dict[str, object]:
    """Return the JSON object in one line; raises RequestError for anything else."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise RequestError("a request is one JSON object on one line")
    return value


def encode(value: Facts) -> bytes:
    """Encode a JSON object as one line."""
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"
