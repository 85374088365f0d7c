"""Let containerd run the containers of a pod in the shim of its pause container.

All tasks of a pod end up in one shim process anyway. But a containerd that does not know the pod
finds that out by starting a shim binary for every container, and another one to delete it: some 10
ms at each start and 12 ms at each exit. A daemon with a sandbox store (containerd 1.7 and later) is
told by a record like that of the built-in plugin.
"""

from __future__ import annotations

import grpc
from grpc import aio

from generated.containerd import sandbox_pb2, types_pb2
from runtime.containerd.client import Containerd
from runtime.containerd.deletions import is_not_found
from runtime.containerd.runtime_options import container_runtime
from runtime.store import records
from runtime.transforms import facts

_SERVICE = "sandboxes"
"""The sandbox store among the daemon's services."""

_SANDBOXER = "podsandbox"
_EXTENSION = "metadata"
"""As the built-in plugin writes them, so that it can take over the node."""

_NO_RECORD = "bucket not found"
"""How containerd 1.7 says that there is no such record, with the code UNKNOWN."""


def offered(containerd: Containerd) -> bool:
    """Whether the daemon has a sandbox store."""
    return _SERVICE in containerd.capabilities.services


async def announce(
    containerd: Containerd, handler: facts.Handler, metadata: facts.SandboxMetadata
) -> None:
    """Record the pod; its pause task must be running before the first container starts."""
    runtime = container_runtime(handler)
    sandbox = types_pb2.Sandbox(
        sandbox_id=metadata.id,
        runtime=types_pb2.Sandbox.Runtime(name=runtime.name, options=runtime.options),
        sandboxer=_SANDBOXER,
        labels={"name": metadata.name},
        extensions={_EXTENSION: records.sandbox_extension(metadata)},
    )
    request = sandbox_pb2.StoreCreateRequest(sandbox=sandbox)
    try:
        await containerd.sandboxes.Create(request)
    except aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.ALREADY_EXISTS:
            raise


async def withdraw(containerd: Containerd, sandbox_id: str) -> None:
    """Delete the record, even if the built-in plugin wrote it; succeeds if there is none."""
    if not offered(containerd):
        return
    request = sandbox_pb2.StoreDeleteRequest(sandbox_id=sandbox_id)
    try:
        await containerd.sandboxes.Delete(request)
    except aio.AioRpcError as error:
        if not (is_not_found(error) or _NO_RECORD in (error.details() or "")):
            raise


async def announced(containerd: Containerd) -> list[str]:
    """The IDs of all recorded pods, including those recorded by the built-in plugin."""
    if not offered(containerd):
        return []
    try:
        answer = await containerd.sandboxes.List(sandbox_pb2.StoreListRequest())
    except aio.AioRpcError as error:
        if is_not_found(error) or _NO_RECORD in (error.details() or ""):
            return []
        raise
    return [
        sandbox.sandbox_id
        for sandbox in answer.list
        # containerd 1.7 does not store the sandboxer
        if _EXTENSION in sandbox.extensions and sandbox.sandboxer in ("", _SANDBOXER)
    ]
