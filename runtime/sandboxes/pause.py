"""The pause container, whose process holds a pod's namespaces: its record, snapshot and task."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass, field
from pathlib import Path

from google.protobuf.field_mask_pb2 import FieldMask
from grpc import aio

from generated.containerd import containers_pb2, tasks_pb2, types_pb2
from generated.lifecycle import SandboxState
from generated.oci import defaults, pod_sandbox_config
from generated.plans import NewPodPlan, SandboxPlan, plan_new_pod
from runtime.containerd.client import Containerd
from runtime.containerd.deletions import is_not_found
from runtime.containerd.runtime_options import container_runtime
from runtime.containerd.values import oci_any, with_options
from runtime.lookups import security, users
from runtime.lookups.owned_snapshots import Rootfs
from runtime.lookups.snapshot import open_snapshot
from runtime.sandboxes import files
from runtime.sandboxes.services import Services
from runtime.steps import threads
from runtime.steps.parallel import all_finished
from runtime.steps.times import StepTimes
from runtime.store import records
from runtime.tasks import shared_shim
from runtime.transforms import facts, selinux
from runtime.transforms.id_maps import IdMaps, id_maps

Mounts = list[types_pb2.Mount]


@dataclass(frozen=True, slots=True)
class NewPod:
    """A pod that is being created: the input of its steps."""

    services: Services
    handler: facts.Handler
    plan: SandboxPlan
    metadata: facts.SandboxMetadata
    files: facts.SandboxFiles
    mount_label: str = ""
    """SELinux label of the root of the pause container."""
    times: StepTimes = field(default_factory=StepTimes)

    @property
    def id(self) -> str:
        """The ID of the pod, and of its pause container, snapshot and lease."""
        return self.metadata.id

    @property
    def maps(self) -> IdMaps | None:
        """The IDs of the pod's user namespace; None without one."""
        return id_maps(self.plan.uid_mapping, self.plan.gid_mapping)


async def start(
    pod: NewPod,
    image: facts.Image,
    *,
    leased: Awaitable[None],
    recorded: asyncio.Future[containers_pb2.Container],
) -> int:
    """Start the pause task; returns its pid.

    ``leased`` completes when the lease protects snapshots. ``recorded`` gets the container's record
    as containerd stores it, long before the task runs.
    """
    services, times = pod.services, pod.times
    plan = plan_new_pod(pod.metadata.config, host=services.host, image=image)
    snapshot = asyncio.ensure_future(_prepare_snapshot(pod, image, leased))
    recording = _record(pod, plan, image, snapshot, recorded)
    await all_finished(snapshot, recording, _make_files(pod, plan))
    await all_finished(_create_task(pod, snapshot.result()), _announce(pod))
    services.exits.wait(pod.id)  # sent before the start, so that no exit is missed
    with times.step("start"):
        started = await services.containerd.tasks.Start(tasks_pb2.StartRequest(container_id=pod.id))
    return int(started.pid)


async def save_metadata(
    containerd: Containerd, record: containers_pb2.Container, metadata: facts.SandboxMetadata
) -> None:
    """Write the sandbox's metadata into the extension of its pause container; ``record`` is sent
    as a whole, because daemons may read more of an update than its mask names."""
    container = containers_pb2.Container()
    container.CopyFrom(record)
    container.extensions[records.SANDBOX_EXTENSION].CopyFrom(records.sandbox_extension(metadata))
    await containerd.containers.Update(
        containers_pb2.UpdateContainerRequest(
            container=container, update_mask=FieldMask(paths=["extensions"])
        )
    )


# The parts


async def _prepare_snapshot(pod: NewPod, image: facts.Image, leased: Awaitable[None]) -> Mounts:
    await leased
    with pod.times.step("snapshot"):
        try:
            return await _prepare_on(pod, image.chain_id)
        except aio.AioRpcError as error:
            if not is_not_found(error):
                raise
        # The layers are missing, e.g. after a failed unpack: unpack them again.
        parent = await pod.services.images.unpacked(image, pod.handler.snapshotter)
        return await _prepare_on(pod, parent)


