"""Turn what an earlier server left of a pod into an object again, according to its pause task."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, replace
from typing import Final

import structlog
from grpc import aio

from generated.containerd import containers_pb2, task_types_pb2
from generated.lifecycle import SandboxEvent, SandboxState
from generated.plans import plan_sandbox
from runtime.errors import CriError, InvalidArgument, Unavailable, in_words
from runtime.sandboxes import unfinished
from runtime.sandboxes.services import Services
from runtime.store import records, salvage
from runtime.store.objects import Sandbox
from runtime.store.records import RecordError
from runtime.tasks import dead_shim
from runtime.tasks.calls import ALIVE, task
from runtime.transforms import facts, sandboxes

log = structlog.get_logger(__name__)

_OBJECT_LIMIT: Final = 10.0
"""Seconds for one object, as in the built-in plugin."""


@dataclass(frozen=True, slots=True)
class Found:
    """One pod as it was found."""

    metadata: facts.SandboxMetadata
    snapshotter: str
    status: facts.SandboxStatus
    to_watch: bool = False
    """Whether it is UNKNOWN because its pause task could not be queried; it is queried again
    later."""


async def find(services: Services, record: containers_pb2.Container) -> Found:
    """Determine the state of a pod from its record.

    Raises RecordError if that cannot be read, and the rest of containerd's record does not help.
    """
    try:
        metadata = records.sandbox_metadata(record.extensions[records.SANDBOX_EXTENSION].value)
    except RecordError as damage:
        return _damaged(record, damage)
    metadata = _with_handler(metadata)
    created_at = record.created_at.ToNanoseconds()
    to_watch = False
    try:
        async with asyncio.timeout(_OBJECT_LIMIT):
            state, pid = await _state(services, metadata.id)
    except (aio.AioRpcError, CriError, TimeoutError) as error:
        log.warning("sandbox becomes unknown", sandbox=metadata.id, error=in_words(error))
        state, pid, to_watch = SandboxState.UNKNOWN, 0, True
    status = facts.SandboxStatus(state, created_at=created_at, pid=pid)
    return Found(metadata, record.snapshotter, status, to_watch)


def _damaged(record: containers_pb2.Container, damage: RecordError) -> Found:
    """A pod whose config is lost: UNKNOWN even if it runs, so that no container is added to it."""
    metadata = salvage.sandbox(record, damage)
    log.error("the record of a sandbox is damaged", sandbox=record.id, error=str(damage))
    created_at = record.created_at.ToNanoseconds()
    status = facts.SandboxStatus(SandboxState.UNKNOWN, created_at=created_at)
    return Found(metadata, record.snapshotter, status)


def _with_handler(metadata: facts.SandboxMetadata) -> facts.SandboxMetadata:
    """The record of an untrusted pod with its handler, which the built-in plugin leaves empty."""
    with contextlib.suppress(InvalidArgument):  # a record that no request could make
        if not metadata.runtime_handler and plan_sandbox(metadata.config).untrusted:
            return replace(metadata, runtime_handler=sandboxes.UNTRUSTED)
    return metadata


async def undone(
    services: Services, metadata: facts.SandboxMetadata, record: containers_pb2.Container | None
) -> Found | None:
    """Undo an interrupted RunPodSandbox; if that fails, the pod stays listed as UNKNOWN.

    It is not queried again: StopPodSandbox and RemovePodSandbox finish the work.
    """
    snapshotter = record.snapshotter if record is not None else ""
    remains = unfinished.Remains(services, metadata, snapshotter, record)
    try:
        async with asyncio.timeout(_OBJECT_LIMIT):
            await unfinished.undo(remains)
    except (aio.AioRpcError, CriError, OSError, TimeoutError) as error:
        log.error(
            "interrupted sandbox creation not undone; the sandbox stays unknown",
            sandbox=metadata.id,
            error=in_words(error),
        )
        status = facts.SandboxStatus(SandboxState.UNKNOWN, created_at=time.time_ns())
        return Found(metadata, snapshotter, status)
    log.info("interrupted sandbox creation undone", sandbox=metadata.id, name=metadata.name)
    return None


def add(services: Services, found: Found) -> Sandbox:
    """Add the pod to the store and follow its pause task."""
    sandbox = services.store.sandboxes.add(
        found.metadata, found.status, snapshotter=found.snapshotter, recovered=True
    )
    if found.status.state is SandboxState.READY:
        services.exits.follow_sandbox(sandbox)
    return sandbox


async def settle(services: Services, sandbox: Sandbox) -> None:
    """Query the pause task of an UNKNOWN pod again, and set the pod's state accordingly.

    Raises AioRpcError or CriError if its state is still unknown.
    """
    process = await task(services.containerd, sandbox.id)
    if sandbox.state is not SandboxState.UNKNOWN:  # stopped meanwhile
        return
    if process is None:
        await dead_shim.clean_up(services.containerd, sandbox.id)
        if sandbox.state is SandboxState.UNKNOWN:
            sandbox.fire(SandboxEvent.EXITED)
    elif process.status in ALIVE:
        sandbox.fire(SandboxEvent.FOUND, pid=process.pid)
        services.exits.follow_sandbox(sandbox)
        log.info("sandbox found again", sandbox=sandbox.id)
    elif process.status == task_types_pb2.STOPPED:
        services.exits.follow_sandbox(sandbox)
    else:
        await _end(services, sandbox.id, process)
        sandbox.fire(SandboxEvent.EXITED)


async def _state(services: Services, sandbox_id: str) -> tuple[SandboxState, int]:
    """State and pid according to the pause task; raises AioRpcError and CriError if unknown."""
    process = await task(services.containerd, sandbox_id)
    if process is None:
        return SandboxState.NOTREADY, 0
    if process.status in ALIVE:
        return SandboxState.READY, process.pid
    # The task of an exited pause container is kept until the pod is removed: deleting it would stop
    # the shim, which containerd refuses while containers run in it, and does not retry.
    if process.status != task_types_pb2.STOPPED:
        await _end(services, sandbox_id, process)
    return SandboxState.NOTREADY, 0


async def _end(services: Services, sandbox_id: str, process: task_types_pb2.Process) -> None:
    """End a pause task that was created but never started."""
    if process.status != task_types_pb2.CREATED:
        # UNKNOWN: the shim did not respond for 2 s, which says nothing about the pod's health
        raise Unavailable(f"the shim of pod {sandbox_id} does not respond to containerd")
    await services.exits.end(sandbox_id)
