"""CreateContainer from a checkpoint: a container that continues where another one was.

The request names an archive of CheckpointContainer by its path, or an image made of one, instead of
an image. The new container is based on the image of the old one; name, mounts, environment of
further commands, resources and pod are those of the request. What CRIU needs is unpacked into the
directory of the container, which tells StartContainer to restore its processes; that works on every
containerd, also after this server was restarted in between.

Only expected names are unpacked, and only regular files, because an archive can come from anywhere.
"""

from __future__ import annotations

import os
import shutil
import stat
import tarfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, TypeVar

import msgspec
import structlog
from grpc import aio

from generated.containerd import snapshots_pb2, types_pb2
from generated.cri import api_pb2
from generated.plans import ContainerPlan, plan_restored_container
from runtime import regular_files
from runtime.containerd import leases
from runtime.containers import checkpoint_archive
from runtime.documents import DocumentError, decode
from runtime.errors import FailedPrecondition, InvalidArgument, from_rpc
from runtime.lookups import criu
from runtime.lookups.snapshot import open_snapshot
from runtime.steps import threads
from runtime.transforms import facts
from runtime.transforms.annotations import is_checkpoint

if TYPE_CHECKING:
    from runtime.containers.services import Services
    from runtime.store.objects import Sandbox

log = structlog.get_logger(__name__)

_FIELD: Final = "config.image.image"
_DOCUMENT_LIMIT: Final = 1 << 22
"""Bytes of each document of an archive."""
_UNPACKED: Final = (checkpoint_archive.CHANGED_FILES, checkpoint_archive.LOG)
"""What is unpacked besides the files of CRIU."""

