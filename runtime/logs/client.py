"""The server's side of the log keeper: starts it, speaks its protocol, replaces it when it is gone.

At most one keeper lives per state directory: it holds ``log-keeper.lock`` (flock) for as long as it
lives, and listens on a socket that was bound by whoever started it, so there is no moment when it
lives and cannot be reached.  What a crashed keeper had open is opened again at once by its
successor: the shims hold both ends of every FIFO, so only a container that fills its pipe within
those milliseconds waits, and nothing is lost but text that had been read and not yet written.
A keeper of another build (an upgraded server starts beside it) is asked to retire and succeeded in
the same way.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import itertools
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from runtime.errors import CriError, NotFound, Unavailable, Unknown
from runtime.logs.format import DEFAULT_LINE_LIMIT

log = structlog.get_logger(__name__)

START_SECONDS = 10.0
"""How long a keeper may take to answer before a call that needs it fails."""

_LINE_BYTES = 64 << 20
"""The longest answer: a list of every container of a node."""

_PACKAGE_ROOT = Path(__file__).resolve().parents[2]
_PROGRAM = (
    "import sys; sys.path.append({root!r}); "
    "from runtime.logs.keeper import main; main(sys.argv[1:])"
)


@dataclass(frozen=True, slots=True)
class Fifos:
    """Paths of a container's standard streams; None where it has none."""

    stdin: str | None
    stdout: str | None
    stderr: str | None


@dataclass(frozen=True, slots=True)
class KeptContainer:
    """What the keeper says of one container."""

    open_streams: tuple[str, ...]
    """Streams that have not ended yet."""
    bytes_read: int
    bytes_lost: int
    """Bytes of log records that could not be written."""
    problem: str
    """Why the log file cannot be written now; empty when it can."""

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> KeptContainer:
        """Read one container's entry of the keeper's answers."""
        return cls(tuple(facts["open"]), facts["read"], facts["lost"], facts["problem"])


