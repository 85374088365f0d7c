"""The operations on containers, one file each; this class only connects them."""

from __future__ import annotations

from contextlib import AbstractContextManager

from generated.cri import api_pb2
from generated.oci import types
from generated.plans import (
    CheckpointContainerPlan,
    ContainerStatusPlan,
    CreateContainerPlan,
    ExecSyncPlan,
    StopContainerPlan,
)
from runtime.containers import checkpoint as container_checkpoint
from runtime.containers import command, image_volumes, update
from runtime.containers import create as container_create
from runtime.containers import exec as container_exec
from runtime.containers import remove as container_remove
from runtime.containers import start as container_start
from runtime.containers import status as container_status
from runtime.containers import stop as container_stop
from runtime.containers.attachment import Attachment
from runtime.containers.services import Services
from runtime.steps.times import timed
from runtime.store.objects import Container, Sandbox
from runtime.transforms import facts


class Containers:
    """The hand-written half of the container RPCs."""

    def __init__(self, services: Services) -> None:
        self.services = services

    async def create(
        self, sandbox: Sandbox, plan: CreateContainerPlan
    ) -> api_pb2.CreateContainerResponse:
        """CreateContainer."""
        with self._timed("container_create", sandbox.metadata.runtime_handler):
            return await container_create.create(self.services, sandbox, plan)

    async def start(
        self, container: Container, request: api_pb2.StartContainerRequest
    ) -> api_pb2.StartContainerResponse:
        """StartContainer."""
        with self._timed("container_start", container.runtime_handler):
            return await container_start.start(self.services, container, request)

    async def stop(
        self, container: Container, plan: StopContainerPlan
    ) -> api_pb2.StopContainerResponse:
        """StopContainer."""
        with self._timed("container_stop", container.runtime_handler):
            return await container_stop.stop(self.services, container, plan)

    async def remove(
        self, container: Container, request: api_pb2.RemoveContainerRequest
    ) -> api_pb2.RemoveContainerResponse:
        """RemoveContainer."""
        with self._timed("container_remove", container.runtime_handler):
            return await container_remove.remove(self.services, container, request)

    def _timed(self, operation: str, handler: str) -> AbstractContextManager[None]:
        return timed(self.services.timer, operation, handler)

    async def release_images(self, sandbox: Sandbox) -> None:
        """Unmount the images that containers of a stopped pod had as volumes."""
        await image_volumes.release(self.services, sandbox)

    async def prepare_command(
        self,
        container: Container,
        cmd: list[str],
        *,
        stdin: bool,
        tty: bool,
    ) -> command.Command:
        """A command for a streaming client, ready to start. Raises CriError."""
        streams = command.Streams(stdin=stdin, tty=tty)
        return await command.prepared(self.services, container, cmd, streams)

    def attachment(self, container: Container) -> Attachment:
        """The streams of the container, for an attached client."""
        return Attachment(self.services, container)

    async def list(self, request: api_pb2.ListContainersRequest) -> api_pb2.ListContainersResponse:
        """ListContainers."""
        return container_status.list_containers(self.services.store, request)

    async def status(
        self, container: Container, plan: ContainerStatusPlan
    ) -> api_pb2.ContainerStatusResponse:
        """ContainerStatus."""
        return await container_status.status(self.services, container, plan)

    async def shown(self, container: facts.Container) -> facts.ShownContainer:
        """The status of a container as it was. Raises Unavailable while containerd is away."""
        return await container_status.shown(self.services, container)

    async def spec(self, container: Container) -> types.Spec:
        """User and resources of the container's OCI spec. Raises CriError if containerd does not
        tell them."""
        return await self.services.specs.shown(container.id)

    async def update_resources(
        self, container: Container, request: api_pb2.UpdateContainerResourcesRequest
    ) -> api_pb2.UpdateContainerResourcesResponse:
        """UpdateContainerResources."""
        return await update.update(self.services, container, request)

    async def reopen_log(
        self, container: Container, request: api_pb2.ReopenContainerLogRequest
    ) -> api_pb2.ReopenContainerLogResponse:
        """ReopenContainerLog."""
        await self.services.log_keeper.reopen(container.id)
        return api_pb2.ReopenContainerLogResponse()

    async def checkpoint(
        self, container: Container, plan: CheckpointContainerPlan
    ) -> api_pb2.CheckpointContainerResponse:
        """CheckpointContainer."""
        with self._timed("container_checkpoint", container.runtime_handler):
            return await container_checkpoint.checkpoint(self.services, container, plan)

    async def exec_sync(self, container: Container, plan: ExecSyncPlan) -> api_pb2.ExecSyncResponse:
        """ExecSync."""
        return await container_exec.exec_sync(self.services, container, plan)
