"""CreateContainer: from a request to a container in containerd that is ready to start.

First everything that the request names is looked up (image, mount sources, devices, profiles, the
user in the image's files); then the OCI spec is built from these facts without further I/O. The
snapshot is prepared in parallel with the lookups. If a step fails, completed steps are undone in
reverse.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
from grpc import aio

from generated.containerd import containers_pb2, types_pb2
from generated.cri import api_pb2
from generated.lifecycle import ContainerState, SandboxState
from generated.oci import container_config, types
from generated.plans import (
    ContainerPlan,
    CreateContainerPlan,
    NewContainerPlan,
    plan_container,
    plan_new_container,
)
from generated.statuses import create_container_response
from runtime.containerd.deletions import is_not_found
from runtime.containerd.runtime_options import container_runtime
from runtime.containerd.values import oci_any
from runtime.containers import image_volumes, restore
from runtime.containers.remove import remove_directories, remove_record_and_snapshot
from runtime.errors import (
    CriError,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    named_failures,
)
from runtime.lookups import devices as device_nodes
from runtime.lookups import mounts as mount_sources
from runtime.lookups import security, selinux
from runtime.lookups import users as rootfs_user
from runtime.lookups import volumes as own_volumes
from runtime.lookups.owned_snapshots import Rootfs
from runtime.lookups.snapshot import open_snapshot
from runtime.steps import threads
from runtime.steps.parallel import all_finished, both
from runtime.steps.rollback import Rollback
from runtime.store.records import CONTAINER_EXTENSION, container_extension
from runtime.tasks import shared_shim
from runtime.transforms import base_spec, facts, signals
from runtime.transforms.containers import image_digest
from runtime.transforms.id_maps import IdMaps, id_maps
from runtime.transforms.resources import in_request

if TYPE_CHECKING:
    from runtime.containers.services import Services
    from runtime.store.objects import Sandbox

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """The root file system of a container that has not started yet."""

    parent: str
    """Chain ID of the image's layers."""
    mounts: list[types_pb2.Mount]


async def create(
    services: Services, sandbox: Sandbox, requested: CreateContainerPlan
) -> api_pb2.CreateContainerResponse:
    """Create a container in a ready pod; the response has its ID.

    Raises NotFound if the image is not on the node, FailedPrecondition if the name is reserved,
    InvalidArgument for anything in the request that the node or the image does not have.
    """
    config = requested.container_config
    container_id = secrets.token_hex(32)
    known = plan_container(config)
    checkpoint = await restore.requested(services, known)
    if checkpoint is None:
        image = await _image(services, known.image)
    else:
        image, config = await restore.based(services, sandbox, checkpoint, config)
    plan = _plan(services, sandbox, config, image)
    name = plan.container_name

    def undo_later(_: str) -> None:
        # the name stays reserved until then; recovery continues if the server stops before
        services.exits.settle(container_id, undo.finish())

    undo = Rollback(undo_later)
    async with undo:
        services.store.names.reserve(name, container_id)
        log.debug("creating container", container=container_id, name=name)
        undo.push("free the name", services.store.names.release, name, container_id)
        labels = services.levels.reserve(
            container_id,
            known.selinux_options,
            pod_label=sandbox.metadata.process_label,
        )
        undo.push("free the SELinux level", services.levels.release, container_id)
        if plan.image_mounts:
            config = await image_volumes.mounted(services, sandbox, config, plan.image_mounts)
            plan = _plan(services, sandbox, config, image)
        metadata = facts.ContainerMetadata(
            id=container_id,
            name=name,
            sandbox_id=sandbox.id,
            config=config,
            image_ref=image.id,
            image_name=image.reference,
            image_digest=image_digest(image),
            log_path=plan.log_path,
            stop_signal=_stop_signal(image),
            process_label=labels.process,
        )
        undo.push("remove the directories", remove_directories, services, container_id)
        snapshotter = services.handler(sandbox).snapshotter
        undo.push(
            "remove record and snapshot",
            remove_record_and_snapshot,
            services,
            container_id,
            sandbox.id,
            snapshotter,
        )
        layout = services.store.layout
        with named_failures(f"create container {known.container}", layout.root, layout.state):
            spec, mounts = await _make(services, sandbox, metadata, plan, image, labels.mount)
            if checkpoint is not None:
                await restore.unpack(
                    services, sandbox, checkpoint, container_id, mounts, plan.log_path
                )
        if sandbox.state is not SandboxState.READY:
            # the removal of the pod did not see this container, so nothing else would remove it
            raise FailedPrecondition(
                f"pod {sandbox.id} was stopped while container {known.container} was created; "
                "create it in a pod that is READY",
                field="pod_sandbox_id",
            )
        created = facts.ContainerStatus(ContainerState.CREATED, created_at=time.time_ns())
        container = await services.store.containers.create(
            metadata, created, snapshotter=snapshotter
        )
        services.levels.release(container_id)
    services.specs.remember(container_id, spec)
    services.prepared[container_id] = mounts
    return create_container_response.read(container=container.facts)


