"""ExecSync: run a command in a container and return its output.

Nothing of a command is left behind: whatever happens to the call, its process is killed, its record
in the shim deleted and its FIFOs removed, in tasks that a cancellation of the caller does not
affect.
"""

from __future__ import annotations

import asyncio
import errno
import secrets
import time
from collections.abc import Awaitable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog
from google.protobuf.any_pb2 import Any as AnyMessage
from grpc import aio

from generated.containerd import tasks_pb2
from generated.cri import api_pb2
from generated.plans import ExecSyncPlan
from generated.statuses import exec_sync_response
from runtime.containerd.limits import MAX_MESSAGE
from runtime.containers.exec_output import OutputPipe
from runtime.containers.services import Services
from runtime.errors import DeadlineExceeded, ResourceExhausted, Unavailable, Unknown, from_rpc
from runtime.readings import Outcome
from runtime.steps.background import in_background, to_the_end
from runtime.tasks.command_calls import CommandCalls

if TYPE_CHECKING:
    from runtime.store.objects import Container

log = structlog.get_logger(__name__)

MAX_OUTPUT = MAX_MESSAGE
"""Bytes kept of each stream; both together must fit into one CRI message."""

_ROOM_FOR_OUTPUT = MAX_MESSAGE - 64
"""Bytes of output in a response; the rest is for exit code, field tags and lengths."""

EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.ENOMEM)
"""Errors when creating a pipe that go away once other resources are released."""

_CLEANUP_LIMIT = 30.0
"""Seconds for killing and deleting a process."""


@dataclass(slots=True)
class _Exec:
    """One command in progress."""

    calls: CommandCalls
    stdout: OutputPipe
    stderr: OutputPipe
    on_node: bool
    """Whether the PID that the shim reports is one of this node's, not of a virtual machine's."""
    pid: int = 0
    """Of the process on this node; 0 if it has none, or was not started."""

    @property
    def drained(self) -> Awaitable[Any]:
        return asyncio.gather(self.stdout.ended, self.stderr.ended)

    async def create(self, process: AnyMessage) -> None:
        await self.calls.containerd.tasks.Exec(
            tasks_pb2.ExecProcessRequest(
                container_id=self.calls.container_id,
                exec_id=self.calls.exec_id,
                stdout=str(self.stdout.path),
                stderr=str(self.stderr.path),
                spec=process,
            )
        )

    async def run(self, starting: asyncio.Semaphore) -> int:
        """Start the process, when it is its pod's turn, and return its exit code."""
        wait = asyncio.create_task(self.calls.wait())
        try:
            async with starting:
                pid = await self.calls.start()
            self.pid = pid if self.on_node else 0
            self.stdout.started()
            self.stderr.started()
            return await wait
        finally:
            wait.cancel()

    async def kill(self) -> None:
        """Return when the process has exited; it may have exited already, or never started."""
        try:
            async with asyncio.timeout(_CLEANUP_LIMIT):
                await self.calls.kill(self.pid)
                await self.calls.wait()
        except (aio.AioRpcError, Unavailable, TimeoutError) as error:
            container = self.calls.container_id
            log.debug("could not kill a command", container=container, error=str(error))

    async def forget(self) -> None:
        """Let the shim delete an exited process, and remove the FIFOs.

        The shim first waits, for some seconds, for any other process that holds the output open.
        """
        self.stdout.close()
        self.stderr.close()
        await self.calls.delete_or_log()


async def exec_sync(
    services: Services, container: Container, plan: ExecSyncPlan
) -> api_pb2.ExecSyncResponse:
    """Run ``plan.command`` to its end.

    Raises DeadlineExceeded if it runs longer than ``plan.timeout`` seconds; it is then killed with
    all that descends from it, so that failed probes leave no processes behind. Raises Unknown if a
    process that the command left behind holds its output open for longer than the configuration
    allows, and ResourceExhausted if the server is out of file descriptors or its state directory is
    full.
    """
    exec_id = _new_id(plan.timeout)
    stdout, stderr = output_pipes(
        services.store.layout.container_state(container.id) / "exec", exec_id
    )
    calls = CommandCalls(services.containerd, container.id, exec_id)
    command = _Exec(calls, stdout, stderr, services.runs_on_node(container))
    try:
        exit_code = await _run(services, container, command, plan)
    except TimeoutError as error:
        raise DeadlineExceeded(
            f"the command, or a process that holds its output open, did not end within "
            f"{plan.timeout} s"
        ) from error
    except aio.AioRpcError as error:
        raise from_rpc(error, f"run a command in container {container.id}") from error
    kept = stdout.content[:_ROOM_FOR_OUTPUT]
    outcome = Outcome(kept, stderr.content[: _ROOM_FOR_OUTPUT - len(kept)], exit_code)
    return exec_sync_response.read(outcome=outcome)


def _new_id(timeout: int | None) -> str:
    """A new exec ID; with a timeout, it ends with the deadline.

    So the deadline outlives this server, at no cost (`runtime.containers.orphaned_commands`).
    """
    unique = secrets.token_hex(16)
    return (
        f"{unique}.{int(time.clock_gettime(time.CLOCK_BOOTTIME)) + timeout}" if timeout else unique
    )


async def _run(services: Services, container: Container, command: _Exec, plan: ExecSyncPlan) -> int:
    """The exit code, once all output was read. Nothing is left if this fails."""
    running = True
    try:
        async with asyncio.timeout(plan.timeout):
            process = await services.specs.process(command.calls.container_id, plan.command)
            await command.create(process)
            exit_code = await command.run(services.starting(container))
            running = False
            await _drain(command, services.config.drain_exec_sync_io_timeout)
    except BaseException:
        if running:
            await to_the_end(command.kill())
        raise
    finally:
        # the response need not wait until the shim has deleted an exited process
        in_background(command.forget())
    return exit_code


async def _drain(command: _Exec, limit: float) -> None:
    try:
        async with asyncio.timeout(limit or None):
            await command.drained
    except TimeoutError as error:
        raise Unknown(
            # tools look for this beginning, which is the built-in plugin's
            f"failed to drain exec process {command.calls.exec_id!r} io because io is still held"
            f" by other processes: the command exited, but {limit:g} s later a process that it left"
            " behind still has its output open (drain_exec_sync_io_timeout)"
        ) from error


def output_pipes(directory: Path, exec_id: str) -> tuple[OutputPipe, OutputPipe]:
    """The FIFOs for a command's stdout and stderr, both or neither.

    Raises ResourceExhausted and Unknown.
    """
    made: list[OutputPipe] = []
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for stream in ("stdout", "stderr"):
            made.append(OutputPipe(_fifo(directory, exec_id, stream), limit=MAX_OUTPUT))
    except OSError as error:
        for pipe in made:
            pipe.close()
        kind = ResourceExhausted if error.errno in EXHAUSTED else Unknown
        raise kind(
            f"cannot create the pipes for the output of a command in {directory}: {error.strerror}"
        ) from error
    stdout, stderr = made
    return stdout, stderr


def _fifo(directory: Path, exec_id: str, stream: str) -> Path:
    return directory / f"{exec_id}-{stream}"
