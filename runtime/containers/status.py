"""ContainerStatus and ListContainers, answered from memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from generated.cri import api_pb2
from generated.filters import list_containers_request
from generated.lifecycle import ContainerState
from generated.oci import types
from generated.plans import ContainerStatusPlan
from generated.statuses import (
    container_status,
    container_status_response,
    list_containers_response,
)
from runtime.containerd.runtime_options import shown_options
from runtime.containers.specs import read_record
from runtime.errors import NotFound
from runtime.readings import Details
from runtime.store.records import to_go
from runtime.transforms import facts

if TYPE_CHECKING:
    from runtime.containers.services import Services
    from runtime.store.objects import Container, Store


async def status(
    services: Services, container: Container, plan: ContainerStatusPlan
) -> api_pb2.ContainerStatusResponse:
    """One container. containerd is queried only for verbose responses, and once after a restart."""
    spec, image = await _made(services, container.metadata)
    info = {"info": await _info(services, container)} if plan.verbose else {}
    return container_status_response.read(
        container=container.facts, spec=spec, image=image, details=Details(info)
    )


async def read(services: Services, container: facts.Container) -> api_pb2.ContainerStatus:
    """The status of one container."""
    spec, image = await _made(services, container.metadata)
    return container_status.read(container=container, spec=spec, image=image)


async def _made(
    services: Services, metadata: facts.ContainerMetadata
) -> tuple[types.Spec, facts.Image]:
    """The spec and the image of a container; empty ones if another client removed them: the kubelet
    must still be able to see the container, and to remove it."""
    try:
        spec = await services.specs.shown(metadata.id)
    except NotFound:
        spec = types.Spec()
    return spec, await services.images.resolve(metadata.image_ref) or facts.Image()


def list_containers(
    store: Store, request: api_pb2.ListContainersRequest
) -> api_pb2.ListContainersResponse:
    """The containers that pass the filter; without a filter all of them."""
    if list_containers_request.selects_all(request):
        return store.containers.listing()
    listed = [container.listed() for container in store.containers]
    passed = [one for one in listed if list_containers_request.matches(request, one)]
    return list_containers_response.read(listing=facts.Listing(containers=passed))


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
