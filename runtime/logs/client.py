"""The server's side of the log keeper: starts it, speaks its protocol, replaces it when it is gone.

At most one keeper lives per state directory: it holds ``log-keeper.lock`` (flock) for as long as it
lives, and listens on a socket that was bound by whoever started it, so there is no moment when it
lives and cannot be reached.  What a crashed keeper had open is opened again at once by its
successor: the shims hold both ends of every FIFO, so only a container that fills its pipe within
those milliseconds waits, and nothing is lost but what the keeper had in hand: at most the one batch
(64 KiB, of one stream) that it had read and not yet written, and unfinished lines.
A keeper of another build (an upgraded server starts beside it) is asked to retire and succeeded in
the same way.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
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

from runtime.errors import CriError, Unavailable
from runtime.logs.connection import ANSWER_SECONDS, Connection, attached
from runtime.logs.format import DEFAULT_LINE_LIMIT
from runtime.steps.watched import ended, watched

log = structlog.get_logger(__name__)

START_SECONDS = 10.0
"""How long a keeper may take to answer before a call that needs it fails."""

_ENVIRONMENT = {"MALLOC_TRIM_THRESHOLD_": "2097152", "MALLOC_MMAP_THRESHOLD_": "2097152"}
"""Lets glibc keep the memory of one batch for the next instead of handing it back to the kernel and
faulting it in again: a quarter less CPU time for each byte, for 1 MB more of resident memory."""

_RESTORE_PAUSE = 1.0
"""Seconds between the tries to replace a keeper that is gone."""

_RETIRE_SECONDS = 5.0
"""How long a keeper of another build may take to flush; it ends by itself before."""

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
class KeptOutput:
    """A container's output as it was asked to be kept: what a new keeper is told again."""

    container_id: str
    fifos: Fifos
    tty: bool
    log_path: str | None
    line_limit: int

    @classmethod
    def of(cls, request: Mapping[str, Any]) -> KeptOutput:
        """Read the request by which an earlier server opened it."""
        fifos = Fifos(request["stdin"], request["stdout"], request["stderr"])
        return cls(request["id"], fifos, request["tty"], request["log"], request["limit"])

    def request(self) -> dict[str, Any]:
        """Return the fields of the keeper's ``open``."""
        return {
            "id": self.container_id,
            "stdin": self.fifos.stdin,
            "stdout": self.fifos.stdout,
            "stderr": self.fifos.stderr,
            "tty": self.tty,
            "log": self.log_path,
            "limit": self.line_limit,
        }


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
        self._opened: dict[str, KeptOutput] = {}
        self._connection: Connection | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._connecting = asyncio.Lock()
        self._restoring: asyncio.Task[None] | None = None
        self.pid = 0

    @classmethod
    async def start(cls, state_dir: str) -> LogKeeper:
        """Connect to the living keeper of ``state_dir``, or start one there (about 20 ms)."""
        os.makedirs(state_dir, 0o700, exist_ok=True)
        keeper = cls(state_dir)
        await keeper._connected()
        keeper._restoring = watched("log keeper", keeper._replace_when_gone)
        return keeper

    async def aclose(self) -> None:
        """Leave the keeper to itself: it goes on draining what it holds."""
        await ended(self._restoring)
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
        output = KeptOutput(container_id, fifos, tty, log_path, line_limit)
        facts = await self._call("open", **output.request(), tolerant=tolerant)
        self._opened[container_id] = output
        return KeptContainer.from_facts(facts)

    async def reopen(self, container_id: str) -> None:
        """Go on in a new file at the same path: the old one has been renamed (rotation)."""
        await self._call("reopen", id=container_id)

    async def drained(self, container_id: str) -> None:
        """Return when all output is in the log.  Ask after the task's exit; set a limit of time.

        A process that outlives its container's init and holds its output delays this for as long
        as it lives.
        """
        await self._call("drained", within=None, id=container_id)

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
        fields = {"id": container_id, "stdout": stdout, "stderr": stderr}
        async with attached(self._socket_path, self._hint, **fields) as output:
            yield output

    @property
    def _socket_path(self) -> str:
        return f"{self._state_dir}/log-keeper.sock"

    @property
    def _hint(self) -> str:
        return f"{self._state_dir}/log-keeper.log may say why"

    async def _call(
        self, operation: str, *, within: float | None = ANSWER_SECONDS, **fields: Any
    ) -> dict[str, Any]:
        """Ask, and ask the successor when the keeper dies before it answers: all is repeatable."""
        for _ in range(4):
            connection = await self._connected()
            try:
                return await connection.call(operation, within=within, **fields)
            except ConnectionError:
                continue
        raise Unavailable(
            f"the log keeper died again and again; see {self._state_dir}/log-keeper.log"
        )

    async def _connected(self) -> Connection:
        async with self._connecting:
            if self._connection is None or self._connection.receiving.done():
                first = self._connection is None
                self._connection = await self._connect()
                if first:
                    await self._learn(self._connection)
                else:
                    log.warning("log keeper replaced", pid=self.pid, containers=len(self._opened))
            return self._connection

    async def _replace_when_gone(self) -> None:
        """Replace each keeper that dies at once: until then, containers fill their pipes."""
        while True:
            try:
                connection = await self._connected()
            except CriError as error:
                log.error("log keeper lost", error=str(error))
                await asyncio.sleep(_RESTORE_PAUSE)
            else:
                await asyncio.wait({connection.receiving})

    async def _connect(self) -> Connection:
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

    async def _greet(self) -> Connection | None:
        """Return a connection to a keeper of this build that has all open, or None: try again."""
        connection = await Connection.open(self._socket_path)
        try:
            hello = await connection.call("hello")
            if hello["build"] != self._build:
                await self._learn(connection)
                log.info("log keeper of another build retires", pid=hello["pid"])
                await connection.call("retire", within=_RETIRE_SECONDS)
                await connection.aclose()
                return None
            self.pid = hello["pid"]
            await self._open_again(connection)
        except BaseException:
            await connection.aclose()
            raise
        return connection

    async def _learn(self, connection: Connection) -> None:
        """Know what an earlier server opened, so that it is opened again should the keeper die."""
        held = await connection.call("list")
        learned = {name: KeptOutput.of(facts["request"]) for name, facts in held.items()}
        self._opened = learned | self._opened

    async def _open_again(self, connection: Connection) -> None:
        """Open everything that is open, also what is opened or closed meanwhile."""
        for container_id in list(self._opened):
            output = self._opened.get(container_id)
            if output is None:
                continue
            try:
                await connection.call("open", **output.request(), tolerant=True)
            except CriError as error:
                log.error("output not drained", container=container_id, error=str(error))

    def _start_if_none(self) -> None:
        if self._process is not None:
            self._process.poll()  # reaps it
        lock = _private(f"{self._state_dir}/log-keeper.lock")
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
            open(_private(f"{self._state_dir}/log-keeper.log"), "ab") as complaints,
        ):
            listener.bind(self._socket_path)
            os.chmod(self._socket_path, 0o600)
            listener.listen(64)
            arguments = [str(listener.fileno()), str(lock), self._build, self._state_dir]
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
                env=_ENVIRONMENT | {key: os.environ[key] for key in ("TZ",) if key in os.environ},
            )


def _private(path: str) -> int:
    """Open a file of the keeper that nobody but root may read, lock or fill."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    os.fchmod(descriptor, 0o600)  # an earlier version made it readable
    return descriptor


def build_of_keeper() -> str:
    """Return what tells one build of the keeper from another: a digest of its source."""
    sources = (Path(__file__).with_name(name) for name in ("format.py", "keeper.py"))
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:12]
