"""UpdateContainerResources: change the limits of a container, running or not.

The stored spec is changed by the same mapping entries that wrote it at creation, so that a
restarted task has the new limits too; then the cgroup is updated. If that fails, the old spec is
restored.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.field_mask_pb2 import FieldMask
from grpc import aio

from generated.containerd import containers_pb2, tasks_pb2
from generated.cri import api_pb2
from generated.lifecycle import ContainerState
from generated.oci import types, update_container_resources_request
from generated.statuses import container_resources
from runtime.containerd.values import oci_any, resources_any
from runtime.containers.specs import read_record
from runtime.errors import CriError, from_rpc
from runtime.steps.background import to_the_end
from runtime.transforms import facts
from runtime.transforms.resources import check_swap_limit, in_request

if TYPE_CHECKING:
    from runtime.containers.services import Services
    from runtime.store.objects import Container


async def update(
    services: Services, container: Container, request: api_pb2.UpdateContainerResourcesRequest
) -> api_pb2.UpdateContainerResourcesResponse:
    """Merge the given resources into the container's current ones; zero keeps the current value."""
    lock = services.updates.setdefault(container, asyncio.Lock())
    async with lock:
        container.must_stay()
        record = await read_record(services.containerd, container.id)
        spec = types.Spec.from_json(record.spec.value)
        apply(request, spec, host=services.host)
        try:
            await _write_spec(services, record, oci_any(spec))
            await _update_task(services, container, spec, record)
        except aio.AioRpcError as error:
            raise from_rpc(error, f"update the resources of container {container.id}") from error
        # saved first: if a removal has begun meanwhile this fails, and nothing is changed
        await container.amend(resources=container_resources.read(spec=spec))
        services.specs.remember(container.id, spec)
    return api_pb2.UpdateContainerResourcesResponse()


def apply(
    request: api_pb2.UpdateContainerResourcesRequest, spec: types.Spec, *, host: facts.Host
) -> None:
    """Change a container's spec into that of one created with the new limits.

    Raises CriError, with the field of the request, for limits that CreateContainer refuses as well;
    the spec must then not be used.
    """
    try:
        update_container_resources_request.apply(request, spec, host=host)
        memory = spec.linux.resources.memory
        check_swap_limit(memory.swap, memory=memory.limit)
    except CriError as error:
        raise in_request(error, "linux") from error


async def _update_task(
    services: Services, container: Container, spec: types.Spec, before: containers_pb2.Container
) -> None:
    if container.state is not ContainerState.RUNNING:
        return
    try:
        await services.containerd.tasks.Update(
            tasks_pb2.UpdateTaskRequest(
                container_id=container.id, resources=resources_any(spec.linux.resources)
            )
        )
    except BaseException as error:
        if isinstance(error, aio.AioRpcError) and error.code() is grpc.StatusCode.NOT_FOUND:
            # it has just exited
            return
        await to_the_end(_write_spec(services, before, before.spec))
        raise


async def _write_spec(
    services: Services, record: containers_pb2.Container, spec: AnyMessage
) -> None:
    """Write the spec into the record; sent as a whole, because daemons may read more than the
    mask."""
    changed = containers_pb2.Container()
    changed.CopyFrom(record)
    changed.spec.CopyFrom(spec)
    await services.containerd.containers.Update(
        containers_pb2.UpdateContainerRequest(
            container=changed, update_mask=FieldMask(paths=["spec"])
        )
    )