async def _prepare_on(pod: NewPod, parent: str) -> Mounts:
    rootfs = Rootfs(
        key=pod.id,
        snapshotter=pod.handler.snapshotter,
        lease=pod.id,
        scratch=Path(pod.files.root_dir),
        maps=pod.maps,
        by_copy=pod.handler.owners_by_copy,
        labels=pod.plan.snapshot_labels,
    )
    return await pod.services.snapshots.prepare(rootfs, parent)


async def _record(
    pod: NewPod,
    plan: NewPodPlan,
    image: facts.Image,
    snapshot: asyncio.Future[Mounts],
    recorded: asyncio.Future[containers_pb2.Container],
) -> None:
    user = await _user(pod, plan, image, snapshot)
    container = await _container(pod, plan, image, user)
    with pod.times.step("container"):
        answer = await pod.services.containerd.containers.Create(
            containers_pb2.CreateContainerRequest(container=container)
        )
    # as the daemon stores it, with the time that recovery will read
    recorded.set_result(answer.container)


async def _container(
    pod: NewPod, plan: NewPodPlan, image: facts.Image, user: facts.User
) -> containers_pb2.Container:
    """The pause container's record, with an OCI spec built from the mapping."""
    sandbox = facts.Sandbox(
        metadata=pod.metadata,
        status=facts.SandboxStatus(SandboxState.READY),
        files=pod.files,
        security=await security.look_up(plan.seccomp_file),
        mount_label=pod.mount_label,
    )
    record = containers_pb2.Container(
        id=pod.id,
        image=image.reference,
        runtime=container_runtime(pod.handler, pod.maps.owner(user) if pod.maps else None),
        snapshotter=pod.handler.snapshotter,
        snapshot_key=pod.id,
    )
    record.extensions[records.SANDBOX_EXTENSION].CopyFrom(records.sandbox_extension(pod.metadata))
    spec = defaults.sandbox_spec()
    pod_sandbox_config.apply(
        pod.metadata.config,
        spec,
        handler=pod.handler,
        host=pod.services.host,
        image=image,
        record=record,
        sandbox=sandbox,
        user=user,
    )
    record.spec.CopyFrom(oci_any(spec))
    return record


async def _user(
    pod: NewPod, plan: NewPodPlan, image: facts.Image, snapshot: asyncio.Future[Mounts]
) -> facts.User:
    """The pause process's user: by number, or resolved with the image's own files."""
    if not users.needs_database(plan.user):
        return users.resolve(plan.user, users.UserDatabase())
    database = pod.services.users.known(image.chain_id)
    if database is None:
        rootfs = await asyncio.shield(snapshot)
        database = await threads.IMAGE_FILES.run(_read_users, pod, rootfs, image.chain_id)
    return users.resolve(plan.user, database)


def _read_users(pod: NewPod, rootfs: Mounts, chain_id: str) -> users.UserDatabase:
    with open_snapshot(rootfs, Path(pod.files.root_dir)) as layers:
        return pod.services.users.get(chain_id, lambda: users.read_database(layers))


async def _make_files(pod: NewPod, plan: NewPodPlan) -> None:
    with pod.times.step("files"):
        await threads.STATE_FILES.run(files.make, pod.files, plan, pod.maps)


async def _create_task(pod: NewPod, rootfs: Mounts) -> None:
    if pod.mount_label:
        rootfs = with_options(rootfs, selinux.context_options(pod.mount_label))
    with pod.times.step("task"):
        await pod.services.containerd.tasks.Create(
            tasks_pb2.CreateTaskRequest(
                container_id=pod.id, rootfs=rootfs, runtime_path=pod.handler.runtime_path
            )
        )


async def _announce(pod: NewPod) -> None:
    """Announce the pod to containerd, so that its containers start in the pause task's shim."""
    containerd = pod.services.containerd
    if shared_shim.offered(containerd):
        with pod.times.step("shim"):
            await shared_shim.announce(containerd, pod.handler, pod.metadata)
