"""RemoveContainer: delete everything of a container.

Every step is idempotent, so a removal that failed or was interrupted can be repeated until it
succeeds.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

import grpc
from grpc import aio

from generated.cri import api_pb2
from generated.lifecycle import (
    CONTAINER_NOT_OBSERVED_EXIT_CODE,
    CONTAINER_NOT_OBSERVED_REASON,
    ContainerEvent,
)
from generated.plans import StopContainerPlan
from runtime.containerd.deletions import delete_container, remove_snapshot
from runtime.containers.stop import stop
from runtime.errors import Unavailable, from_rpc
from runtime.linux.directories import remove_tree
from runtime.steps.parallel import all_finished
from runtime.tasks import dead_shim
from runtime.tasks.calls import delete_task

if TYPE_CHECKING:
    from runtime.containers.services import Services
    from runtime.store.objects import Container


_START_LIMIT: Final = 60.0
"""Seconds to wait for a start that was given up and is being undone."""


async def remove(
    services: Services, container: Container, request: api_pb2.RemoveContainerRequest
) -> api_pb2.RemoveContainerResponse:
    """Kill the container if it runs, then remove task, record, snapshot, output and files."""
    await stop(services, container, StopContainerPlan(grace=0))
    await _start_over(container)
    await container.fire(ContainerEvent.REMOVE)
    try:
        await _remove(services, container)
    except aio.AioRpcError as error:
        await _half_removed(container)
        raise from_rpc(error, f"remove container {container.id}") from error
    except BaseException:
        await _half_removed(container)
        raise
    services.specs.forget(container.id)
    services.prepared.pop(container.id, None)
    await container.fire(ContainerEvent.REMOVED)
    return api_pb2.RemoveContainerResponse()


async def _half_removed(container: Container) -> None:
    """Show it as EXITED; without a known exit it must not look as if it had succeeded."""
    if container.status.finished_at:
        await container.fire(ContainerEvent.REMOVE_FAILED)
        return
    await container.fire(
        ContainerEvent.REMOVE_FAILED,
        finished_at=time.time_ns(),
        exit_code=CONTAINER_NOT_OBSERVED_EXIT_CODE,
        reason=CONTAINER_NOT_OBSERVED_REASON,
        message="it never ran, and its removal failed",
    )


async def _start_over(container: Container) -> None:
    """Wait for a start that a stop gave up: a task created later could not be ended."""
    try:
        async with asyncio.timeout(_START_LIMIT):
            await container.start_is_over.wait()
    except TimeoutError:
        raise Unavailable(
            f"the start of container {container.id} hangs in containerd; it reaches its "
            "deadline within minutes; then the container can be removed"
        ) from None


async def _remove(services: Services, container: Container) -> None:
    if not container.cleaned_up:
        await all_finished(_end_task(services, container), services.log_keeper.close(container.id))
    await all_finished(
        remove_record_and_snapshot(
            services,
            container.id,
            container.metadata.sandbox_id,
            services.snapshotter(container),
        ),
        remove_directories(services, container.id),
    )


async def _end_task(services: Services, container: Container) -> None:
    """Delete what is left of a task, even a running one."""
    containerd = services.containerd
    try:
        deleted = await delete_task(containerd, container.id)
    except aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.FAILED_PRECONDITION:
            raise
        # it runs: a start that failed half-way left it
        await services.exits.end(container.id)
        return
    handler = services.handler_of(container)
    if deleted is None and dead_shim.has_state(containerd.namespace, container.id, handler):
        await dead_shim.clean_up(containerd, container.id)


async def remove_record_and_snapshot(
    services: Services, container_id: str, sandbox_id: str, snapshotter: str
) -> None:
    """Delete the container's record and root file system; succeeds if they do not exist."""
    containerd = services.containerd
    # held by the pod's lease, which otherwise keeps the data of every container the pod ever had
    lease = containerd.with_lease(sandbox_id)
    await all_finished(
        remove_snapshot(containerd, snapshotter, container_id, lease=lease),
        delete_container(containerd, container_id),
    )


async def remove_directories(services: Services, container_id: str) -> None:
    """Remove the files of a container, including volumes."""
    layout = services.store.layout
    await all_finished(
        remove_tree(layout.container_state(container_id)),
        remove_tree(layout.container_root(container_id)),
    )
