"""PodSandboxStatus and ListPodSandbox, answered from memory."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
from grpc import aio

from generated.containerd import containers_pb2, task_types_pb2
from generated.cri import api_pb2
from generated.filters import pod_sandbox_filter
from generated.statuses import pod_sandbox_status
from runtime.containerd.deletions import is_not_found
from runtime.containerd.runtime_options import shown_options
from runtime.errors import InvalidArgument
from runtime.linux import netns
from runtime.sandboxes.services import Services
from runtime.store import records
from runtime.store.objects import Sandbox, Store
from runtime.tasks.exits import task
from runtime.transforms import facts


async def status(
    services: Services, sandbox: Sandbox, request: api_pb2.PodSandboxStatusRequest
) -> api_pb2.PodSandboxStatusResponse:
    """The sandbox's status; if verbose, also containerd's record of it."""
    info = await _info(services, sandbox) if request.verbose else {}
    return api_pb2.PodSandboxStatusResponse(
        status=pod_sandbox_status.read(sandbox=reachable(sandbox.facts)), info=info
    )


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
    if not request.HasField("filter") or request.filter == api_pb2.PodSandboxFilter():
        return store.sandboxes.listing()
    wanted = request.filter
    candidates = _by_id(store, wanted.id) if wanted.id else list(store.sandboxes)
    return api_pb2.ListPodSandboxResponse(
        items=[
            listed
            for sandbox in candidates
            if pod_sandbox_filter.matches(wanted, listed := sandbox.listed())
        ]
    )


def _by_id(store: Store, prefix: str) -> list[Sandbox]:
    """The sandbox with that ID or prefix; nothing if the prefix matches none or several."""
    try:
        found = store.sandboxes.find(prefix)
    except InvalidArgument:
        return []
    return [found] if found else []


async def _info(services: Services, sandbox: Sandbox) -> dict[str, str]:
    """The JSON under the key ``info``, with the built-in plugin's names, which crictl shows."""
    container = await _container(services, sandbox.id)
    process = await task(services.containerd, sandbox.id)
    metadata = sandbox.metadata
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
        "config": records.to_go(metadata.config),
        "runtimeSpec": msgspec.Raw(container.spec.value or b"null"),
        "cniResult": metadata.cni_result,
        "sandboxMetadata": msgspec.Raw(records.sandbox_metadata_json(metadata)),
        "overhead": records.to_go(metadata.config.linux.overhead),
        "resources": records.to_go(metadata.config.linux.resources),
    }
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
