"""Commands that an earlier server left running; handled as if their clients had disconnected.

A command of ExecSync that has a timeout is killed when its time is over.

A shim holds both ends of a command's FIFOs. Without a reader, a command that fills the pipe would
block until its container ends. A command that reads its input would wait just as long, because its
input never ends. And nothing would tell the shim to delete either.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog
from grpc import StatusCode, aio

from generated.containerd import task_types_pb2, tasks_pb2
from runtime.containerd.client import Containerd
from runtime.containerd.deletions import is_not_found
from runtime.containers.services import Services
from runtime.linux.pipes import PipeReader
from runtime.store.objects import Container
from runtime.tasks.calls import ALIVE
from runtime.tasks.command_calls import CommandCalls

log = structlog.get_logger(__name__)

_OUTPUTS: Final = ("stdout", "stderr")
_PAUSE: Final = 1.0
"""Seconds before a query is repeated if containerd went away."""


@dataclass(frozen=True, slots=True)
class Left:
    """A command, known by the FIFOs that are left of it."""

    exec_id: str
    fifos: dict[str, Path]
    """By stream; a terminal has no stderr."""
    on_node: bool = False
    """Whether its PID is one of this node's (`Services.runs_on_node`)."""

    @property
    def seconds_left(self) -> float | None:
        """Seconds until its timeout, negative if that has passed; None without a timeout.

        The exec ID ends with the deadline, in seconds since boot (`runtime.containers.exec`).
        """
        deadline = self.exec_id.partition(".")[2]
        if not deadline.isdecimal():
            return None
        return int(deadline) - time.clock_gettime(time.CLOCK_BOOTTIME)


def found(services: Services, container: Container) -> list[Left]:
    """The commands left in a container. Call this before serving, because calls create new ones."""
    directory = services.store.layout.container_state(container.id) / "exec"
    by_id: dict[str, dict[str, Path]] = {}
    for path in directory.iterdir() if directory.is_dir() else ():
        exec_id, _, stream = path.name.partition("-")
        by_id.setdefault(exec_id, {})[stream] = path
    on_node = services.runs_on_node(container) if by_id else False
    return [Left(exec_id, fifos, on_node) for exec_id, fifos in by_id.items()]


async def drain_to_end(containerd: Containerd, container: Container, left: Left) -> None:
    """Drop the command's output until it ends, then delete the command.

    A terminal is hung up; any other input is closed. If cancelled, all is left to the next server.
    """
    readers = [PipeReader(left.fifos[stream]) for stream in _OUTPUTS if stream in left.fifos]
    for reader in readers:
        reader.writer_is_there()  # held by the shim if the command was started and still runs
    dropping = [asyncio.create_task(_drop(reader)) for reader in readers]
    calls = CommandCalls(containerd, container.id, left.exec_id)
    try:
        while not await _has_ended(calls, left):  # noqa: ASYNC110  of a daemon
            await asyncio.sleep(_PAUSE)
    finally:
        for task in dropping:
            task.cancel()
        await asyncio.gather(*dropping, return_exceptions=True)
        for reader in readers:
            reader.close()
    for path in left.fifos.values():
        path.unlink(missing_ok=True)
    log.info("a command of an earlier server exited", container=container.id, command=left.exec_id)


async def _drop(reader: PipeReader) -> None:
    while await reader.read():
        pass


async def _has_ended(calls: CommandCalls, left: Left) -> bool:
    """True once the shim has deleted the command; False to ask again later."""
    try:
        request = tasks_pb2.GetRequest(container_id=calls.container_id, exec_id=calls.exec_id)
        process = (await calls.containerd.tasks.Get(request)).process
        if process.status in ALIVE:
            with _may_not_exist():
                await _as_if_left(calls, left)
            await _exited(calls, left, process.pid if left.on_node else 0)
        elif process.status == task_types_pb2.UNKNOWN:  # the shim did not respond
            return False
        await calls.delete()
    except aio.AioRpcError as error:
        if is_not_found(error):
            return True
        if error.code() in (StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED):
            return False
        log.warning(
            "could not delete a command; it may be left behind",
            container=calls.container_id,
            error=error.details(),
        )
    return True


async def _exited(calls: CommandCalls, left: Left, pid: int) -> None:
    """Return when the command has exited; after its timeout it is killed, with its descendants."""
    try:
        async with asyncio.timeout(left.seconds_left):
            await calls.wait()
    except TimeoutError:
        log.info("killing a command after its timeout", container=calls.container_id)
        with _may_not_exist():
            await calls.kill(pid)
        await calls.wait()


async def _as_if_left(calls: CommandCalls, left: Left) -> None:
    """Hang up or close the input of the command."""
    if "stderr" not in left.fifos:
        await calls.hang_up()
    elif "stdin" in left.fifos:
        await calls.close_input()


@contextlib.contextmanager
def _may_not_exist() -> Iterator[None]:
    try:
        yield
    except aio.AioRpcError as error:
        if not is_not_found(error):
            raise
