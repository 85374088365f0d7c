"""The client of the log keeper: starts it, speaks its protocol, and replaces it if it dies.

At most one keeper runs per state directory. It holds ``log-keeper.lock`` (flock) while it runs, and
listens on a socket that its starter has bound, so a running keeper can always be reached.

After a crash, the next keeper reopens everything at once. The shims hold both ends of every FIFO,
so only a container that fills its pipe within those milliseconds has to wait. At most the one batch
(64 KiB of one stream) that was read and not yet written, and unfinished lines, are lost.

A keeper of another build, from before an upgrade of the server, is asked to retire and is replaced
in the same way.
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
from runtime.linux import files
from runtime.logs.connection import ANSWER_SECONDS, Connection, attached
from runtime.logs.format import DEFAULT_LINE_LIMIT
from runtime.steps.watched import ended, watched

log = structlog.get_logger(__name__)

START_SECONDS = 10.0
"""How long a call waits for a new keeper to answer."""

_ENVIRONMENT = {"MALLOC_TRIM_THRESHOLD_": "2097152", "MALLOC_MMAP_THRESHOLD_": "2097152"}
"""Makes glibc reuse the memory of a batch for the next one, instead of returning it to the kernel
and faulting it in again: 25 % less CPU time per byte, for 1 MB more resident memory."""

_RESTORE_PAUSE = 1.0
"""Seconds between attempts to replace a dead keeper."""

_RETIRE_SECONDS = 5.0
"""How long to wait for a keeper of another build to flush; it exits by itself before that."""

_PACKAGE_ROOT = Path(__file__).resolve().parents[2]
_KEEPER_MODULE = b"runtime.logs.keeper.server"
_PROGRAM = (
    "import sys; sys.path.append({root!r}); "
    "from runtime.logs.keeper.server import main; main(sys.argv[1:])"
)


@dataclass(frozen=True, slots=True)
class Fifos:
    """Paths of a container's standard streams; None where it has none."""

    stdin: str | None
    stdout: str | None
    stderr: str | None


@dataclass(frozen=True, slots=True)
class KeptOutput:
    """The parameters of a container's ``open``, which a new keeper gets again."""

    container_id: str
    fifos: Fifos
    tty: bool
    log_path: str | None
    line_limit: int

    @classmethod
    def of(cls, request: Mapping[str, Any]) -> KeptOutput:
        """Read the request with which an earlier server opened it."""
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
    """The keeper's state of one container."""

    open_streams: tuple[str, ...]
    """Streams that have not ended yet."""
    bytes_read: int
    bytes_lost: int
    """Bytes of log records that could not be written."""
    problem: str
    """Why the log file cannot be written at the moment; empty if it can."""

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> KeptContainer:
        """Read one container's entry in the keeper's answer."""
        return cls(tuple(facts["open"]), facts["read"], facts["lost"], facts["problem"])


@dataclass(frozen=True, slots=True)
class LogCounts:
    """What a keeper has read and written since it started, of all containers."""

    input_entries: int = 0
    """Lines, or beginnings of lines that never ended."""
    input_bytes: int = 0
    """Bytes read of outputs that have a log, line ends included."""
    output_entries: int = 0
    """Records that were written."""
    output_bytes: int = 0
    """Bytes of these records."""
    split_entries: int = 0
    """Further records of lines longer than the limit."""


