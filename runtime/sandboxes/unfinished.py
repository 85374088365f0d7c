"""RunPodSandbox calls that never answered: a note of each lies beside the pod's files.

The note is written before anything is made that a crash could leave behind, and deleted when the
pod is whole. It holds what undoing needs: the pod's record, with the path of its namespace.

One list says how every part of such a pod is undone, for the rollback of a call that failed and for
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
    """Note that the pod is being made; raises OSError."""
    root = Path(files.root_dir)
    root.mkdir(mode=0o755, parents=True, exist_ok=True)
    # for a crash of this process; after a power cut there is no namespace or task to end
    write_whole(root / NAME, records.sandbox_metadata_json(metadata), durable=False)


def clear(files: facts.SandboxFiles) -> None:
    """The pod is whole."""
    Path(files.root_dir, NAME).unlink()


def found(layout: Layout) -> list[facts.SandboxMetadata]:
    """The pods of all notes; one that cannot be read is logged, and its files stay."""
    notes = []
    for note in sorted(layout.root.glob(f"sandboxes/*/{NAME}")):
        try:
            notes.append(records.sandbox_metadata(note.read_bytes()))
        except (OSError, RecordError) as error:
            log.warning("unreadable note of a sandbox", path=str(note), error=str(error))
    return notes


# Undoing


@dataclass(frozen=True, slots=True)
class Remains:
    """A pod that never became whole."""

    services: Services
    metadata: facts.SandboxMetadata
    snapshotter: str = ""
    """Empty: the one that the pod's handler has today."""
    record: containers_pb2.Container | None = None
    """The pause container's as an earlier server left it, whose shim may go on unknown to
    containerd."""


class Part(Enum):
    """What RunPodSandbox makes, in this order, and how the undoing of it is called in the log."""

    DIRECTORIES = "delete its directories"
    LEASE = "delete the lease"
    NAMESPACE = "remove the network namespace"
    NETWORK = "give the network back"
    SNAPSHOT = "remove the snapshot"
    CONTAINER = "delete the container"
    SHIM_RECORD = "withdraw the record of its shim"
    TASK = "end the pause task"


async def undo_part(remains: Remains, part: Part) -> None:
    """Undo one part; succeeds if it was not made. The parts that were made after it go before."""
    await _UNDO[part](remains)


async def undo(remains: Remains) -> None:
    """What the rollback of RunPodSandbox does, for one that had no time to do it."""
    for part in reversed(Part):
        await undo_part(remains, part)


async def _end_task(remains: Remains) -> None:
    containerd, sandbox_id = remains.services.containerd, remains.metadata.id
    await remains.services.exits.end(sandbox_id)
    if remains.record is not None:
        await dead_shim.clean_up_record(containerd.namespace, remains.record)
        # the kill cut the creation of the task short, so containerd forgot the shim
        await shims.end(containerd, sandbox_id)


async def _withdraw_shim_record(remains: Remains) -> None:
    await shared_shim.withdraw(remains.services.containerd, remains.metadata.id)


async def _delete_container(remains: Remains) -> None:
    await delete_container(remains.services.containerd, remains.metadata.id)


async def _remove_snapshot(remains: Remains) -> None:
    services, metadata = remains.services, remains.metadata
    snapshotter = remains.snapshotter or services.handlers.snapshotter(metadata.runtime_handler)
    await remove_snapshot(services.containerd, snapshotter, metadata.id)


async def _detach(remains: Remains) -> None:
    """CNI DEL, strictly: whatever a half-done ADD left must be given back, or be retried."""
    metadata = remains.metadata
    if metadata.netns_path:
        await remains.services.network.delete(
            metadata.id, metadata.netns_path, metadata.config, had_result=True
        )


async def _remove_namespace(remains: Remains) -> None:
    if remains.metadata.netns_path:
        await netns.remove(remains.metadata.netns_path)


async def _delete_lease(remains: Remains) -> None:
    await delete_lease(remains.services.containerd, remains.metadata.id)


async def _remove_directories(remains: Remains) -> None:
    """The note goes last, with the pod's files."""
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
