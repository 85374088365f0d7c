"""A command that runs in a container while a client talks to it.

Nothing is left of a command once `Command` is closed: its process and FIFOs are deleted. A client
that disconnects does not end the command; its output must then be read and dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog
from grpc import aio

from generated.containerd import tasks_pb2
from runtime.containerd.deletions import is_not_found
from runtime.containers.exec import EXHAUSTED
from runtime.containers.services import Services
from runtime.errors import ResourceExhausted, Unavailable, Unknown, from_rpc
from runtime.linux.pipes import PipeReader, PipeWriter
from runtime.steps.background import in_background
from runtime.tasks.command_calls import CommandCalls

if TYPE_CHECKING:
    from runtime.containerd.client import Containerd
    from runtime.store.objects import Container

log = structlog.get_logger(__name__)

KILLED: Final = 128 + signal.SIGKILL
"""The exit code of a command whose container exited before containerd reported the command's
own."""

_INPUT_LIMIT: Final = 5.0
"""Seconds for a shim to open the input of a command that it has started."""

_AFTER_CONTAINER: Final = 2.0
"""Seconds for containerd to report the exit of a command that ended with its container."""


@dataclass(frozen=True, slots=True)
class Streams:
    """Which streams a command has; it always has stdout."""

    stdin: bool
    tty: bool


class Command:
    """A command that containerd knows; it runs from `start` on. Created by `prepared`."""

    def __init__(self, services: Services, container: Container) -> None:
        self._services = services
        self._container = container
        self._id = secrets.token_hex(16)
        self._calls = CommandCalls(services.containerd, container.id, self._id)
        self._directory = services.store.layout.container_state(container.id) / "exec"
        self._made: list[Path] = []
        self._input = ""
        self._wait: asyncio.Task[int] | None = None
        self.stdin: PipeWriter | None = None
        self.stdout: PipeReader | None = None
        self.stderr: PipeReader | None = None

    async def prepare(self, cmd: list[str], streams: Streams) -> None:
        """Create the FIFOs, and the process in the shim; if that fails, nothing is left of it.
        Raises CriError."""
        with self._none_left():
            process = await self._services.specs.process(
                self._container.id, cmd, terminal=streams.tty
            )
            self._input, stdout, stderr = self._make_fifos(streams)
            await self._services.containerd.tasks.Exec(
                tasks_pb2.ExecProcessRequest(
                    container_id=self._container.id,
                    exec_id=self._id,
                    stdin=self._input,
                    stdout=stdout,
                    stderr=stderr,
                    terminal=streams.tty,
                    spec=process,
                )
            )

    async def start(self) -> None:
        """Run the command, when it is its pod's turn; if that fails, nothing is left of it. Raises
        CriError."""
        with self._none_left():
            self._wait = asyncio.create_task(self._calls.wait(), name=f"exec {self._id}")
            async with self._services.starting(self._container):
                await self._calls.start()
            if self._input:
                self.stdin = await self._opened_input(self._input)
        for reader in (self.stdout, self.stderr):
            if reader is not None:
                reader.writer_is_there()

    @contextlib.contextmanager
    def _none_left(self) -> Iterator[None]:
        """Delete what exists of the command if the block fails."""
        try:
            yield
        except BaseException as error:
            in_background(self._clean_up(kill=self._wait is not None))
            if isinstance(error, aio.AioRpcError):
                raise from_rpc(
                    error, f"run the command in container {self._container.id}"
                ) from error
            raise

    async def wait(self) -> int:
        """The exit code; `KILLED` if the container exited and containerd does not report it."""
        assert self._wait is not None
        container = asyncio.ensure_future(self._container.exited.wait())
        try:
            await asyncio.wait({self._wait, container}, return_when=asyncio.FIRST_COMPLETED)
            if not self._wait.done():
                # a process in the PID namespace of the host or the pod outlives its container
                await self._kill()
                await asyncio.wait({self._wait}, timeout=_AFTER_CONTAINER)
            return self._wait.result() if self._wait.done() else KILLED
        except aio.AioRpcError as error:
            if is_not_found(error) and self._container.exited.is_set():
                return KILLED
            raise from_rpc(error, f"wait for a command in {self._container.id}") from error
        finally:
            container.cancel()

    async def end_input(self) -> None:
        """Close the command's input. May be called again."""
        if self.stdin is None:
            return
        self.stdin.close()
        try:
            await self._calls.close_input()
        except aio.AioRpcError as error:
            log.debug("input not closed", container=self._container.id, error=error.details())

    async def resize(self, width: int, height: int) -> None:
        """Resize the terminal, in columns and rows."""
        await resize(self._services.containerd, self._container.id, width, height, exec_id=self._id)

    async def hang_up(self) -> None:
        """Hang up, as a terminal does when its user leaves; ignored if it has exited."""
        with self._logged_only():
            await self._calls.hang_up()

    def close(self) -> None:
        """Delete the process, killing it if it still runs, and remove the FIFOs."""
        in_background(self._clean_up(kill=self._wait is not None and not self._wait.done()))

    def leave(self) -> None:
        """Stop watching the command without ending it: it outlives this server."""
        for pipe in (self.stdin, self.stdout, self.stderr):
            if pipe is not None:
                pipe.close()
        if self._wait is not None:
            self._wait.cancel()

    def _make_fifos(self, streams: Streams) -> tuple[str, str, str]:
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Without a terminal the shim opens both outputs, even if the client wants only one.
            stdin = self._fifo("stdin", streams.stdin)
            stdout = self._fifo("stdout", True)
            stderr = self._fifo("stderr", not streams.tty)
            self.stdout = PipeReader(stdout)
            if stderr:
                self.stderr = PipeReader(stderr)
        except OSError as error:
            kind = ResourceExhausted if error.errno in EXHAUSTED else Unknown
            raise kind(
                f"cannot create the pipes of a command in {self._directory}: {error.strerror}"
            ) from error
        return stdin, stdout, stderr

    async def _opened_input(self, path: str) -> PipeWriter | None:
        """The command's input; None if the command exited before its input was opened."""
        assert self._wait is not None
        opening = asyncio.create_task(PipeWriter.opened(path, _INPUT_LIMIT))
        try:
            await asyncio.wait({opening, self._wait}, return_when=asyncio.FIRST_COMPLETED)
            return opening.result() if opening.done() else None
        except OSError as error:
            raise Unavailable(
                f"the shim did not open the input of a command in container {self._container.id} "
                f"within {_INPUT_LIMIT:.0f} s: {error.strerror}"
            ) from error
        finally:
            opening.cancel()

    def _fifo(self, stream: str, wanted: bool) -> str:
        if not wanted:
            return ""
        path = self._directory / f"{self._id}-{stream}"
        os.mkfifo(path, 0o600)
        self._made.append(path)
        return str(path)

    async def _kill(self) -> None:
        with self._logged_only():
            await self._calls.send(signal.SIGKILL)

    @contextlib.contextmanager
    def _logged_only(self) -> Iterator[None]:
        try:
            yield
        except aio.AioRpcError as error:
            log.debug(
                "could not signal a command", container=self._container.id, error=error.details()
            )

    async def _clean_up(self, kill: bool) -> None:
        if kill:
            await self._kill()
            if self._wait is not None:
                await asyncio.wait({self._wait}, timeout=_AFTER_CONTAINER)
        self.leave()
        for path in self._made:
            path.unlink(missing_ok=True)
        await self._calls.delete_or_log()


async def prepared(
    services: Services, container: Container, cmd: list[str], streams: Streams
) -> Command:
    """A command in a container, ready to start. Raises CriError."""
    command = Command(services, container)
    await command.prepare(cmd, streams)
    return command


async def resize(
    containerd: Containerd, container_id: str, width: int, height: int, *, exec_id: str = ""
) -> None:
    """Resize the terminal of a container or a command; ignored if it has exited."""
    request = tasks_pb2.ResizePtyRequest(
        container_id=container_id, exec_id=exec_id, width=width, height=height
    )
    try:
        await containerd.tasks.ResizePty(request)
    except aio.AioRpcError as error:
        log.debug("terminal not resized", container=container_id, error=error.details())
