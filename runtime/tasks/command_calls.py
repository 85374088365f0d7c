"""Calls about one command in a container: a further process of its task, with an exec ID."""

from __future__ import annotations

import signal
from dataclasses import dataclass

import structlog
from grpc import aio

from generated.containerd import tasks_pb2
from runtime.containerd.client import Containerd
from runtime.containerd.deletions import is_not_found
from runtime.linux import signals
from runtime.steps import threads

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class CommandCalls:
    """The process of a command. Each call raises AioRpcError."""

    containerd: Containerd
    container_id: str
    exec_id: str

    async def start(self) -> int:
        """Run the process that Exec has created; returns its PID, as the shim reports it."""
        answer = await self.containerd.tasks.Start(
            tasks_pb2.StartRequest(container_id=self.container_id, exec_id=self.exec_id)
        )
        return int(answer.pid)

    async def wait(self) -> int:
        """Return the exit code when the process has exited."""
        answer = await self.containerd.tasks.Wait(
            tasks_pb2.WaitRequest(container_id=self.container_id, exec_id=self.exec_id)
        )
        return int(answer.exit_status)

    async def send(self, number: signal.Signals) -> None:
        """Send a signal to the process."""
        await self.containerd.tasks.Kill(
            tasks_pb2.KillRequest(
                container_id=self.container_id, exec_id=self.exec_id, signal=number
            )
        )

    async def kill(self, pid: int) -> None:
        """Kill the process, and what descends from it if ``pid`` is its PID on this node."""
        if not await threads.CGROUPS.run(signals.kill_tree, pid, self.container_id):
            await self.send(signal.SIGKILL)

    async def hang_up(self) -> None:
        """Hang up, as a terminal does when its user leaves: SIGHUP, and SIGCONT for a stopped
        process."""
        await self.send(signal.SIGHUP)
        await self.send(signal.SIGCONT)

    async def close_input(self) -> None:
        """Let the shim close the write end of the input that it holds itself."""
        await self.containerd.tasks.CloseIO(
            tasks_pb2.CloseIORequest(
                container_id=self.container_id, exec_id=self.exec_id, stdin=True
            )
        )

    async def delete(self) -> None:
        """Let the shim delete the exited process; succeeds if it does not exist."""
        try:
            await self.containerd.tasks.DeleteProcess(
                tasks_pb2.DeleteProcessRequest(container_id=self.container_id, exec_id=self.exec_id)
            )
        except aio.AioRpcError as error:
            if not is_not_found(error):
                raise

    async def delete_or_log(self) -> None:
        """As ``delete``, but a failure is only logged."""
        try:
            await self.delete()
        except aio.AioRpcError as error:
            log.warning(
                "could not delete a command; it may be left behind",
                container=self.container_id,
                error=error.details(),
            )
