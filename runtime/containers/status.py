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
    found = await shown(services, container.facts)
    info = {"info": await _info(services, container)} if plan.verbose else {}
    return container_status_response.read(shown_container=found, details=Details(info))


async def shown(services: Services, container: facts.Container) -> facts.ShownContainer:
    """What the status of a container shows of its spec and its image: nothing if another client
    removed them, because the kubelet must still be able to see and remove the container."""
    metadata = container.metadata
    try:
        spec = await services.specs.shown(metadata.id)
    except NotFound:
        spec = types.Spec()
    image = await services.images.resolve(metadata.image_ref) or facts.Image()
    return facts.ShownContainer(container, spec, image)


def list_containers(
    store: Store, request: api_pb2.ListContainersRequest
) -> api_pb2.ListContainersResponse:
    """The containers that pass the filter; without a filter all of them."""
    if list_containers_request.selects_all(request):
        return store.containers.listing()
    listed = [container.listed() for container in store.containers]
    selected = list_containers_request.selected(request, listed)
    return list_containers_response.read(listing=facts.Listing(containers=selected))


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
