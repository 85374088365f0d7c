"""The operations on containers, one file each; this class only joins them with what they need."""

from __future__ import annotations

from collections.abc import Mapping

from generated.cri import api_pb2
from runtime import (
    container_create,
    container_exec,
    container_remove,
    container_start,
    container_status,
    container_stop,
    container_update,
)
from runtime.config import Config
from runtime.container_services import Images, LogKeeper, Services
from runtime.container_specs import Specs
from runtime.containerd import Containerd
from runtime.exits import Exits
from runtime.store import Container, Sandbox, Store
from runtime.transforms import facts


class Containers:
    """The hand-written half of the container RPCs."""

    def __init__(
        self,
        *,
        containerd: Containerd,
        store: Store,
        exits: Exits,
        images: Images,
        log_keeper: LogKeeper,
        host: facts.Host,
        handlers: Mapping[str, facts.Handler],
        config: Config,
    ) -> None:
        self._services = Services(
            containerd=containerd,
            store=store,
            exits=exits,
            images=images,
            log_keeper=log_keeper,
            host=host,
            handlers=handlers,
            config=config,
            specs=Specs(containerd),
        )

    async def create(
        self, sandbox: Sandbox, request: api_pb2.CreateContainerRequest
    ) -> api_pb2.CreateContainerResponse:
        """CreateContainer."""
        return await container_create.create(self._services, sandbox, request)

    async def start(
        self, container: Container, request: api_pb2.StartContainerRequest
    ) -> api_pb2.StartContainerResponse:
        """StartContainer."""
        return await container_start.start(self._services, container, request)

    async def stop(
        self, container: Container, request: api_pb2.StopContainerRequest
    ) -> api_pb2.StopContainerResponse:
        """StopContainer."""
        return await container_stop.stop(self._services, container, request)

    async def remove(
        self, container: Container, request: api_pb2.RemoveContainerRequest
    ) -> api_pb2.RemoveContainerResponse:
        """RemoveContainer."""
        return await container_remove.remove(self._services, container, request)

    async def list(self, request: api_pb2.ListContainersRequest) -> api_pb2.ListContainersResponse:
        """ListContainers."""
        return container_status.list_containers(self._services.store, request)

    async def status(
        self, container: Container, request: api_pb2.ContainerStatusRequest
    ) -> api_pb2.ContainerStatusResponse:
        """ContainerStatus."""
        return await container_status.status(self._services, container, request)

    async def update_resources(
        self, container: Container, request: api_pb2.UpdateContainerResourcesRequest
    ) -> api_pb2.UpdateContainerResourcesResponse:
        """UpdateContainerResources."""
        return await container_update.update(self._services, container, request)

    async def reopen_log(
        self, container: Container, request: api_pb2.ReopenContainerLogRequest
    ) -> api_pb2.ReopenContainerLogResponse:
        """ReopenContainerLog."""
        await self._services.log_keeper.reopen(container.id)
        return api_pb2.ReopenContainerLogResponse()

    async def exec_sync(
        self, container: Container, request: api_pb2.ExecSyncRequest
    ) -> api_pb2.ExecSyncResponse:
        """ExecSync."""
        return await container_exec.exec_sync(self._services, container, request)
