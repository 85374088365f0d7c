"""RunPodSandbox: a network namespace, a pause container in it, and an address.

Independent steps run in parallel. The longest chain is lease, snapshot, task; the namespace, the
container's record, the files and CNI run meanwhile:

    name ─ lease ─────────────── snapshot ─┐
         └ namespace ┬ container's record ─┼─ task created ─ started ─┬─ READY
                     ├ files ──────────────┘                          │
                     └ CNI ADD ─ container's record updated ──────────┘

A sysctl that names a network interface needs that interface. A pod with such a sysctl gets its
network before its task is created.

Before anything is created that a crash could leak, a note with the pod's record is written to the
pod's directory (`runtime.sandboxes.unfinished`); recovery undoes every pod that has such a note. If
a step fails or the client disconnects, everything is undone in reverse. If undoing fails, the pod
stays listed as UNKNOWN, so that Stop and Remove can finish the work.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from dataclasses import replace
from functools import partial

import structlog

from generated.containerd import containers_pb2, leases_pb2
from generated.cri import api_pb2
from generated.lifecycle import SandboxState
from generated.plans import RunPodSandboxPlan, plan_sandbox
from generated.statuses import run_pod_sandbox_response
from runtime.errors import Unavailable, named_failures
from runtime.linux import netns, userns
from runtime.sandboxes import pause, unfinished
from runtime.sandboxes.pause import NewPod
from runtime.sandboxes.services import Services
from runtime.sandboxes.unfinished import Part
from runtime.steps.parallel import all_finished, both
from runtime.steps.rollback import Rollback
from runtime.store.records import config_json
from runtime.transforms import facts, namespaces

log = structlog.get_logger(__name__)


async def run(services: Services, requested: RunPodSandboxPlan) -> api_pb2.RunPodSandboxResponse:
    """Create the pod and return its ID once it is READY; on failure nothing is left of it.

    Raises FailedPrecondition while another sandbox has the name, InvalidArgument for a handler that
    is not configured, and the error of the step that failed.
    """
    plan = plan_sandbox(requested.pod_config)
    handler = services.handlers.named(requested.runtime_handler, field="runtime_handler")
    if plan.uid_mapping and not handler.user_namespaces:
        raise namespaces.unsupported(handler.user_namespaces_problem)
    if not plan.on_node_network:
        _must_have_network(services, requested.runtime_handler)
    sandbox_id = secrets.token_hex(32)
    labels = services.levels.reserve(sandbox_id, plan.selinux_options)
    metadata = facts.SandboxMetadata(
        id=sandbox_id,
        name=plan.pod_name,
        config=requested.pod_config,
        runtime_handler=requested.runtime_handler,
        netns_path="" if plan.on_node_network else netns.new_path(services.netns_directory),
        process_label=labels.process,
        config_json=config_json(requested.pod_config),
    )
    pod = NewPod(
        services,
        handler,
        plan,
        metadata,
        files=services.store.layout.sandbox(metadata),
        mount_label=labels.mount,
    )
    names = services.store.names
    async with Rollback(partial(_keep, pod)) as undo:
        undo.push("free the SELinux level", services.levels.release, metadata.id)
        names.reserve(metadata.name, metadata.id)
        undo.push("free the name", names.release, metadata.name, metadata.id)
        files = pod.files
        with named_failures(f"run sandbox {metadata.name}", files.root_dir, files.state_dir):
            pod, status = await _make(pod, undo)
    sandbox = services.store.sandboxes.add(
        pod.metadata, status, snapshotter=pod.handler.snapshotter
    )
    services.levels.release(sandbox.id)
    services.exits.follow_sandbox(sandbox)
    log.debug("sandbox steps", sandbox=sandbox.id, **pod.times.spans())
    return run_pod_sandbox_response.read(sandbox=sandbox.facts)


def _must_have_network(services: Services, handler: str) -> None:
    """Refuse before anything is created: DEL would fail as well for a network no plugin has set
    up."""
    problem = services.network.problem(handler)
    if problem is not None:
        raise Unavailable(f"the pod network is not ready: {problem}")


def _keep(pod: NewPod, problem: str) -> None:
    """Keep the pod listed, so that Stop and Remove can retry what could not be undone."""
    log.error("sandbox stays unknown", sandbox=pod.id, problem=problem)
    status = facts.SandboxStatus(SandboxState.UNKNOWN, created_at=time.time_ns())
    pod.services.store.sandboxes.add(pod.metadata, status, snapshotter=pod.handler.snapshotter)


async def _make(pod: NewPod, undo: Rollback) -> tuple[NewPod, facts.SandboxStatus]:
    """Create every part; each undo step is pushed before its part begins, and the note comes
    first."""
    remains = unfinished.Remains(pod.services, pod.metadata, pod.handler.snapshotter)

    def push(*parts: Part) -> None:
        for part in parts:
            undo.push(part.value, unfinished.undo_part, remains, part)

    log.debug("creating sandbox", sandbox=pod.id, netns=pod.metadata.netns_path)
    push(Part.DIRECTORIES)
    unfinished.write(pod.files, pod.metadata)
    push(Part.LEASE)
    leased = asyncio.create_task(_create_lease(pod))
    undo.push("wait for the lease", partial(asyncio.gather, leased, return_exceptions=True))
    image = await _pause_image(pod)
    if pod.metadata.netns_path:
        push(Part.NAMESPACE)
        await _create_namespace(pod)
        push(Part.NETWORK)
    push(Part.SNAPSHOT, Part.CONTAINER, Part.SHIM_RECORD, Part.TASK)

    recorded: asyncio.Future[containers_pb2.Container] = asyncio.Future()
    if not pod.metadata.netns_path:
        pid = await _start_pause(pod, image, leased, recorded)
    elif pod.plan.network_first:
        pod = await _attach(pod, undo)
        pid = await _start_pause(pod, image, leased, recorded)
    else:
        pod, pid = await both(
            cancellable=_attach_and_save(pod, undo, recorded),
            uninterrupted=pause.start(pod, image, leased=leased, recorded=recorded),
        )
    unfinished.clear(pod.files)
    created_at = recorded.result().created_at.ToNanoseconds()
    # from here on the records are read, not written
    pod = replace(pod, metadata=replace(pod.metadata, config_json=b""))
    return pod, facts.SandboxStatus(SandboxState.READY, created_at=created_at, pid=pid)


# The steps


async def _create_lease(pod: NewPod) -> None:
    with pod.times.step("lease"):
        await pod.services.containerd.leases.Create(leases_pb2.CreateRequest(id=pod.id))


async def _pause_image(pod: NewPod) -> facts.Image:
    with pod.times.step("image"):
        return await pod.services.images.ensure(pod.services.config.pause_image)


async def _create_namespace(pod: NewPod) -> None:
    with pod.times.step("netns"):
        if pod.maps is None:
            await netns.create(pod.metadata.netns_path)
        else:
            ids = userns.MapLines(pod.maps.uids.line, pod.maps.gids.line)
            await userns.create(pod.metadata.netns_path, pod.files.userns, ids)


async def _start_pause(
    pod: NewPod,
    image: facts.Image,
    leased: asyncio.Task[None],
    recorded: asyncio.Future[containers_pb2.Container],
) -> int:
    """Not cancelled when the client disconnects: nothing would own a task that is created later."""
    started = asyncio.ensure_future(pause.start(pod, image, leased=leased, recorded=recorded))
    await all_finished(started)
    return started.result()


async def _attach(pod: NewPod, undo: Rollback) -> NewPod:
    """CNI ADD; returns the pod with its addresses, which an incomplete rollback needs from here
    on."""
    metadata = pod.metadata
    with pod.times.step("cni"):
        attachment = await pod.services.network.add(
            metadata.id, metadata.netns_path, metadata.config, handler=metadata.runtime_handler
        )
    attached = replace(
        pod,
        metadata=replace(
            metadata,
            ip=attachment.ip,
            additional_ips=tuple(attachment.additional_ips),
            cni_result=attachment.result,
        ),
    )
    undo.incomplete = partial(_keep, attached)
    return attached


async def _attach_and_save(
    pod: NewPod, undo: Rollback, recorded: asyncio.Future[containers_pb2.Container]
) -> NewPod:
    """CNI ADD, and its result stored in the container's record, once that exists."""
    attached = await _attach(pod, undo)
    record = await asyncio.shield(recorded)
    with pod.times.step("update"):
        await pause.save_metadata(pod.services.containerd, record, attached.metadata)
    return attached
