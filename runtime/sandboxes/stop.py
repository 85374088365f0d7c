"""StopPodSandbox: end every process of the pod and give its network back.

The containers, the pause task, the network and the mounts are ended beside each other: CNI DEL,
half of the time of a stop, is over when the processes are. Every part may be repeated and does
nothing the second time, so that a stop that failed or was given up is simply called again. Whatever
one part says, the others are tried.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any, Final

import structlog
from grpc import aio

from generated.cri import api_pb2
from generated.lifecycle import ContainerState, SandboxEvent, SandboxState
from runtime.errors import Unavailable, from_rpc
from runtime.linux import netns
from runtime.linux.directories import unmount
from runtime.sandboxes.services import Services
from runtime.steps.times import StepTimes
from runtime.store.objects import Container, Sandbox
from runtime.tasks.exits import kill_task, task

log = structlog.get_logger(__name__)


_END_LIMIT: Final = 120.0
"""Seconds that a pod's processes have to end after SIGKILL: as long as the kubelet waits."""

_STOPPABLE: Final = frozenset(
    {ContainerState.STARTING, ContainerState.RUNNING, ContainerState.UNKNOWN}
)


async def stop(services: Services, sandbox: Sandbox) -> None:
    """Return when nothing of the pod runs and its network is given back.

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
        timed("shm", _unmount_shm(sandbox)),
        return_exceptions=True,
    )
    for failure in filter(None, results):
        raise _explained(failure, sandbox)
    if sandbox.state is SandboxState.REMOVING:
        # a RemovePodSandbox that came meanwhile found the pod stopped as well
        return
    sandbox.fire(SandboxEvent.STOPPED, pid=0)
    try:
        # A creation or start that was under way while the pod was READY has put its container in
        # and mounted its images by now.
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
    """End every container of the pod at once."""
    await asyncio.gather(*(_stop_container(services, item) for item in sandbox.containers))


async def _stop_container(services: Services, container: Container) -> None:
    """SIGKILL, without a grace: the kubelet has given it before it stops the pod."""
    if container.state in _STOPPABLE:
        request = api_pb2.StopContainerRequest(container_id=container.id, timeout=0)
        await services.containers.stop(container, request)


async def _stop_pause(services: Services, sandbox: Sandbox) -> None:
    """End the pause task and wait until its end is dealt with."""
    if sandbox.state is SandboxState.UNKNOWN and await task(services.containerd, sandbox.id):
        # A task that did not answer at recovery is asked again, but its end is not waited for.
        services.exits.follow_sandbox(sandbox)
    elif sandbox.state is not SandboxState.READY:
        return
    await kill_task(services.containerd, sandbox.id, signal.SIGKILL)
    try:
        async with asyncio.timeout(_END_LIMIT):
            await sandbox.exited.wait()
    except TimeoutError as error:
        raise Unavailable(
            f"the processes of pod {sandbox.id} did not end within {_END_LIMIT:.0f} s of SIGKILL; "
            "one of them may hang in a mount that does not answer; the stop may be repeated"
        ) from error


async def _unmount_shm(sandbox: Sandbox) -> None:
    """Detach the pod's /dev/shm; processes that are about to end keep theirs until then.

    The kernel takes its time for an unmount, 20 ms and more, so it comes beside the rest.
    """
    if sandbox.files.shm.startswith(sandbox.files.state_dir):
        await unmount(sandbox.files.shm)


async def _tear_network_down(services: Services, sandbox: Sandbox) -> None:
    """CNI DEL, then the namespace; once both have gone through there is nothing to repeat.

    A namespace that is gone (a reboot, an earlier try) leaves DEL to free the addresses alone. When
    ADD never came to an end, a failing DEL does not keep the pod.
    """
    path = sandbox.metadata.netns_path
    if not path or sandbox.network_is_down:
        return
    await services.network.delete(
        sandbox.id,
        path,
        sandbox.metadata.config,
        had_result=sandbox.metadata.cni_result is not None,
    )
    await netns.remove(path)
    sandbox.network_is_down = True
