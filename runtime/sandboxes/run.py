"""RunPodSandbox: a network namespace, a pause container in it, and an address.

What depends on nothing else runs beside the rest. The longest chain is lease, snapshot, task; the
namespace, the container's record, the files and CNI hide behind it:

    name ─ lease ─────────────── snapshot ─┐
         └ namespace ┬ container's record ─┼─ task created ─ started ─┬─ READY
                     ├ files ──────────────┘                          │
                     └ CNI ADD ─ container's record updated ──────────┘

A sysctl that names a network interface needs the interface first, so that pod gets its address
before its task is created.

Before anything is made that a crash could leak, a record of the pod is written beside its files
(`runtime.sandboxes.unfinished`); recovery undoes what it finds under such a record. A failure, a
client that disconnects included, undoes everything in reverse; a pod whose undoing fails stays
known as UNKNOWN, so that Stop and Remove finish the work.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from dataclasses import replace
from pathlib import Path

import structlog
from grpc import aio

from generated.containerd import containers_pb2, leases_pb2, snapshots_pb2, tasks_pb2, types_pb2
from generated.cri import api_pb2
from generated.lifecycle import SandboxState
from generated.oci import defaults, pod_sandbox_config
from generated.plans import SandboxPlan, plan_sandbox
from runtime.containerd.removals import (
    delete_container,
    delete_lease,
    is_not_found,
    remove_snapshot,
)
from runtime.containerd.runtime_options import container_runtime
from runtime.containerd.values import oci_any
from runtime.errors import Unavailable, from_rpc
from runtime.linux import netns
from runtime.linux.directories import remove_tree
from runtime.lookups import security, users
from runtime.lookups.snapshot import open_snapshot
from runtime.sandboxes import files, unfinished
from runtime.sandboxes.record import save_metadata
from runtime.sandboxes.services import Services
from runtime.steps import threads
from runtime.steps.rollback import Rollback
from runtime.steps.side_by_side import all_finished, beside
from runtime.steps.times import StepTimes
from runtime.store import records
from runtime.tasks import shared_shim
from runtime.transforms import facts

log = structlog.get_logger(__name__)


async def run(
    services: Services, request: api_pb2.RunPodSandboxRequest
) -> api_pb2.RunPodSandboxResponse:
    """Make the pod and answer its id once it is READY; on failure nothing is left of it.

    Raises FailedPrecondition while another sandbox has the name, InvalidArgument for a handler that
    the config lacks, and whatever the failing step says.
    """
    plan = plan_sandbox(request.config)
    metadata = facts.SandboxMetadata(
        id=secrets.token_hex(32),
        name=plan.pod_name,
        config=request.config,
        runtime_handler=request.runtime_handler,
    )
    handler = services.handlers.named(request.runtime_handler, field="runtime_handler")
    if not plan.on_node_network:
        _must_have_network(services)
    await _Creation(services, handler, metadata, plan).run()
    return api_pb2.RunPodSandboxResponse(pod_sandbox_id=metadata.id)


def _must_have_network(services: Services) -> None:
    """Refuse before anything is made: a DEL for what no plugin ever saw would fail as well."""
    problem = services.network.problem()
    if problem is not None:
        raise Unavailable(f"the pod network is not ready: {problem}")


class _Creation:
    """One RunPodSandbox at work."""

    def __init__(
        self,
        services: Services,
        handler: facts.Handler,
        metadata: facts.SandboxMetadata,
        plan: SandboxPlan,
    ) -> None:
        self._services = services
        self._plan = plan
        self._containerd = services.containerd
        self._handler = handler
        self._metadata = metadata
        self._files = services.store.layout.sandbox(metadata)
        self._times = StepTimes()
        self._undo = Rollback(self._keep)
        self._lease: asyncio.Task[None] | None = None
        self._recorded = asyncio.Event()
        self._snapshot: asyncio.Task[None] | None = None
        self._rootfs: list[types_pb2.Mount] = []
        self._kept_record = containers_pb2.Container()
        self._pid = 0

    async def run(self) -> None:
        store = self._services.store
        async with self._undo as undo:
            store.names.reserve(self._metadata.name, self._metadata.id)
            undo.push("free the name", store.names.release, self._metadata.name, self._metadata.id)
            try:
                await self._make()
            except aio.AioRpcError as error:
                raise from_rpc(error, f"run sandbox {self._metadata.name}") from error
        status = facts.SandboxStatus(
            SandboxState.READY,
            created_at=self._kept_record.created_at.ToNanoseconds(),
            pid=self._pid,
        )
        sandbox = store.sandboxes.add(self._metadata, status, snapshotter=self._handler.snapshotter)
        self._services.exits.follow_sandbox(sandbox)
        log.debug("sandbox steps", sandbox=sandbox.id, **self._times.spans())

    def _keep(self, problem: str) -> None:
        """Stay known, for Stop and Remove to try again what could not be undone."""
        log.error("sandbox stays unknown", sandbox=self._metadata.id, problem=problem)
        status = facts.SandboxStatus(SandboxState.UNKNOWN, created_at=time.time_ns())
        self._services.store.sandboxes.add(
            self._metadata, status, snapshotter=self._handler.snapshotter
        )

    # The steps

    async def _make(self) -> None:
        sandbox_id = self._metadata.id
        undo = self._undo
        if not self._plan.on_node_network:
            path = netns.new_path(self._services.netns_directory)
            self._metadata = replace(self._metadata, netns_path=path)
        log.debug("sandbox is being made", sandbox=sandbox_id, netns=self._metadata.netns_path)
        undo.push("delete its directories", self._remove_directories)
        unfinished.write(self._files, self._metadata)
        undo.push("delete the lease", self._delete_lease)
        self._lease = asyncio.create_task(self._create_lease())
        image = await self._pause_image()
        if self._metadata.netns_path:
            await self._make_namespace()
        undo.push("remove the snapshot", self._remove_snapshot)
        undo.push("delete the container", delete_container, self._containerd, sandbox_id)
        undo.push(
            "withdraw the record of its shim", shared_shim.withdraw, self._containerd, sandbox_id
        )
        undo.push("end the pause task", self._services.exits.end, sandbox_id)
        await self._make_network_and_pause(image)
        unfinished.clear(self._files)

    async def _make_network_and_pause(self, image: facts.Image) -> None:
        if not self._metadata.netns_path:
            await all_finished(self._start_pause(image))
        elif self._plan.network_first:
            await self._attach(recorded=False)
            await all_finished(self._start_pause(image))
        else:
            await beside(stoppable=self._attach(recorded=True), finishing=self._start_pause(image))

    async def _create_lease(self) -> None:
        with self._times.step("lease"):
            await self._containerd.leases.Create(leases_pb2.CreateRequest(id=self._metadata.id))

    async def _pause_image(self) -> facts.Image:
        reference = self._services.config.pause_image
        with self._times.step("image"):
            return await self._services.images.ensure(reference)

    async def _make_namespace(self) -> None:
        path = self._metadata.netns_path
        self._undo.push("remove the network namespace", netns.remove, path)
        with self._times.step("netns"):
            await netns.create(path)

    async def _attach(self, *, recorded: bool) -> None:
        """CNI ADD; ``recorded``: put the answer into the container's record, once there is one."""
        metadata = self._metadata
        self._undo.push("give the network back", self._detach)
        with self._times.step("cni"):
            attachment = await self._services.network.add(
                metadata.id, metadata.netns_path, metadata.config
            )
        self._metadata = replace(
            metadata,
            ip=attachment.ip,
            additional_ips=tuple(attachment.additional_ips),
            cni_result=attachment.result,
        )
        if recorded:
            await self._recorded.wait()
            with self._times.step("update"):
                await save_metadata(self._containerd, self._kept_record, self._metadata)

    async def _start_pause(self, image: facts.Image) -> None:
        await self._prepare(image)
        sandbox_id = self._metadata.id
        await all_finished(self._create_task(), self._share_shim())
        self._services.exits.wait(sandbox_id)
        with self._times.step("start"):
            started = await self._containerd.tasks.Start(
                tasks_pb2.StartRequest(container_id=sandbox_id)
            )
        self._pid = started.pid

    async def _create_task(self) -> None:
        with self._times.step("task"):
            await self._containerd.tasks.Create(
                tasks_pb2.CreateTaskRequest(
                    container_id=self._metadata.id,
                    rootfs=self._rootfs,
                    runtime_path=self._handler.runtime_path,
                )
            )

    async def _prepare(self, image: facts.Image) -> None:
        """Make everything that the task needs, side by side."""
        self._snapshot = asyncio.ensure_future(self._prepare_snapshot(image))
        await all_finished(self._snapshot, self._create_container(image), self._make_files())

    async def _share_shim(self) -> None:
        """Tell containerd of the pod, so that its containers start in the pause task's shim."""
        if shared_shim.offered(self._containerd):
            with self._times.step("shim"):
                await shared_shim.announce(self._containerd, self._handler, self._metadata)

    async def _make_files(self) -> None:
        with self._times.step("files"):
            await threads.STATE_FILES.run(
                files.make, self._files, self._metadata.config, self._services.host
            )

    async def _prepare_snapshot(self, image: facts.Image) -> None:
        if self._lease is not None:
            await self._lease
        with self._times.step("snapshot"):
            try:
                self._rootfs = await self._prepare_on(image.chain_id)
                return
            except aio.AioRpcError as error:
                if not is_not_found(error):
                    raise
            # The layers are gone, e.g. after a failed unpack: make them again from the content.
            parent = await self._services.images.unpacked(image, self._handler.snapshotter)
            self._rootfs = await self._prepare_on(parent)

    async def _prepare_on(self, parent: str) -> list[types_pb2.Mount]:
        answer = await self._containerd.snapshots.Prepare(
            snapshots_pb2.PrepareSnapshotRequest(
                snapshotter=self._handler.snapshotter,
                key=self._metadata.id,
                parent=parent,
                labels=self._plan.snapshot_labels,
            ),
            metadata=self._containerd.with_lease(self._metadata.id),
        )
        return list(answer.mounts)

    async def _create_container(self, image: facts.Image) -> None:
        wanted = await self._record(image)
        with self._times.step("container"):
            answer = await self._containerd.containers.Create(
                containers_pb2.CreateContainerRequest(container=wanted)
            )
        # as the daemon keeps it, with the time that recovery will read
        self._kept_record = answer.container
        self._recorded.set()

    async def _record(self, image: facts.Image) -> containers_pb2.Container:
        """The pause container as containerd keeps it, its OCI spec built by the mapping."""
        config, host = self._metadata.config, self._services.host
        wanted = security.wanted_by_sandbox(config.linux.security_context, host)
        sandbox = facts.Sandbox(
            metadata=self._metadata,
            status=facts.SandboxStatus(SandboxState.READY),
            files=self._files,
            security=await security.look_up(wanted),
        )
        record = containers_pb2.Container(
            id=self._metadata.id,
            image=image.reference,
            runtime=container_runtime(self._handler),
            snapshotter=self._handler.snapshotter,
            snapshot_key=self._metadata.id,
        )
        record.extensions[records.SANDBOX_EXTENSION].CopyFrom(
            records.sandbox_extension(self._metadata)
        )
        spec = defaults.sandbox_spec()
        pod_sandbox_config.apply(
            config,
            spec,
            handler=self._handler,
            host=host,
            image=image,
            record=record,
            sandbox=sandbox,
            user=await self._user(image),
        )
        record.spec.CopyFrom(oci_any(spec))
        return record

    async def _user(self, image: facts.Image) -> facts.User:
        """The pause process's user: by number, or as the image's own files know it."""
        context = self._metadata.config.linux.security_context
        wanted = users.wanted_by_sandbox(context, image.user)
        if not wanted.needs_database:
            return users.resolve(wanted, users.UserDatabase())
        database = self._services.users.known(image.chain_id)
        if database is None:
            if self._snapshot is not None:
                await asyncio.shield(self._snapshot)
            database = await threads.IMAGE_FILES.run(self._read_users, image.chain_id)
        return users.resolve(wanted, database)

    def _read_users(self, chain_id: str) -> users.UserDatabase:
        with open_snapshot(self._rootfs, Path(self._files.root_dir)) as layers:
            return self._services.users.get(chain_id, lambda: users.read_database(layers))

    # Undoing them

    async def _remove_directories(self) -> None:
        for directory in (self._files.state_dir, self._files.root_dir):
            await remove_tree(directory)

    async def _delete_lease(self) -> None:
        if self._lease is not None:
            await asyncio.wait({self._lease})
        await delete_lease(self._containerd, self._metadata.id)

    async def _remove_snapshot(self) -> None:
        await remove_snapshot(self._containerd, self._handler.snapshotter, self._metadata.id)

    async def _detach(self) -> None:
        """CNI DEL, strictly: whatever a half-done ADD left must be given back, or be retried."""
        metadata = self._metadata
        await self._services.network.delete(
            metadata.id, metadata.netns_path, metadata.config, had_result=True
        )
