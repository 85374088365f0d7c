"""CheckpointContainer: write the processes and the changed files of a container to an archive.

The container is paused while CRIU (which runc runs) writes its processes and containerd its changed
files, so that both belong together; then it continues. It also continues if the checkpoint fails,
takes too long, or is interrupted by the end of this server: the directory of an unfinished
checkpoint tells recovery that the container may be paused.
"""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
import structlog
from google.protobuf.timestamp_pb2 import Timestamp
from grpc import aio

from generated.containerd import (
    content_pb2,
    diff_pb2,
    runc_options_pb2,
    snapshots_pb2,
    tasks_pb2,
)
from generated.cri import api_pb2
from generated.lifecycle import ContainerState
from generated.plans import CheckpointContainerPlan
from generated.statuses import container_status_response
from runtime.containerd import leases
from runtime.containerd.runtime_options import is_runc
from runtime.containerd.values import proto_any
from runtime.containers import checkpoint_archive, status
from runtime.containers.specs import read_record
from runtime.errors import CriError, DeadlineExceeded, FailedPrecondition, from_rpc
from runtime.linux.directories import remove_tree
from runtime.lookups import criu
from runtime.readings import Details
from runtime.steps import threads
from runtime.steps.parallel import all_finished
from runtime.store import records
from runtime.tasks.calls import resume_task

if TYPE_CHECKING:
    from runtime.containerd.client import Metadata
    from runtime.containers.services import Services
    from runtime.store.objects import Container

log = structlog.get_logger(__name__)

_LAYER: Final = "application/vnd.oci.image.layer.v1.tar"

_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 5.0
"""Seconds between attempts to let a container continue, doubled from the first."""


async def checkpoint(
    services: Services, container: Container, plan: CheckpointContainerPlan
) -> api_pb2.CheckpointContainerResponse:
    """Write ``plan.archive``; a checkpoint of the same container that is being written is waited
    for.

    Raises Unimplemented or FailedPrecondition if the node cannot do it, and DeadlineExceeded if it
    takes too long.
    """
    await criu.must_work(enabled=services.config.enable_criu)
    handler = services.handler_of(container)
    if handler is None or not is_runc(handler.runtime_type):
        name = handler.runtime_type if handler else "a runtime that is no longer configured"
        raise FailedPrecondition(
            f"container {container.id} runs under {name}; only runc and programs with its command"
            " line can write checkpoints"
        )
    lock = services.checkpoints.setdefault(container, asyncio.Lock())
    try:
        async with asyncio.timeout(plan.time_limit), lock:
            if container.state is not ContainerState.RUNNING:
                raise FailedPrecondition(
                    f"container {container.id} is {container.state.name}; only running containers"
                    " can be checkpointed"
                )
            writing = _Checkpoint(services, container, time.monotonic() + plan.time_limit)
            await writing.run(Path(plan.archive))
    except TimeoutError:
        raise DeadlineExceeded(
            f"the checkpoint of container {container.id} took longer than {plan.time_limit} s and"
            " was aborted; the container keeps running"
        ) from None
    except aio.AioRpcError as error:
        raise from_rpc(error, f"checkpoint container {container.id}") from error
    return api_pb2.CheckpointContainerResponse()


async def resume_interrupted(services: Services, container_id: str) -> None:
    """Let a container continue whose checkpoint was interrupted by the end of an earlier server.

    Raises AioRpcError.
    """
    directory = services.store.layout.container_checkpoint(container_id)
    if directory.exists():
        await resume_task(services.containerd, container_id)
        await remove_tree(directory)
        log.info("container continues after an interrupted checkpoint", container=container_id)