_Files = Iterator[tuple[str, IO[bytes]]]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint that a request names."""

    name: str
    """The path of the archive, or the reference of the image."""
    image: facts.Image | None
    """The image made of it; None for an archive."""


class _ConfigDump(msgspec.Struct):
    rootfsImageRef: str = ""
    rootfsImageName: str = ""
    checkpointedTime: str = ""


class _StatusDump(msgspec.Struct):
    annotations: dict[str, str] | None = None


_T = TypeVar("_T")


async def requested(services: Services, plan: ContainerPlan) -> Checkpoint | None:
    """The checkpoint that the image of a request is; None if it is an image to run.

    Raises FailedPrecondition for a path if restoring is disabled.
    """
    enabled = services.config.enable_experimental_restore_via_create
    if plan.checkpoint_archive:
        if not enabled:
            raise FailedPrecondition(
                f"{plan.checkpoint_archive} is a path, and restoring checkpoints is disabled on"
                " this node: set enable_experimental_restore_via_create = true",
                field=_FIELD,
            )
        return Checkpoint(plan.checkpoint_archive, None)
    if not enabled:
        return None
    found = await services.images.resolve(plan.image)
    if found is None:
        return None
    if not is_checkpoint(await services.images.annotations(found)):
        return None
    return Checkpoint(plan.image, found)


async def based(
    services: Services, sandbox: Sandbox, checkpoint: Checkpoint, config: api_pb2.ContainerConfig
) -> tuple[facts.Image, api_pb2.ContainerConfig]:
    """The image of the old container, pulled if the node lacks it, and the config of the new one.

    Raises CriError if CRIU cannot be used, or the archive is none.
    """
    await criu.must_work(enabled=services.config.enable_criu)
    documents = await _documents(services, sandbox, checkpoint)
    old = described(documents, checkpoint.name)
    image = await services.images.resolve(old.image_ref) if old.image_ref else None
    if image is None:
        image = await services.images.ensure(old.image_name)
    plan = plan_restored_container(config, checkpoint=old)
    restored = api_pb2.ContainerConfig()
    restored.CopyFrom(config)
    restored.MergeFrom(api_pb2.ContainerConfig(annotations=plan.restored_annotations))
    restored.image.image = old.image_name
    log.info("restoring a checkpoint", checkpoint=checkpoint.name, image=old.image_name)
    return image, restored


def described(documents: Mapping[str, bytes], name: str) -> facts.Checkpoint:
    """The old container, by the documents of its checkpoint; raises InvalidArgument if they are not
    such documents. ``status.dump`` is missing in those of CRI-O."""
    config = _document(documents, "config.dump", _ConfigDump, name)
    if not config.rootfsImageName:
        raise InvalidArgument(
            f"config.dump of the checkpoint {name} does not name the image", field=_FIELD
        )
    status = (
        _document(documents, "status.dump", _StatusDump, name)
        if "status.dump" in documents
        else _StatusDump()
    )
    return facts.Checkpoint(
        name,
        image_ref=config.rootfsImageRef,
        image_name=config.rootfsImageName,
        checkpointed_at=config.checkpointedTime,
        annotations=status.annotations or {},
    )


def _document(documents: Mapping[str, bytes], document: str, kind: type[_T], name: str) -> _T:
    if document not in documents:
        raise InvalidArgument(
            f"{name} is not the archive of a checkpoint: it has no {document}", field=_FIELD
        )
    try:
        return decode(documents[document], kind)
    except DocumentError as error:
        raise InvalidArgument(
            f"{document} of the checkpoint {name}: {error}", field=_FIELD
        ) from error


async def unpack(
    services: Services,
    sandbox: Sandbox,
    checkpoint: Checkpoint,
    container_id: str,
    rootfs: list[types_pb2.Mount],
    log_path: str,
) -> None:
    """Unpack what StartContainer needs, and the changed files into the root file system."""
    target = services.store.layout.container_restore(container_id)
    await _with_files(services, sandbox, checkpoint, lambda files: _unpack(files, target))
    if not (target / checkpoint_archive.IMAGES).is_dir():
        raise InvalidArgument(
            f"{checkpoint.name} is not the archive of a checkpoint: it has no files of CRIU",
            field=_FIELD,
        )
    changed = target / checkpoint_archive.CHANGED_FILES
    if changed.exists():
        async with leases.temporary(services.containerd, "restore") as lease:
            await services.images.apply(changed, rootfs, lease)
    if log_path:
        await threads.HOST_PATHS.run_at(
            [log_path], _copy_log, target / checkpoint_archive.LOG, log_path
        )


async def _documents(
    services: Services, sandbox: Sandbox, checkpoint: Checkpoint
) -> dict[str, bytes]:
    found: dict[str, bytes] = {}

    def read(files: _Files) -> None:
        for name, file in files:
            if name in ("config.dump", "status.dump"):
                found[name] = file.read(_DOCUMENT_LIMIT)

    await _with_files(services, sandbox, checkpoint, read)
    return found


async def _with_files(
    services: Services,
    sandbox: Sandbox,
    checkpoint: Checkpoint,
    work: Callable[[_Files], None],
) -> None:
    """Call ``work``, in a thread, with the regular files of the checkpoint."""
    if checkpoint.image is None:
        await threads.HOST_PATHS.run_at(
            [checkpoint.name], _work_on, lambda: _archive(checkpoint.name), work
        )
        return
    snapshotter = services.handler(sandbox).snapshotter
    parent = await services.images.unpacked(checkpoint.image, snapshotter)
    try:
        async with leases.temporary(services.containerd, "restore") as lease:
            view = await services.containerd.snapshots.View(
                snapshots_pb2.ViewSnapshotRequest(
                    snapshotter=snapshotter, key=dict(lease)["containerd-lease"], parent=parent
                ),
                metadata=lease,
            )
            scratch = services.store.layout.state / "restores"
            await threads.IMAGE_FILES.run(_work_on, lambda: _layers(view.mounts, scratch), work)
    except aio.AioRpcError as error:
        raise from_rpc(error, f"read the checkpoint {checkpoint.name}") from error


# Everything below blocks.


def _work_on(
    opened: Callable[[], AbstractContextManager[_Files]], work: Callable[[_Files], None]
) -> None:
    with opened() as files:
        work(files)


@contextmanager
def _archive(path: str) -> Iterator[_Files]:
    """The regular files of a tar, compressed or not."""
    with ExitStack() as stack:
        try:
            file = stack.enter_context(regular_files.opened(path, largest=None))
        except OSError as error:
            raise InvalidArgument(f"cannot open {path}: {error.strerror}", field=_FIELD) from error
        try:
            with tarfile.open(fileobj=file) as tar:
                yield _members(tar)
        except tarfile.TarError as error:
            raise InvalidArgument(
                f"{path} is not the archive of a checkpoint: {error}", field=_FIELD
            ) from error


def _members(tar: tarfile.TarFile) -> _Files:
    for member in tar:
        if member.isreg() and (content := tar.extractfile(member)) is not None:
            yield os.path.normpath(member.name), content


@contextmanager
def _layers(mounts: Collection[types_pb2.Mount], scratch: Path) -> Iterator[_Files]:
    """The regular files of an image made of a checkpoint."""

    def files() -> _Files:
        for name, path in layers.tree("/"):
            if stat.S_ISREG(os.lstat(path).st_mode):
                with open(path, "rb") as file:
                    yield name, file

    with open_snapshot(list(mounts), scratch) as layers:
        yield files()


def _unpack(files: _Files, target: Path) -> None:
    checkpoint_archive.make(target)
    for name, file in files:
        folder, _, last = name.rpartition("/")
        if name in _UNPACKED or (folder == checkpoint_archive.IMAGES and last not in ("", "..")):
            with open(target / name, "xb", opener=_private) as copy:
                shutil.copyfileobj(file, copy)
    if not any((target / checkpoint_archive.IMAGES).iterdir()):
        (target / checkpoint_archive.IMAGES).rmdir()


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def _copy_log(source: Path, target: str) -> None:
    """Let the log of the new container begin with that of the old one, unless it has begun."""
    if not source.exists():
        return
    try:
        descriptor = os.open(
            target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o640
        )
    except OSError as error:
        log.warning("log of a checkpoint not copied", path=target, error=error.strerror)
        return
    with open(descriptor, "wb") as copy, source.open("rb") as file:
        shutil.copyfileobj(file, copy)
