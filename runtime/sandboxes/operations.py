"""The operations on sandboxes, called by the generated handlers with objects looked up."""

from __future__ import annotations

import time

from generated.cri import api_pb2
from generated.plans import (
    RunPodSandboxPlan,
    SandboxStatusPlan,
    UpdatePodSandboxResourcesPlan,
)
from runtime.sandboxes import remove as sandbox_remove
from runtime.sandboxes import run as sandbox_run
from runtime.sandboxes import status as sandbox_status
from runtime.sandboxes import stop as sandbox_stop
from runtime.sandboxes import update as sandbox_update
from runtime.sandboxes.services import Services
from runtime.steps.shared_tasks import SharedTasks
from runtime.steps.times import timed
from runtime.store.objects import Sandbox
from runtime.transforms import facts


class Sandboxes:
    """Satisfies the generated ``SandboxOperations``."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self._stops = SharedTasks()

    async def run(self, plan: RunPodSandboxPlan) -> api_pb2.RunPodSandboxResponse:
        """Create a pod and start it."""
        began = time.monotonic()
        response = await sandbox_run.run(self.services, plan)
        sandbox = self.services.store.sandboxes.get(response.pod_sandbox_id)
        handler = sandbox.metadata.runtime_handler if sandbox else ""
        self.services.timer("sandbox_runtime_create", handler, time.monotonic() - began)
        return response

    async def stop(
        self, sandbox: Sandbox, request: api_pb2.StopPodSandboxRequest
    ) -> api_pb2.StopPodSandboxResponse:
        """Stop the pod; concurrent calls share the work, each with its own deadline."""
        with timed(self.services.timer, "sandbox_runtime_stop", sandbox.metadata.runtime_handler):
            await self._stop(sandbox)
        return api_pb2.StopPodSandboxResponse()

    async def remove(
        self, sandbox: Sandbox, request: api_pb2.RemovePodSandboxRequest
    ) -> api_pb2.RemovePodSandboxResponse:
        """Stop the pod if necessary, and delete everything of it."""
        with timed(self.services.timer, "sandbox_remove", sandbox.metadata.runtime_handler):
            await self._stop(sandbox)
            await sandbox_remove.remove(self.services, sandbox)
        return api_pb2.RemovePodSandboxResponse()

    async def status(
        self, sandbox: Sandbox, plan: SandboxStatusPlan
    ) -> api_pb2.PodSandboxStatusResponse:
        """The status of the pod."""
        return await sandbox_status.status(self.services, sandbox, plan)

    async def list(self, request: api_pb2.ListPodSandboxRequest) -> api_pb2.ListPodSandboxResponse:
        """The pods that pass the filter."""
        return sandbox_status.list_sandboxes(self.services.store, request)

    async def update_resources(
        self, sandbox: Sandbox, plan: UpdatePodSandboxResourcesPlan
    ) -> api_pb2.UpdatePodSandboxResourcesResponse:
        """Save the pod's new resources."""
        return await sandbox_update.update(self.services, sandbox, plan)

    def reachable(self, sandbox: facts.Sandbox) -> facts.Sandbox:
        """The sandbox without addresses that it does not have any more."""
        return sandbox_status.reachable(sandbox)

    async def _stop(self, sandbox: Sandbox) -> None:
        await self._stops.run(sandbox.id, lambda: sandbox_stop.stop(self.services, sandbox))