class _Checkpoint:
    """One checkpoint in progress."""

    def __init__(self, services: Services, container: Container, end: float) -> None:
        self._services = services
        self._container = container
        self._directory = services.store.layout.container_checkpoint(container.id)
        self._end = end
        """Monotonic time of the deadline."""
        self._log_size = 0
        """Bytes of the log that the checkpointed processes have written."""

    async def run(self, archive: Path) -> None:
        await threads.HOST_PATHS.run_at(
            [str(archive.parent)], checkpoint_archive.must_be_writable, archive
        )
        await remove_tree(self._directory)
        try:
            await threads.STATE_FILES.run(checkpoint_archive.make, self._directory)
            await self._describe()
            await self._dump()
            await threads.HOST_PATHS.run(
                checkpoint_archive.write,
                self._directory,
                archive,
                log_file=self._container.metadata.log_path,
                log_size=self._log_size,
            )
        finally:
            await asyncio.shield(remove_tree(self._directory))
        log.info("checkpoint written", container=self._container.id, archive=str(archive))

    async def _describe(self) -> None:
        """Write the files that say what was checkpointed."""
        container = self._container
        record = await read_record(self._services.containerd, container.id)
        now = Timestamp()
        now.FromDatetime(datetime.now(UTC))
        shown = await status.shown(self._services, container.facts)
        answer = container_status_response.read(shown_container=shown, details=Details({}))
        shown_status = records.to_go(answer.status)
        documents = {
            "config.dump": checkpoint_archive.config_dump(
                container.metadata, shown_status, record, checkpointed_at=now
            ),
            "spec.dump": record.spec.value,
            "status.dump": msgspec.json.encode(shown_status),
            "status": records.container_status_json(container.status),
        }
        await threads.STATE_FILES.run(
            checkpoint_archive.write_documents, self._directory, documents
        )

    async def _dump(self) -> None:
        """Write processes and changed files."""
        containerd = self._services.containerd
        async with leases.temporary(containerd, "checkpoint") as lease:
            below = await self._image(lease)
            # not cancelled with the call: runc cannot be interrupted, and what is paused must
            # continue
            changed: list[str] = []
            await all_finished(self._frozen(below, lease, changed))
            await self._copy(changed[0])

    async def _image(self, lease: Metadata) -> snapshots_pb2.ViewSnapshotResponse:
        """The root file system without the container's changes."""
        snapshots = self._services.containerd.snapshots
        snapshotter = self._services.snapshotter(self._container)
        found = await snapshots.Stat(
            snapshots_pb2.StatSnapshotRequest(snapshotter=snapshotter, key=self._container.id)
        )
        view: snapshots_pb2.ViewSnapshotResponse = await snapshots.View(
            snapshots_pb2.ViewSnapshotRequest(
                snapshotter=snapshotter,
                key=dict(lease)["containerd-lease"],
                parent=found.info.parent,
            ),
            metadata=lease,
        )
        return view

    async def _frozen(
        self, below: snapshots_pb2.ViewSnapshotResponse, lease: Metadata, changed: list[str]
    ) -> None:
        """What needs the container to be paused; puts the digest of the changed files into
        ``changed``."""
        containerd = self._services.containerd
        container_id = self._container.id
        try:
            await containerd.tasks.Pause(tasks_pb2.PauseTaskRequest(container_id=container_id))
            await self._run_criu()
            log_file = self._container.metadata.log_path
            if log_file:
                self._log_size = await threads.HOST_PATHS.run_at(
                    [log_file], checkpoint_archive.size, log_file
                )
            above = await containerd.snapshots.Mounts(
                snapshots_pb2.MountsRequest(
                    snapshotter=self._services.snapshotter(self._container), key=container_id
                )
            )
            answer = await containerd.diff.Diff(
                diff_pb2.DiffRequest(
                    left=below.mounts,
                    right=above.mounts,
                    media_type=_LAYER,
                    ref=dict(lease)["containerd-lease"],
                ),
                metadata=lease,
                timeout=self._left(),
            )
            changed.append(answer.diff.digest)
        finally:
            await self._resume()

    async def _run_criu(self) -> None:
        options = runc_options_pb2.CheckpointOptions(
            image_path=str(self._directory / checkpoint_archive.IMAGES),
            work_path=str(self._directory),
        )
        request = tasks_pb2.CheckpointTaskRequest(
            container_id=self._container.id, options=proto_any(options)
        )
        try:
            await self._services.containerd.tasks.Checkpoint(request, timeout=self._left())
        except aio.AioRpcError as error:
            said = await threads.STATE_FILES.run(
                checkpoint_archive.errors_in, self._directory / checkpoint_archive.DUMP_LOG
            )
            failure = from_rpc(error, f"checkpoint container {self._container.id}")
            raise type(failure)("; ".join([str(failure), *said])) from error

    async def _resume(self) -> None:
        """Let the container continue, however long it takes to reach its shim."""
        pause = _FIRST_PAUSE
        while self._container.state is ContainerState.RUNNING:
            try:
                return await resume_task(self._services.containerd, self._container.id)
            except (aio.AioRpcError, CriError) as error:
                log.warning(
                    "container is still paused after a checkpoint; trying again",
                    container=self._container.id,
                    error=str(error),
                )
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    async def _copy(self, digest: str) -> None:
        """Copy the changed files out of containerd's content store."""
        request = content_pb2.ReadContentRequest(digest=digest)
        read = self._services.containerd.content.Read(request)
        path = self._directory / checkpoint_archive.CHANGED_FILES
        with path.open("xb") as file:
            async for piece in read:
                await threads.STATE_FILES.run(file.write, piece.data)
        await threads.STATE_FILES.run(checkpoint_archive.list_deleted, self._directory)

    def _left(self) -> float:
        """Seconds for a call that is not cancelled with the checkpoint's."""
        return max(self._end - time.monotonic(), 0.001)
