"""The archive of a checkpoint: a tar with the names and formats that ``checkpointctl`` reads.

========================  ==========================================================
``config.dump``           which container it was: JSON with the keys of Podman's files
``spec.dump``             its OCI spec
``status.dump``           its CRI status, as Go prints it
``status``                its status file
``checkpoint/``           what CRIU wrote: memory, file descriptors, namespaces
``rootfs-diff.tar``       the changed files of its root file system, as an image layer
``deleted.files``         a JSON list of deleted files, if there are any
``container.log``         its log file
``dump.log``, ``stats-dump``  what CRIU said, and how long it took
========================  ==========================================================

A checkpoint of the built-in plugin has the same files, except ``deleted.files``, which CRI-O and
Podman write; deleted files are also whiteouts in ``rootfs-diff.tar``.
"""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import msgspec
from google.protobuf.timestamp_pb2 import Timestamp

from generated.containerd import containers_pb2
from runtime import regular_files
from runtime.errors import FailedPrecondition, InvalidArgument
from runtime.linux.files import replacing
from runtime.transforms import facts

IMAGES: Final = "checkpoint"
CHANGED_FILES: Final = "rootfs-diff.tar"
DUMP_LOG: Final = "dump.log"
RESTORE_LOG: Final = "restore.log"
_DELETED_FILES: Final = "deleted.files"
LOG: Final = "container.log"

_PRIVATE: Final = 0o600
"""An archive contains the memory of the processes, and with it their secrets."""
_WHITEOUT: Final = ".wh."
_OPAQUE: Final = ".wh..wh."
"""Whiteouts that begin so stand for the content of a directory."""
_NEVER: Final = "0001-01-01T00:00:00Z"
"""Go's zero time."""
_PIECE: Final = 1 << 20
_QUOTED: Final = 3
"""Lines of CRIU's log in an error."""


def config_dump(
    metadata: facts.ContainerMetadata,
    status: Mapping[str, Any],
    record: containers_pb2.Container,
    *,
    checkpointed_at: Timestamp,
) -> bytes:
    """Which container this is, and the image that its root file system is based on.

    ``status`` is its CRI status as Go prints it.
    """
    image = status.get("image", {}).get("image", "")
    document = {
        "id": metadata.id,
        "name": metadata.name,
        "rootfsImage": image,
        "rootfsImageRef": status.get("image_ref", ""),
        "rootfsImageName": image,
        "runtime": record.runtime.name,
        "createdTime": record.created_at.ToJsonString(),
        "checkpointedTime": checkpointed_at.ToJsonString(),
        "restoredTime": _NEVER,
        "restored": False,
    }
    return msgspec.json.encode(document)


# Everything below blocks.


def must_be_writable(archive: Path) -> None:
    """Raise if no archive can be written to this path."""
    if not archive.parent.is_dir():
        raise FailedPrecondition(
            f"{archive.parent} is not a directory: create it first", field="location"
        )
    if os.path.lexists(archive) and not stat.S_ISREG(archive.lstat().st_mode):
        raise InvalidArgument(
            f"{archive} exists and is not a regular file: name a new one", field="location"
        )


def make(directory: Path) -> None:
    """Create the directory whose content becomes the archive."""
    directory.mkdir(mode=0o700)
    (directory / IMAGES).mkdir(mode=0o700)


def write_documents(directory: Path, documents: Mapping[str, bytes]) -> None:
    """Write small files."""
    for name, data in documents.items():
        (directory / name).write_bytes(data)


def list_deleted(directory: Path) -> None:
    """Write the list of deleted files, if there are any, from the whiteouts of the changed ones."""
    with tarfile.open(directory / CHANGED_FILES, "r:") as layer:
        deleted = [path for member in layer if (path := _deleted(member.name))]
    if deleted:
        (directory / _DELETED_FILES).write_bytes(msgspec.json.encode(deleted))


def _deleted(name: str) -> str | None:
    folder, _, last = name.rpartition("/")
    if not last.startswith(_WHITEOUT) or last.startswith(_OPAQUE):
        return None
    return os.path.join("/", folder, last.removeprefix(_WHITEOUT))


def size(path: str) -> int:
    """Bytes of a file; 0 if there is none."""
    try:
        return os.stat(path, follow_symlinks=False).st_size
    except OSError:
        return 0


def write(directory: Path, archive: Path, *, log_file: str, log_size: int) -> None:
    """Write the archive, which appears only when it is complete; raises OSError.

    Only the first ``log_size`` bytes of the log were written before the checkpoint.
    """
    if log_file:
        _copy_regular(log_file, directory / LOG, log_size)
    with (
        replacing(archive, mode=_PRIVATE, durable=False) as descriptor,
        open(descriptor, "wb", closefd=False) as file,
        tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for path in sorted(directory.rglob("*")):
            tar.add(path, path.relative_to(directory).as_posix(), recursive=False)


def _copy_regular(source: str, target: Path, limit: int) -> None:
    """Copy a regular file; without effect if it is none, because it may have been rotated away."""
    with ExitStack() as stack:
        try:
            file = stack.enter_context(regular_files.opened(source, largest=None, follow=False))
        except OSError:
            return
        copy = stack.enter_context(target.open("xb"))
        while limit > 0 and (piece := file.read(min(limit, _PIECE))):
            copy.write(piece)
            limit -= len(piece)


def errors_in(log: Path) -> list[str]:
    """The first errors in a log of CRIU; none if it was not written."""
    try:
        lines = log.read_text(errors="replace").splitlines()
    except OSError:
        return []
    return [line.partition(") ")[2] or line for line in lines if "Error (" in line][:_QUOTED]
