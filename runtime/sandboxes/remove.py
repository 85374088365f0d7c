"""RemovePodSandbox: delete everything of the pod here, in containerd and in the kernel."""

from __future__ import annotations

import structlog
from grpc import aio

from generated.cri import api_pb2
from generated.lifecycle import ContainerState, SandboxEvent
from runtime.containerd.deletions import delete_container, delete_lease, remove_snapshot
from runtime.errors import from_rpc
from runtime.linux.directories import remove_tree
from runtime.sandboxes.services import Services
from runtime.steps.parallel import all_finished
from runtime.steps.times import StepTimes
from runtime.store.objects import Container, Sandbox
from runtime.tasks import dead_shim, shared_shim, shims
from runtime.tasks.calls import delete_task

log = structlog.get_logger(__name__)


async def remove(services: Services, sandbox: Sandbox) -> None:
    """Remove what is left of a pod that was stopped, just now or earlier.

    The pause container's record is deleted last: if the removal fails or the server crashes before,
    the pod is still listed, and this can be called again.
    """
    sandbox.fire(SandboxEvent.REMOVE)
    times = StepTimes()
    try:
        with times.step("parts"):
            await _remove_parts(services, sandbox)
        with times.step("record"):
            await _remove_record(services, sandbox)
    except BaseException as error:
        sandbox.fire(SandboxEvent.REMOVE_FAILED)
        if isinstance(error, aio.AioRpcError):
            raise from_rpc(error, f"remove sandbox {sandbox.id}") from error
        raise
    sandbox.fire(SandboxEvent.REMOVED)
    log.debug("sandbox remove steps", sandbox=sandbox.id, **times.spans())


async def _remove_parts(services: Services, sandbox: Sandbox) -> None:
    # Before the pause task, whose deletion ends the shim of all of them.
    await all_finished(*(_remove_container(services, item) for item in sandbox.containers))
    await all_finished(
        _end_task(services, sandbox),
        delete_lease(services.containerd, sandbox.id),
        shared_shim.withdraw(services.containerd, sandbox.id),
        remove_tree(sandbox.files.state_dir),
        remove_tree(sandbox.files.root_dir),
    )


async def _end_task(services: Services, sandbox: Sandbox) -> None:
    """Delete the pause task, and kill a shim that still runs without a task.

    An interrupted creation leaves such a shim: it holds a task that containerd does not know, so it
    did not exit with the last task that containerd knew.
    """
    containerd = services.containerd
    handler = services.handlers.get(sandbox.metadata.runtime_handler)
    deleted = await delete_task(containerd, sandbox.id)
    if deleted is None and dead_shim.has_state(containerd.namespace, sandbox.id, handler):
        await dead_shim.clean_up(containerd, sandbox.id)
    if shims.may_run(containerd, sandbox.id):
        await shims.end(containerd, sandbox.id)


async def _remove_container(services: Services, container: Container) -> None:
    if container.state is not ContainerState.REMOVING:
        request = api_pb2.RemoveContainerRequest(container_id=container.id)
        await services.containers.remove(container, request)


async def _remove_record(services: Services, sandbox: Sandbox) -> None:
    containerd = services.containerd
    snapshotter = services.handlers.snapshotter(
        sandbox.metadata.runtime_handler, sandbox.snapshotter
    )
    # An unreferenced snapshot is garbage-collected, so these may be deleted in any order.
    await all_finished(
        remove_snapshot(containerd, snapshotter, sandbox.id),
        delete_container(containerd, sandbox.id),
    )
