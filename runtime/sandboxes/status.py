"""PodSandboxStatus and ListPodSandbox, answered from memory."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
from grpc import aio

from generated.containerd import containers_pb2, task_types_pb2
from generated.cri import api_pb2
from generated.filters import list_pod_sandbox_request
from generated.plans import SandboxStatusPlan
from generated.statuses import list_pod_sandbox_response, pod_sandbox_status_response
from runtime.containerd.deletions import is_not_found
from runtime.containerd.runtime_options import shown_options
from runtime.linux import netns
from runtime.readings import Details
from runtime.sandboxes.services import Services
from runtime.store import records
from runtime.store.objects import Sandbox, Store
from runtime.tasks.calls import task
from runtime.transforms import facts


async def status(
    services: Services, sandbox: Sandbox, plan: SandboxStatusPlan
) -> api_pb2.PodSandboxStatusResponse:
    """The sandbox's status; if verbose, also containerd's record of it."""
    info = await _info(services, sandbox) if plan.verbose else {}
    return pod_sandbox_status_response.read(sandbox=reachable(sandbox.facts), details=Details(info))


def reachable(sandbox: facts.Sandbox) -> facts.Sandbox:
    """The sandbox without addresses that it does not have any more: without its network namespace
    they may belong to another pod."""
    if netns.is_alive(sandbox.metadata.netns_path):
        return sandbox
    return replace(sandbox, metadata=replace(sandbox.metadata, ip="", additional_ips=()))


def list_sandboxes(
    store: Store, request: api_pb2.ListPodSandboxRequest
) -> api_pb2.ListPodSandboxResponse:
    """The sandboxes that match every given part of the filter."""
    if list_pod_sandbox_request.selects_all(request):
        return store.sandboxes.listing()
    listed = [sandbox.listed() for sandbox in store.sandboxes]
    selected = list_pod_sandbox_request.selected(request, listed)
    return list_pod_sandbox_response.read(listing=facts.Listing(sandboxes=selected))


async def _info(services: Services, sandbox: Sandbox) -> dict[str, str]:
    """The JSON under the key ``info``, with the built-in plugin's names, which crictl shows."""
    container = await _container(services, sandbox.id)
    process = await task(services.containerd, sandbox.id)
    metadata = sandbox.metadata
    config = records.to_go(metadata.config)
    linux = config.get("linux", {})
    info: dict[str, Any] = {
        "pid": sandbox.status.pid,
        "processStatus": _process_status(process),
        "netNamespaceClosed": bool(metadata.netns_path) and not netns.is_alive(metadata.netns_path),
        "image": container.image,
        "snapshotKey": container.snapshot_key,
        "snapshotter": container.snapshotter,
        "runtimeHandler": metadata.runtime_handler,
        "runtimeType": container.runtime.name,
        "runtimeOptions": shown_options(container.runtime),
        "config": config,
        "runtimeSpec": msgspec.Raw(container.spec.value or b"null"),
        "cniResult": metadata.cni_result,
        "sandboxMetadata": msgspec.Raw(records.sandbox_metadata_json(metadata)),
        "overhead": linux.get("overhead", {}),
        "resources": linux.get("resources", {}),
    }
    if metadata.resized is not None:
        info |= records.pod_resources_to_go(metadata.resized)
    return {"info": msgspec.json.encode(info).decode()}


async def _container(services: Services, sandbox_id: str) -> containers_pb2.Container:
    """The pause container's record; an empty one if a failed creation left none."""
    try:
        answer = await services.containerd.containers.Get(
            containers_pb2.GetContainerRequest(id=sandbox_id)
        )
    except aio.AioRpcError as error:
        if not is_not_found(error):
            raise
        return containers_pb2.Container()
    container: containers_pb2.Container = answer.container
    return container


def _process_status(process: task_types_pb2.Process | None) -> str:
    if process is None:
        return "deleted"
    return task_types_pb2.Status.Name(process.status).lower()
