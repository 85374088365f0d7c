"""StopPodSandbox: end every process of the pod and release its network.

Containers, pause task, network and mounts are ended in parallel: CNI DEL, half of the time of a
stop, is done when the processes are. Every part is idempotent, so a stop that failed or was
interrupted can simply be called again. If one part fails, the others are still tried.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any, Final

import structlog
from grpc import aio

from generated.lifecycle import ContainerState, SandboxEvent, SandboxState
from generated.plans import StopContainerPlan
from runtime.errors import Unavailable, from_rpc
from runtime.linux import netns
from runtime.linux.directories import unmount
from runtime.sandboxes.services import Services
from runtime.steps.times import StepTimes
from runtime.store.objects import Container, Sandbox
from runtime.tasks.calls import kill_task, task

log = structlog.get_logger(__name__)


_END_LIMIT: Final = 120.0
"""Seconds for a pod's processes to exit after SIGKILL: as long as the kubelet waits."""

_STOPPABLE: Final = frozenset(
    {ContainerState.STARTING, ContainerState.RUNNING, ContainerState.UNKNOWN}
)


async def stop(services: Services, sandbox: Sandbox) -> None:
    """Return when nothing of the pod runs and its network is released.

    Raises the first failure among the parts, after all of them have been tried.
    """
    times = StepTimes()

    async def timed(name: str, part: Coroutine[Any, Any, None]) -> None:
        with times.step(name):
            await part

    results = await asyncio.gather(
        timed("containers", _stop_containers(services, sandbox)),
        timed("pause", _stop_pause(services, sandbox)),
        timed("network", _tear_network_down(services, sandbox)),
        timed("mounts", _unmount_files(sandbox)),
        return_exceptions=True,
    )
    for failure in filter(None, results):
        raise _explained(failure, sandbox)
    if sandbox.state is SandboxState.REMOVING:
        # a concurrent RemovePodSandbox found the pod stopped as well
        return
    sandbox.fire(SandboxEvent.STOPPED, pid=0)
    try:
        # A creation or start that was running while the pod was READY has added its container and
        # mounted its images by now.
        await _stop_containers(services, sandbox)
        await services.containers.release_images(sandbox)
    except aio.AioRpcError as error:
        raise _explained(error, sandbox) from error
    log.debug("sandbox stop steps", sandbox=sandbox.id, **times.spans())


def _explained(failure: BaseException, sandbox: Sandbox) -> BaseException:
    if not isinstance(failure, aio.AioRpcError):
        return failure
    explained = from_rpc(failure, f"stop sandbox {sandbox.id}")
    explained.__cause__ = failure
    return explained


async def _stop_containers(services: Services, sandbox: Sandbox) -> None:
    """End all containers of the pod in parallel."""
    await asyncio.gather(*(_stop_container(services, item) for item in sandbox.containers))


async def _stop_container(services: Services, container: Container) -> None:
    """SIGKILL without a grace period: the kubelet grants it before it stops the pod."""
    if container.state in _STOPPABLE:
        await services.containers.stop(container, StopContainerPlan(grace=0))


async def _stop_pause(services: Services, sandbox: Sandbox) -> None:
    """End the pause task and wait until its exit is handled."""
    if sandbox.state is SandboxState.UNKNOWN and await task(services.containerd, sandbox.id):
        # Recovery only queries a task that did not answer; from here on its exit is handled.
        services.exits.follow_sandbox(sandbox)
    elif sandbox.state is not SandboxState.READY:
        return
    await kill_task(services.containerd, sandbox.id, signal.SIGKILL)
    try:
        async with asyncio.timeout(_END_LIMIT):
            await sandbox.exited.wait()
    except TimeoutError as error:
        raise Unavailable(
            f"the processes of pod {sandbox.id} did not exit within {_END_LIMIT:.0f} s of SIGKILL; "
            "one of them may hang on a mount whose server does not respond; stop the pod again"
        ) from error


async def _unmount_files(sandbox: Sandbox) -> None:
    """Detach the pod's /dev/shm and the pin of its user namespace; processes that are about to
    exit keep theirs until then.

    An unmount takes the kernel 20 ms and more, so it runs in parallel with the rest.
    """
    files = sandbox.files
    if files.userns or files.shm.startswith(files.state_dir):
        await unmount(files.state_dir)


async def _tear_network_down(services: Services, sandbox: Sandbox) -> None:
    """CNI DEL, then delete the namespace; after both have succeeded nothing is repeated.

    If the namespace is gone (a reboot, an earlier attempt), DEL only frees the addresses. If ADD
    never completed, a failing DEL does not block the stop.
    """
    path = sandbox.metadata.netns_path
    if not path or sandbox.network_is_down:
        return
    await services.network.delete(
        sandbox.id,
        path,
        sandbox.metadata.config,
        had_result=sandbox.metadata.cni_result is not None,
        handler=sandbox.metadata.runtime_handler,
    )
    await netns.remove(path)
    sandbox.network_is_down = True
