"""StopContainer: ask a container to exit, then kill it.

No lock is held while waiting, so any number of stops can run at the same time, each with its own
timeout: the first one sends the signal, the first to time out kills, and all return when the
container has exited. A caller that gives up only stops waiting.
"""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

import structlog
from grpc import aio

from generated.cri import api_pb2
from generated.lifecycle import ContainerEvent, ContainerState
from generated.plans import StopContainerPlan, plan_existing_container
from runtime.errors import from_rpc
from runtime.linux import signals as process_signal
from runtime.tasks.calls import kill_task

if TYPE_CHECKING:
    from runtime.containers.services import Services
    from runtime.store.objects import Container

log = structlog.get_logger(__name__)

_STOPPABLE = (ContainerState.RUNNING, ContainerState.UNKNOWN)

_START_PATIENCE = 2.0
"""Seconds that a stop waits for a running start; a longer one is considered hung."""


async def stop(
    services: Services, container: Container, plan: StopContainerPlan
) -> api_pb2.StopContainerResponse:
    """Return when the exit is handled: status saved, task deleted, output in the log."""
    if container.state is ContainerState.STARTING or container.state in _STOPPABLE:
        try:
            await _give_start_up(services, container)
            if container.state in _STOPPABLE:
                await _stop(services, container, plan.grace)
        except aio.AioRpcError as error:
            raise from_rpc(error, f"stop container {container.id}") from error
    return api_pb2.StopContainerResponse()


async def _give_start_up(services: Services, container: Container) -> None:
    """Wait briefly for a running start; then kill what it has created so far."""
    if await container.start_ended(_START_PATIENCE):
        return
    log.warning("start does not finish; killing the container", container=container.id)
    await kill_task(services.containerd, container.id, signal.SIGKILL)
    if container.state is ContainerState.STARTING:
        await container.fire(ContainerEvent.LOST)


async def _stop(services: Services, container: Container, grace: int) -> None:
    if container.state is ContainerState.UNKNOWN:
        # such a task has no follower yet; a task that is gone counts as exited with code 255
        services.exits.follow_container(container)
    if grace > 0 and await _ask(services, container, grace):
        return
    await _signal(services, container, signal.SIGKILL)
    await container.exited.wait()


async def _ask(services: Services, container: Container, grace: int) -> bool:
    """Send the stop signal, unless an earlier stop did, and wait; returns whether it exited."""
    try:
        async with asyncio.timeout(grace):
            if not container.stop_signal_sent:
                container.stop_signal_sent = True
                await _send(services, container)
            await container.exited.wait()
    except TimeoutError:
        return False
    return True


async def _send(services: Services, container: Container) -> None:
    try:
        plan = plan_existing_container(container.metadata.config, container=container.facts)
        await _signal(services, container, plan.stop_signal)
    except BaseException:
        # it may not have arrived: let the next stop send it again
        container.stop_signal_sent = False
        raise


async def _signal(services: Services, container: Container, number: int) -> None:
    direct = services.runs_on_node(container)
    if not (direct and process_signal.send(container.status.pid, container.id, number)):
        await kill_task(services.containerd, container.id, number)