def target_pid(services: Services, sandbox: Sandbox, plan: ContainerPlan | NewContainerPlan) -> int:
    """PID of the first process of the container whose PID namespace is joined; 0 if none is.

    Raises FailedPrecondition unless that container runs, in the same pod.
    """
    if not plan.joins_processes:
        return 0
    field = "config.linux.security_context.namespace_options.target_id"
    target = services.store.containers.find(plan.processes_of, field)
    if target is None or target.metadata.sandbox_id != sandbox.id:
        raise NotFound(f"pod {sandbox.id} has no container {plan.processes_of!r}", field=field)
    if target.state is not ContainerState.RUNNING:
        raise FailedPrecondition(
            f"the target container {target.id} is {target.state.name}; it must be RUNNING",
            field=field,
        )
    return target.status.pid


def _plan(
    services: Services, sandbox: Sandbox, config: api_pb2.ContainerConfig, image: facts.Image
) -> NewContainerPlan:
    return plan_new_container(config, host=services.host, image=image, sandbox=sandbox.facts)


async def _image(services: Services, reference: str) -> facts.Image:
    image = await services.images.resolve(reference)
    if image is None:
        raise NotFound(
            f"image {reference!r} is not on this node; pull it first",
            field="config.image.image",
        )
    return image


def _stop_signal(image: facts.Image) -> str:
    """The image's stop signal as the record has it, without one that is not a signal: the built-in
    plugin could not stop such a container."""
    if not image.stop_signal:
        return ""
    try:
        signals.number(image.stop_signal)
    except InvalidArgument as error:
        log.warning("stop signal of the image ignored", image=image.reference, error=str(error))
        return ""
    return image.stop_signal


async def _make(
    services: Services,
    sandbox: Sandbox,
    metadata: facts.ContainerMetadata,
    plan: NewContainerPlan,
    image: facts.Image,
    mount_label: str,
) -> tuple[types.Spec, list[types_pb2.Mount]]:
    """Create everything in containerd and on disk; returns the OCI spec and the root file system's
    mounts.

    The snapshot is prepared in parallel with all the rest. A lookup on the node can hang on a
    network mount, so it is abandoned if the call is cancelled; calls that change containerd are
    waited for, so that the rollback finds their results.
    """
    root = services.store.layout.container_root(metadata.id)
    for directory in (root, services.store.layout.container_state(metadata.id)):
        directory.mkdir(mode=0o755, parents=True)
    snapshot: asyncio.Future[_Snapshot] = asyncio.get_running_loop().create_future()
    spec: types.Spec | None = None

    async def prepare() -> None:
        snapshot.set_result(await _prepare(services, sandbox, metadata.id, plan, image))

    async def describe() -> None:
        nonlocal spec
        container = await _look_up(services, sandbox, metadata, plan, image, root, mount_label)
        user = await _user(services, plan, image, snapshot, root)
        spec, record = await _described(services, sandbox, container, plan, image, user)
        await all_finished(_create_record(services, sandbox, record))
        if container.volumes:
            await threads.IMAGE_FILES.run(
                _fill_volumes,
                container.volumes,
                await asyncio.shield(snapshot),
                root,
                # a copy of the image has the pod's owners already
                None if services.handler(sandbox).owners_by_copy else _id_maps(plan),
                mount_label,
            )

    await both(cancellable=describe(), uninterrupted=prepare())
    assert spec is not None
    return spec, snapshot.result().mounts


async def _described(
    services: Services,
    sandbox: Sandbox,
    container: facts.Container,
    plan: NewContainerPlan,
    image: facts.Image,
    user: facts.User,
) -> tuple[types.Spec, containers_pb2.Container]:
    """The OCI spec and containerd's record, built from the mapping."""
    handler = services.handler(sandbox)
    metadata = container.metadata
    host = services.host
    maps = _id_maps(plan)
    if plan.privileged:
        host = replace(host, devices=await threads.HOST_PATHS.run(device_nodes.host_devices))
    record = containers_pb2.Container(
        id=metadata.id,
        image=image.reference,
        runtime=container_runtime(handler, maps.owner(user) if maps else None),
        snapshotter=handler.snapshotter,
        snapshot_key=metadata.id,
        sandbox=sandbox.id if shared_shim.offered(services.containerd) else "",
        extensions={CONTAINER_EXTENSION: container_extension(metadata)},
    )
    spec = base_spec.first_spec(handler.base, privileged=plan.privileged)
    try:
        container_config.apply(
            metadata.config,
            spec,
            container=container,
            handler=handler,
            host=host,
            image=image,
            record=record,
            sandbox=sandbox.facts,
            user=user,
        )
    except CriError as error:
        raise in_request(error, "config.linux.resources") from error
    record.spec.CopyFrom(oci_any(spec))
    return spec, record