class LogKeeper:
    """The keeper of one state directory.  Every method retries if the keeper dies meanwhile."""

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
        """Connect to the running keeper of ``state_dir``, or start one (about 20 ms)."""
        os.makedirs(state_dir, 0o700, exist_ok=True)
        keeper = cls(state_dir)
        await keeper._connected()
        keeper._restoring = watched("log keeper", keeper._replace_when_gone)
        return keeper

    async def aclose(self) -> None:
        """Disconnect; the keeper continues to drain its containers."""
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
        """Create the FIFOs, and open their read ends and the log file, before Tasks.Create.

        Idempotent for the same FIFOs.  With ``log_path`` None the output is drained and discarded.
        If the log file cannot be opened, the call fails, unless ``tolerant`` (for recovery of a
        running container): then the output is drained and counted as lost, and the file is retried.
        """
        output = KeptOutput(container_id, fifos, tty, log_path, line_limit)
        facts = await self._call("open", **output.request(), tolerant=tolerant)
        self._opened[container_id] = output
        return KeptContainer.from_facts(facts)

    async def reopen(self, container_id: str) -> None:
        """Continue in a new file at the same path, after the old one was renamed (rotation)."""
        await self._call("reopen", id=container_id)

    async def drained(self, container_id: str) -> None:
        """Wait until all output is in the log.  Call it after the task's exit, with a timeout.

        A process that outlives the container's init and holds the output open delays this.
        """
        await self._call("drained", within=None, id=container_id)

    async def close(self, container_id: str) -> None:
        """Drain what is left in the FIFOs, then remove the container.  Idempotent."""
        self._opened.pop(container_id, None)
        await self._call("close", id=container_id)

    async def list(self) -> dict[str, KeptContainer]:
        """Return every container of the keeper, including those of earlier servers."""
        facts = await self._call("list")
        return {name: KeptContainer.from_facts(of_one) for name, of_one in facts.items()}

    async def counts(self) -> LogCounts:
        """Return what was read and written since the keeper started."""
        return LogCounts(**await self._call("counts"))

    @contextlib.asynccontextmanager
    async def attach(
        self, container_id: str, *, stdout: bool = True, stderr: bool = True
    ) -> AsyncIterator[AsyncIterator[tuple[str, bytes]]]:
        """Yield (stream, bytes) of live output, from now until the container's output ends.

        A caller that falls more than 4 MiB behind gets Unavailable, so that an attached client
        never blocks the container.  The caller writes standard input to the container's FIFO
        itself.
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
        return f"see {self._state_dir}/log-keeper.log"

    async def _call(
        self, operation: str, *, within: float | None = ANSWER_SECONDS, **fields: Any
    ) -> dict[str, Any]:
        """Send a request; resend it to the next keeper if one dies. All requests are idempotent."""
        for _ in range(4):
            connection = await self._connected()
            try:
                return await connection.call(operation, within=within, **fields)
            except ConnectionError:
                continue
        raise Unavailable(f"the log keeper died repeatedly; see {self._state_dir}/log-keeper.log")

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
        """Replace a dead keeper at once, because containers block when their pipes are full."""
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
        raise Unavailable(f"the log keeper{self._silent_keeper()}; {self._hint}")

    def _silent_keeper(self) -> str:
        """Name the process that does not answer, and the remedy."""
        pids = _keepers(self._state_dir)
        if not pids:
            return " cannot be started"
        kill = " ".join(["kill -9", *map(str, pids)])
        return (
            f" does not answer; if that does not change, end it with `{kill}`: containers keep "
            "running, and a new keeper takes over their output"
        )

    async def _greet(self) -> Connection | None:
        """Return a connection to a keeper of this build with everything open; None means retry."""
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
        """Learn what an earlier server opened, to reopen it if the keeper dies."""
        held = await connection.call("list")
        learned = {name: KeptOutput.of(facts["request"]) for name, facts in held.items()}
        self._opened = learned | self._opened

    async def _open_again(self, connection: Connection) -> None:
        """Reopen everything; containers can be opened and closed meanwhile."""
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
        lock = files.open_private(Path(self._state_dir, "log-keeper.lock"))
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
        """Start a keeper in a new session; it inherits the lock and a listening socket."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._socket_path)
        with (
            socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener,
            open(
                files.open_private(Path(self._state_dir, "log-keeper.log"), os.O_APPEND), "ab"
            ) as complaints,
        ):
            listener.bind(self._socket_path)
            os.chmod(self._socket_path, 0o600)
            listener.listen(64)
            arguments = [str(listener.fileno()), str(lock), self._build, self._state_dir]
            program = _PROGRAM.format(root=str(_PACKAGE_ROOT))
            return subprocess.Popen(
                # without site (-S) and environment (-I): halves the interpreter's imports
                [sys.executable, "-I", "-S", "-c", program, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=complaints,
                pass_fds=(listener.fileno(), lock),
                start_new_session=True,
                cwd="/",
                env=_ENVIRONMENT | {key: os.environ[key] for key in ("TZ",) if key in os.environ},
            )


def _keepers(state_dir: str) -> list[int]:
    """Find the keepers of a state directory; the kernel names their starter as the lock's owner."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has exited
            words = path.read_bytes().split(b"\0")
            if _KEEPER_MODULE in b"\0".join(words) and os.fsencode(state_dir) in words:
                found.append(int(path.parent.name))
    return found


def build_of_keeper() -> str:
    """Return the identity of the keeper's build: a digest of its source."""
    here = Path(__file__).parent
    sources = (here / "format.py", *sorted(here.glob("keeper/*.py")))
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:12]
