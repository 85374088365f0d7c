"""RunPodSandbox calls that were interrupted: for each, a note among the pod's files.

The note is written before anything is created that a crash could leave behind, and deleted when the
pod is complete. It contains what undoing needs: the pod's record, with the path of its namespace.
One list says how every part of such a pod is undone, for the rollback of a failed call and for
recovery after a crash.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final

import structlog

from generated.containerd import containers_pb2
from runtime import regular_files
from runtime.containerd.deletions import delete_container, delete_lease, remove_snapshot
from runtime.linux import netns
from runtime.linux.directories import remove_tree
from runtime.linux.files import write_whole
from runtime.sandboxes.services import Services
from runtime.store import records
from runtime.store.layout import Layout
from runtime.store.records import RecordError
from runtime.tasks import dead_shim, shared_shim, shims
from runtime.transforms import facts

log = structlog.get_logger(__name__)

NAME: Final = "unfinished"
"""The note's file below the pod's root directory."""


def write(files: facts.SandboxFiles, metadata: facts.SandboxMetadata) -> None:
    """Write the note that the pod is being created; raises OSError."""
    root = Path(files.root_dir)
    root.mkdir(mode=0o755, parents=True, exist_ok=True)
    # protects against a crash of this process; after a power failure no namespace or task is left
    write_whole(root / NAME, records.sandbox_metadata_json(metadata), durable=False)


def clear(files: facts.SandboxFiles) -> None:
    """The pod is complete: delete the note."""
    Path(files.root_dir, NAME).unlink()


def found(layout: Layout) -> list[facts.SandboxMetadata]:
    """The pods of all notes; an unreadable note is logged, and its files are kept."""
    notes = []
    for note in sorted(layout.root.glob(f"sandboxes/*/{NAME}")):
        try:
            notes.append(
                records.sandbox_metadata(regular_files.read(note, largest=records.LARGEST))
            )
        except (OSError, RecordError) as error:
            log.warning(
                "unreadable record of an unfinished sandbox", path=str(note), error=str(error)
            )
    return notes


# Undoing


@dataclass(frozen=True, slots=True)
class Remains:
    """A pod whose creation did not complete."""

    services: Services
    metadata: facts.SandboxMetadata
    snapshotter: str = ""
    """If empty, the one currently configured for the pod's handler."""
    record: containers_pb2.Container | None = None
    """The pause container's record left by an earlier server; its shim may still run without
    containerd knowing it."""


class Part(Enum):
    """The parts of a pod in the order of creation, and how the log describes undoing each."""

    DIRECTORIES = "delete its directories"
    LEASE = "delete the lease"
    NAMESPACE = "remove the network namespace"
    NETWORK = "release the network"
    SNAPSHOT = "remove the snapshot"
    CONTAINER = "delete the container"
    SHIM_RECORD = "delete the record of its shim"
    TASK = "end the pause task"


async def undo_part(remains: Remains, part: Part) -> None:
    """Undo one part; succeeds if it was not created. Parts created after it must be undone
    first."""
    await _UNDO[part](remains)


async def undo(remains: Remains) -> None:
    """Do what the rollback of RunPodSandbox had no time to do."""
    for part in reversed(Part):
        await undo_part(remains, part)


async def _end_task(remains: Remains) -> None:
    containerd, sandbox_id = remains.services.containerd, remains.metadata.id
    await remains.services.exits.end(sandbox_id)
    if remains.record is not None:
        await dead_shim.clean_up_record(containerd.namespace, remains.record)
        # the server was killed while the task was being created, so containerd forgot the shim
        await shims.end(containerd, sandbox_id)


async def _withdraw_shim_record(remains: Remains) -> None:
    await shared_shim.withdraw(remains.services.containerd, remains.metadata.id)


async def _delete_container(remains: Remains) -> None:
    await delete_container(remains.services.containerd, remains.metadata.id)


async def _remove_snapshot(remains: Remains) -> None:
    services, metadata = remains.services, remains.metadata
    snapshotter = services.handlers.snapshotter(metadata.runtime_handler, remains.snapshotter)
    await remove_snapshot(services.containerd, snapshotter, metadata.id)


async def _detach(remains: Remains) -> None:
    """CNI DEL, strictly: whatever an incomplete ADD left must be released, or retried."""
    metadata = remains.metadata
    if metadata.netns_path:
        await remains.services.network.delete(
            metadata.id,
            metadata.netns_path,
            metadata.config,
            had_result=True,
            handler=metadata.runtime_handler,
        )


async def _remove_namespace(remains: Remains) -> None:
    if remains.metadata.netns_path:
        await netns.remove(remains.metadata.netns_path)


async def _delete_lease(remains: Remains) -> None:
    await delete_lease(remains.services.containerd, remains.metadata.id)


async def _remove_directories(remains: Remains) -> None:
    """The note is deleted last, with the pod's files."""
    files = remains.services.store.layout.sandbox(remains.metadata)
    for directory in (files.state_dir, files.root_dir):
        await remove_tree(directory)


_UNDO: Final[Mapping[Part, Callable[[Remains], Awaitable[None]]]] = {
    Part.DIRECTORIES: _remove_directories,
    Part.LEASE: _delete_lease,
    Part.NAMESPACE: _remove_namespace,
    Part.NETWORK: _detach,
    Part.SNAPSHOT: _remove_snapshot,
    Part.CONTAINER: _delete_container,
    Part.SHIM_RECORD: _withdraw_shim_record,
    Part.TASK: _end_task,
}