async def _create_record(
    services: Services, sandbox: Sandbox, record: containers_pb2.Container
) -> None:
    await services.containerd.containers.Create(
        containers_pb2.CreateContainerRequest(container=record),
        metadata=services.containerd.with_lease(sandbox.id),
    )


async def _look_up(
    services: Services,
    sandbox: Sandbox,
    metadata: facts.ContainerMetadata,
    plan: NewContainerPlan,
    image: facts.Image,
    root: Path,
    mount_label: str,
) -> facts.Container:
    """Look up everything on the node that the request names."""
    volumes = () if services.config.ignore_image_defined_volumes else image.volumes
    sources: tuple[facts.MountSource, ...] = ()
    devices: tuple[tuple[facts.DeviceNode, ...], ...] = ()
    injected = facts.CdiEdits()
    if plan.cdi_devices:
        injected = await threads.HOST_PATHS.run_at(
            services.cdi.directories, services.cdi.look_up, plan.cdi_devices
        )
    if plan.mounts or plan.devices:
        # in a thread: the path may be on a network mount that hangs
        sources, devices = await threads.HOST_PATHS.run_at(
            [
                *(mount.path for mount in plan.mounts),
                *(device.host_path for device in plan.devices),
            ],
            lambda: (
                mount_sources.host_sources(plan.mounts, sandbox.status.pid),
                device_nodes.requested(plan.devices),
            ),
        )
    if mount_label:
        await threads.HOST_PATHS.run_at(
            [source.path for source in sources],
            selinux.relabel_mounts,
            plan.mounts,
            sources,
            mount_label,
        )
        await threads.STATE_FILES.run(selinux.relabel_files, sandbox.facts.files, mount_label)
    return facts.Container(
        metadata=metadata,
        status=facts.ContainerStatus(ContainerState.CREATED),
        mounts=sources,
        volumes=own_volumes.uncovered(volumes, [mount.destination for mount in plan.mounts], root),
        devices=devices,
        target_pid=target_pid(services, sandbox, plan),
        security=await security.look_up(
            plan.seccomp_file,
            apparmor_name=plan.apparmor_name,
            default_apparmor=plan.default_apparmor,
        ),
        cdi=injected,
        mount_label=mount_label,
    )


async def _prepare(
    services: Services,
    sandbox: Sandbox,
    container_id: str,
    plan: NewContainerPlan,
    image: facts.Image,
) -> _Snapshot:
    """Create the root file system on top of the image, unpacking the image again if necessary."""
    handler = services.handler(sandbox)
    rootfs = Rootfs(
        key=container_id,
        snapshotter=handler.snapshotter,
        lease=sandbox.id,
        scratch=services.store.layout.container_root(container_id),
        maps=_id_maps(plan),
        by_copy=handler.owners_by_copy,
    )

    async def prepare(parent: str) -> _Snapshot:
        return _Snapshot(parent, await services.snapshots.prepare(rootfs, parent))

    try:
        # nearly always unpacked already, and asking first would cost every creation a call
        return await prepare(image.chain_id)
    except aio.AioRpcError as error:
        if not is_not_found(error):
            raise
    return await prepare(await services.images.unpacked(image, handler.snapshotter))


def _id_maps(plan: NewContainerPlan) -> IdMaps | None:
    """The IDs of the pod's user namespace; None without one."""
    return id_maps(plan.uid_mapping, plan.gid_mapping)


async def _user(
    services: Services,
    plan: NewContainerPlan,
    image: facts.Image,
    snapshot: asyncio.Future[_Snapshot],
    root: Path,
) -> facts.User:
    """Resolve the user with the files of the image, which are read only if needed."""
    if not rootfs_user.needs_database(plan.user):
        return rootfs_user.resolve(plan.user, rootfs_user.UserDatabase())
    database = services.users.known(image.chain_id)
    if database is None:
        database = await threads.IMAGE_FILES.run(
            _read_users, services.users, await asyncio.shield(snapshot), root
        )
    return rootfs_user.resolve(plan.user, database)


def _read_users(
    users: rootfs_user.UserDatabases, snapshot: _Snapshot, root: Path
) -> rootfs_user.UserDatabase:
    with open_snapshot(snapshot.mounts, root) as layers:
        return users.get(snapshot.parent, lambda: rootfs_user.read_database(layers))


def _fill_volumes(
    volumes: tuple[facts.Volume, ...],
    snapshot: _Snapshot,
    root: Path,
    maps: IdMaps | None,
    mount_label: str,
) -> None:
    with open_snapshot(snapshot.mounts, root) as layers:
        own_volumes.fill(volumes, layers, maps)
    if mount_label:
        selinux.relabel_volumes(volumes, mount_label)