class LogKeeper:
    """The keeper of one state directory.  Every method survives the keeper's death in between."""

    def __init__(self, state_dir: str) -> None:
        self._state_dir = state_dir
        self._build = build_of_keeper()
        self._opened: dict[str, dict[str, Any]] = {}
        self._connection: _Connection | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._connecting = asyncio.Lock()
        self._restoring: asyncio.Task[None] | None = None
        self._closed = False
        self.pid = 0

    @classmethod
    async def start(cls, state_dir: str) -> LogKeeper:
        """Connect to the living keeper of ``state_dir``, or start one there (about 20 ms)."""
        os.makedirs(state_dir, 0o700, exist_ok=True)
        keeper = cls(state_dir)
        await keeper._connected()
        return keeper

    async def aclose(self) -> None:
        """Leave the keeper to itself: it goes on draining what it holds."""
        self._closed = True
        if self._restoring is not None:
            self._restoring.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._restoring
        if self._connection is not None:
            await self._connection.aclose()

    async def open(
        self,
        container_id: str,
        fifos: Fifos,
        tty: bool,
        log_path: str | None,
        *,
        line_limit: int = DEFAULT_LINE_LIMIT,
        tolerant: bool = False,
    ) -> KeptContainer:
        """Make the FIFOs and open their read ends and the log file: Tasks.Create may follow.

        Repeatable with the same FIFOs.  ``log_path`` None drains the output without keeping it.
        A log file that cannot be opened fails the call, except when ``tolerant`` (recovery of a
        running container): then its output is drained, counted as lost, and the file tried again.
        """
        request = {
            "id": container_id,
            "stdin": fifos.stdin,
            "stdout": fifos.stdout,
            "stderr": fifos.stderr,
            "tty": tty,
            "log": log_path,
            "limit": line_limit,
        }
        facts = await self._call("open", **request, tolerant=tolerant)
        self._opened[container_id] = request
        return KeptContainer.from_facts(facts)

    async def reopen(self, container_id: str) -> None:
        """Go on in a new file at the same path: the old one has been renamed (rotation)."""
        await self._call("reopen", id=container_id)

    async def drained(self, container_id: str) -> None:
        """Return when all output is in the log.  Ask after the task's exit; set a limit of time.

        A process that outlives its container's init and holds its output delays this for as long
        as it lives.
        """
        await self._call("drained", id=container_id)

    async def close(self, container_id: str) -> None:
        """Take what the FIFOs still hold, then forget the container.  Repeatable."""
        self._opened.pop(container_id, None)
        await self._call("close", id=container_id)

    async def list(self) -> dict[str, KeptContainer]:
        """Return every container the keeper holds, those of earlier servers included."""
        facts = await self._call("list")
        return {name: KeptContainer.from_facts(of_one) for name, of_one in facts.items()}

    @contextlib.asynccontextmanager
    async def attach(
        self, container_id: str, *, stdout: bool = True, stderr: bool = True
    ) -> AsyncIterator[AsyncIterator[tuple[str, bytes]]]:
        """Give (stream, bytes) of live output, from entering on, until the container's output ends.

        A caller that falls more than 4 MiB behind is cut off, with Unavailable: an attached client
        never holds up the container.  Standard input is written to the container's FIFO by the
        caller itself.
        """
        await self._connected()
        reader, writer = await asyncio.open_unix_connection(self._socket_path)
        try:
            request = {"id": container_id, "stdout": stdout, "stderr": stderr}
            writer.write(_line(seq=0, op="attach", **request))
            answer = await reader.readline()
            if not answer:
                raise Unavailable(f"the log keeper is gone; {self._hint}")
            _facts(json.loads(answer))
            yield self._live_output(reader)
        finally:
            writer.close()

    async def _live_output(self, reader: asyncio.StreamReader) -> AsyncIterator[tuple[str, bytes]]:
        try:
            while stream := (await reader.readexactly(1))[0]:
                size = int.from_bytes(await reader.readexactly(4), "big")
                yield ("stdout", "stderr")[stream - 1], await reader.readexactly(size)
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise Unavailable(
                f"cut off from the output: too far behind it, or the log keeper ended; {self._hint}"
            ) from error

    @property
    def _socket_path(self) -> str:
        return f"{self._state_dir}/log-keeper.sock"

    @property
    def _hint(self) -> str:
        return f"{self._state_dir}/log-keeper.log may say why"

    async def _call(self, operation: str, **fields: Any) -> dict[str, Any]:
        """Ask, and ask the successor when the keeper dies before it answers: all is repeatable."""
        for _ in range(4):
            connection = await self._connected()
            try:
                return await connection.call(operation, **fields)
            except ConnectionError:
                continue
        raise Unavailable(
            f"the log keeper died again and again; see {self._state_dir}/log-keeper.log"
        )

    async def _connected(self) -> _Connection:
        async with self._connecting:
            if self._connection is None or self._connection.receiving.done():
                first = self._connection is None
                self._connection = await self._connect()
                if first:
                    await self._learn(self._connection)
                else:
                    log.warning("log keeper replaced", pid=self.pid, containers=len(self._opened))
                self._connection.receiving.add_done_callback(self._restore)
            return self._connection

    def _restore(self, _: asyncio.Task[None]) -> None:
        """Replace a keeper that died, without waiting for somebody to need it."""
        if not self._closed:
            self._restoring = asyncio.create_task(self._restore_now())

    async def _restore_now(self) -> None:
        try:
            await self._connected()
        except CriError as error:
            log.error("log keeper lost", error=str(error))

    async def _connect(self) -> _Connection:
        deadline = time.monotonic() + START_SECONDS
        pause = 0.01
        while time.monotonic() < deadline:
            self._start_if_none()
            try:
                async with asyncio.timeout(START_SECONDS):
                    connection = await self._greet()
            except (OSError, TimeoutError):
                connection = None
            if connection is not None:
                return connection
            await asyncio.sleep(pause)
            pause = min(pause * 2, 1.0)
        raise Unavailable(f"the log keeper does not answer; {self._hint}")

    async def _greet(self) -> _Connection | None:
        """Return a connection to a keeper of this build that has all open, or None: try again."""
        connection = await _Connection.open(self._socket_path)
        try:
            hello = await connection.call("hello")
            if hello["build"] != self._build:
                await self._learn(connection)
                log.info("log keeper of another build retires", pid=hello["pid"])
                await connection.call("retire")
                await connection.aclose()
                return None
            self.pid = hello["pid"]
            await self._open_again(connection)
        except BaseException:
            await connection.aclose()
            raise
        return connection

    async def _learn(self, connection: _Connection) -> None:
        """Know what an earlier server opened, so that it is opened again should the keeper die."""
        held = await connection.call("list")
        self._opened = {name: facts["request"] for name, facts in held.items()} | self._opened

    async def _open_again(self, connection: _Connection) -> None:
        for request in self._opened.values():
            try:
                await connection.call("open", **{**request, "tolerant": True})
            except CriError as error:
                log.error("output not drained", container=request["id"], error=str(error))

    def _start_if_none(self) -> None:
        if self._process is not None:
            self._process.poll()  # reaps it
        lock = os.open(f"{self._state_dir}/log-keeper.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # one lives
            os.close(lock)
            return
        try:
            self._process = self._spawn(lock)
        finally:
            os.close(lock)

    def _spawn(self, lock: int) -> subprocess.Popen[bytes]:
        """Start a keeper in a session of its own; it inherits the lock and a listening socket."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._socket_path)
        with (
            socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener,
            open(f"{self._state_dir}/log-keeper.log", "ab") as complaints,
        ):
            listener.bind(self._socket_path)
            os.chmod(self._socket_path, 0o600)
            listener.listen(64)
            arguments = [str(listener.fileno()), self._build, self._state_dir]
            program = _PROGRAM.format(root=str(_PACKAGE_ROOT))
            return subprocess.Popen(
                # no site (-S), no environment (-I): that halves the imports of an interpreter
                [sys.executable, "-I", "-S", "-c", program, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=complaints,
                pass_fds=(listener.fileno(), lock),
                start_new_session=True,
                cwd="/",
                env={name: os.environ[name] for name in ("TZ",) if name in os.environ},
            )


class _Connection:
    """Requests and answers over one socket, matched by number."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self.receiving = asyncio.create_task(self._receive())
        """Ends with the connection."""

    @classmethod
    async def open(cls, path: str) -> _Connection:
        return cls(*await asyncio.open_unix_connection(path, limit=_LINE_BYTES))

    async def call(self, operation: str, **fields: Any) -> dict[str, Any]:
        """Return the facts of the answer; ConnectionError when the keeper is gone before it."""
        if self.receiving.done():
            raise ConnectionResetError("the log keeper is gone")
        number = next(self._numbers)
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        try:
            self._writer.write(_line(seq=number, op=operation, **fields))
            reply = await answer
        finally:
            del self._waiting[number]
        return _facts(reply)

    async def aclose(self) -> None:
        self.receiving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.receiving

    async def _receive(self) -> None:
        try:
            while line := await self._reader.readline():
                reply = json.loads(line)
                if reply["seq"] is None:
                    _tell(reply)
                    continue
                waiting = self._waiting.get(reply["seq"])
                if waiting is not None and not waiting.done():
                    waiting.set_result(reply)
        except ConnectionError:
            return
        finally:
            self._writer.close()
            for waiting in self._waiting.values():
                if not waiting.done():
                    waiting.set_exception(ConnectionResetError("the log keeper is gone"))


def _tell(news: Mapping[str, Any]) -> None:
    """Log what the keeper says of a container's log file by itself."""
    if news["problem"]:
        log.error("container log", container=news["id"], problem=news["problem"])
    else:
        log.info("container log is written again", container=news["id"], bytes_lost=news["lost"])


def _line(**request: Any) -> bytes:
    return json.dumps(request).encode() + b"\n"


def _facts(reply: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts of an answer; a refusal is raised."""
    if "error" in reply:
        kind = NotFound if reply["kind"] == "not-found" else Unknown
        raise kind(reply["error"])
    facts: dict[str, Any] = reply["ok"]
    return facts


def build_of_keeper() -> str:
    """Return what tells one build of the keeper from another: a digest of its source."""
    sources = (Path(__file__).with_name(name) for name in ("format.py", "keeper.py"))
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:12]
