"""A running container as an attached client uses it: its input, live output and terminal."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Final
from weakref import WeakSet

import structlog
from grpc import aio

from generated.containerd import tasks_pb2
from generated.plans import plan_container
from runtime.containers.command import resize
from runtime.errors import NotFound, from_rpc
from runtime.linux.pipes import PipeWriter
from runtime.tasks.calls import task

if TYPE_CHECKING:
    from runtime.containers.services import Services
    from runtime.store.objects import Container

log = structlog.get_logger(__name__)

_INPUT_LIMIT: Final = 1.0
"""Seconds for a shim to open the input of a container that has just started."""


class Attachment:
    """One client of a container's streams."""

    def __init__(self, services: Services, container: Container) -> None:
        self._services = services
        self._container = container
        self._plan = plan_container(container.metadata.config)
        self.tty = self._plan.terminal
        self.closes_input = self._plan.closes_input
        """Whether the container's input ends with this client's input (``stdin_once``)."""

    async def open_input(self) -> PipeWriter | None:
        """Open the container's input; None if it was created without one, or if no process reads
        it any more. Raises CriError.

        The path comes from the task, so that a container created by another runtime can be attached
        to as well.
        """
        if not self._plan.open_stdin:
            return None
        identity = self._container.id
        try:
            process = await task(self._services.containerd, identity)
        except aio.AioRpcError as error:
            raise from_rpc(error, f"attach to container {identity}") from error
        if process is None:
            raise NotFound(f"container {identity} has exited")
        if not process.stdin:
            return None
        try:
            opened = await PipeWriter.opened(process.stdin, _INPUT_LIMIT)
        except OSError as error:
            log.info("input is not read any more", container=identity, error=error.strerror)
            return None
        self._services.inputs.setdefault(self._container, WeakSet()).add(opened)
        return opened

    def output(
        self, *, stdout: bool, stderr: bool
    ) -> AbstractAsyncContextManager[AsyncIterator[tuple[str, bytes]]]:
        """Live output by stream, from now until the container's output ends."""
        return self._services.log_keeper.attach(self._container.id, stdout=stdout, stderr=stderr)

    async def end_input(self) -> None:
        """Close the container's input, also for the other clients that have it open."""
        for opened in self._services.inputs.pop(self._container, ()):
            opened.close()
        request = tasks_pb2.CloseIORequest(container_id=self._container.id, stdin=True)
        with contextlib.suppress(aio.AioRpcError):
            await self._services.containerd.tasks.CloseIO(request)

    async def resize(self, width: int, height: int) -> None:
        """Resize the container's terminal, in columns and rows."""
        await resize(self._services.containerd, self._container.id, width, height)
