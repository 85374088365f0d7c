"""RunPodSandbox calls that never answered: a note of each lies beside the pod's files.

The note is written before anything is made that a crash could leave behind, and deleted when the
pod is whole. It holds what undoing needs: the pod's record, with the path of its namespace.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import structlog

from generated.containerd import containers_pb2
from runtime.containerd.removals import delete_container, delete_lease, remove_snapshot
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


async def undo(
    services: Services, metadata: facts.SandboxMetadata, record: containers_pb2.Container | None
) -> None:
    """What the rollback of RunPodSandbox does, for one that had no time to do it.

    ``record`` is the pause container's, if it was made. Every step succeeds if there is nothing to
    undo; the note goes last, with the pod's files.
    """
    containerd = services.containerd
    await services.exits.end(metadata.id)
    if record is not None:
        await dead_shim.clean_up_record(containerd.namespace, record)
        # the kill cut the creation of the task short, so containerd forgot the shim
        await shims.end(containerd, metadata.id)
    await shared_shim.withdraw(containerd, metadata.id)
    await delete_container(containerd, metadata.id)
    snapshotter = record.snapshotter if record is not None else ""
    await remove_snapshot(
        containerd,
        snapshotter or services.handlers.snapshotter(metadata.runtime_handler),
        metadata.id,
    )
    if metadata.netns_path:
        alive = netns.is_alive(metadata.netns_path)
        await services.network.delete(
            metadata.id,
            metadata.netns_path if alive else "",
            metadata.config,
            had_result=True,
        )
        await netns.remove(metadata.netns_path)
    await delete_lease(containerd, metadata.id)
    files = services.store.layout.sandbox(metadata)
    for directory in (files.state_dir, files.root_dir):
        await remove_tree(directory)
