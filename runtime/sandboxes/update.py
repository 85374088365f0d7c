"""UpdatePodSandboxResources: keep what the kubelet has changed in the pod's cgroup.

The kubelet calls this after it has resized a pod in place. No cgroup is changed here. Runtimes that
start a virtual machine would resize it; the pause container has nothing to resize.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from grpc import aio

from generated.containerd import containers_pb2
from generated.cri import api_pb2
from generated.plans import UpdatePodSandboxResourcesPlan
from runtime.errors import from_rpc
from runtime.sandboxes.pause import save_metadata
from runtime.transforms import facts

if TYPE_CHECKING:
    from runtime.sandboxes.services import Services
    from runtime.store.objects import Sandbox


async def update(
    services: Services, sandbox: Sandbox, plan: UpdatePodSandboxResourcesPlan
) -> api_pb2.UpdatePodSandboxResourcesResponse:
    """Save the resources in the pod's record, where they survive restarts; then show them.

    Raises the error of containerd; then nothing has changed.
    """
    resources = facts.PodResources(plan.pod_overhead, plan.pod_resources)
    async with services.updates.setdefault(sandbox, asyncio.Lock()):
        try:
            answer = await services.containerd.containers.Get(
                containers_pb2.GetContainerRequest(id=sandbox.id)
            )
            metadata = replace(sandbox.metadata, resized=resources)
            await save_metadata(services.containerd, answer.container, metadata)
        except aio.AioRpcError as error:
            raise from_rpc(error, f"update the resources of sandbox {sandbox.id}") from error
        sandbox.resize(resources)
    return api_pb2.UpdatePodSandboxResourcesResponse()
