"""ContainerStatus and ListContainers, answered from memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from generated.cri import api_pb2
from generated.filters import container_filter
from generated.lifecycle import ContainerState
from generated.oci import types
from generated.statuses import container_status
from runtime.containerd.runtime_options import shown_options
from runtime.containers.specs import read_record
from runtime.errors import NotFound
from runtime.store.records import to_go
from runtime.transforms.status import image_name, image_ref

if TYPE_CHECKING:
    from runtime.containers.services import Services
    from runtime.store.objects import Container, Store
    from runtime.transforms import facts


async def status(
    services: Services, container: Container, request: api_pb2.ContainerStatusRequest
) -> api_pb2.ContainerStatusResponse:
    """One container. containerd is queried only for verbose responses, and once after a restart."""
    return api_pb2.ContainerStatusResponse(
        status=await read(services, container.facts),
        info={"info": await _info(services, container)} if request.verbose else None,
    )


async def read(services: Services, container: facts.Container) -> api_pb2.ContainerStatus:
    """The status of one container; the caller may modify it."""
    metadata = container.metadata
    try:
        spec = await services.specs.shown(metadata.id)
    except NotFound:
        # deleted by another client; the kubelet must still be able to see and remove it
        spec = types.Spec()
    message = container_status.read(container=container, spec=spec)
    image = await services.images.resolve(metadata.image_ref)
    requested = metadata.config.image
    message.image.CopyFrom(requested)
    message.image.image = image_name(image=image, requested=requested.image)
    message.image_ref = image_ref(image=image, image_id=metadata.image_ref)
    return message


def list_containers(
    store: Store, request: api_pb2.ListContainersRequest
) -> api_pb2.ListContainersResponse:
    """The containers that pass the filter; without a filter all of them."""
    if not request.filter.ByteSize():
        return store.containers.listing()
    return api_pb2.ListContainersResponse(
        containers=[
            listed
            for container in store.containers
            if container_filter.matches(request.filter, listed := container.listed())
        ]
    )


async def _info(services: Services, container: Container) -> str:
    """The JSON that crictl inspect shows, with the built-in plugin's keys."""
    record = await read_record(services.containerd, container.id)
    info: dict[str, Any] = {
        "sandboxID": container.metadata.sandbox_id,
        "pid": container.status.pid,
        "removing": container.state is ContainerState.REMOVING,
        "snapshotKey": record.snapshot_key,
        "snapshotter": record.snapshotter,
        "runtimeType": record.runtime.name,
        "runtimeOptions": shown_options(record.runtime),
        "config": to_go(container.metadata.config),
        "runtimeSpec": msgspec.Raw(record.spec.value),
    }
    return msgspec.json.encode(info).decode()
