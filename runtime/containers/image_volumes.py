"""Images as volumes: a read-only view of an image, mounted on the node and bound into containers.

A pod has one mount of an image, shared by its containers. It is below the state directory, where
the built-in plugin has it, and its snapshot is protected by the pod's lease, so the image can be
removed meanwhile. Both exist until the pod is stopped. The mounts are read from the kernel each
time and never remembered, so a restart of this server changes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
from grpc import aio

from generated.containerd import snapshots_pb2, types_pb2
from generated.cri import api_pb2
from generated.lifecycle import SandboxState
from runtime.containerd.deletions import is_not_found, remove_snapshot
from runtime.errors import (
    CriError,
    FailedPrecondition,
    ImageVolumeMountFailed,
    from_rpc,
)
from runtime.linux import userns
from runtime.linux.directories import remove_tree, unmount
from runtime.linux.userns import MapLines
from runtime.lookups.layers import Layers
from runtime.lookups.snapshot import is_mounted, mount_mapped, mount_read_only
from runtime.steps import threads
from runtime.steps.parallel import all_finished
from runtime.transforms import facts

if TYPE_CHECKING:
    from runtime.containers.services import Services
    from runtime.store.objects import Sandbox


async def mounted(
    services: Services,
    sandbox: Sandbox,
    config: api_pb2.ContainerConfig,
    wanted: Sequence[facts.ImageMount],
) -> api_pb2.ContainerConfig:
    """The config with the image volumes as host paths, now mounted.

    As with the built-in plugin, this result is stored, so the status shows the host path, and the
    image's ID in ``image_ref``. Raises ImageVolumeMountFailed for anything that the image or the
    node lacks.
    """
    resolved = api_pb2.ContainerConfig()
    resolved.CopyFrom(config)
    async with _turn(services, sandbox):
        if sandbox.state is not SandboxState.READY:
            raise FailedPrecondition(
                f"pod {sandbox.id} is {sandbox.state.name}; images are mounted for a READY pod",
                field="pod_sandbox_id",
            )
        for volume in wanted:
            path, image_id = await _host_path(services, sandbox, volume)
            resolved.mounts[volume.index].host_path = path
            resolved.mounts[volume.index].image.image_ref = image_id
    return resolved


async def release(services: Services, sandbox: Sandbox) -> None:
    """Unmount the images of a pod and remove their snapshots; succeeds if there are none."""
    directory = services.store.layout.image_volumes(sandbox.id)
    async with _turn(services, sandbox):
        names = await threads.STATE_FILES.run(_names, directory)
        if names is None:
            return
        await unmount(directory)
        snapshotter = _snapshotter(services, sandbox)
        lease = services.containerd.with_lease(sandbox.id)
        keys = [str(directory / name) for name in names]
        await all_finished(
            *(remove_snapshot(services.containerd, snapshotter, key, lease=lease) for key in keys)
        )
        await remove_tree(directory)


async def _host_path(
    services: Services, sandbox: Sandbox, volume: facts.ImageMount
) -> tuple[str, str]:
    """The host path of the mounted volume, and the ID of its image."""
    image = await services.images.resolve(volume.reference)
    if image is None:
        raise ImageVolumeMountFailed(
            f"image {volume.reference!r} is not on this node; pull it first",
            field=f"{volume.field}.image.image",
        )
    maps = MapLines(volume.uid_map, volume.gid_map) if volume.uid_map else None
    name = image.id.partition(":")[2] + ("-mapped" if maps else "")
    target = services.store.layout.image_volumes(sandbox.id) / name
    doing = f"mount image {volume.reference}"
    try:
        await _ensure_mounted(services, sandbox, image, target, maps)
        path = await threads.IMAGE_FILES.run(_inside, target, volume.sub_path)
    except aio.AioRpcError as error:
        reason = from_rpc(error, doing).message
        raise ImageVolumeMountFailed(reason, field=f"{volume.field}.image") from error
    except OSError as error:
        raise ImageVolumeMountFailed(
            f"cannot {doing}: {error.strerror or error}", field=f"{volume.field}.image"
        ) from error
    except CriError as error:
        raise ImageVolumeMountFailed(
            f"cannot {doing}: {error.message}", field=f"{volume.field}.image"
        ) from error
    if path is None:
        raise ImageVolumeMountFailed(
            f"image {volume.reference} has no directory {volume.sub_path!r}",
            field=f"{volume.field}.image_sub_path",
        )
    return path, image.id


def _inside(root: Path, sub_path: str) -> str | None:
    """The directory of the image; its symbolic links are resolved inside the image."""
    return Layers((str(root),)).directory(sub_path)


async def _ensure_mounted(
    services: Services, sandbox: Sandbox, image: facts.Image, target: Path, maps: MapLines | None
) -> None:
    # before the snapshot: the directory's name identifies the snapshots to remove
    await threads.STATE_FILES.run(_make_directory, target)
    mounts = await _view(services, sandbox, image, str(target))
    # not cancelled, so that it is not mounted after the pod was removed
    await all_finished(threads.IMAGE_FILES.run(_mount, mounts, str(target), maps))


async def _view(
    services: Services, sandbox: Sandbox, image: facts.Image, key: str
) -> Sequence[types_pb2.Mount]:
    """The mounts of the pod's view of the image, which is created if it does not exist."""
    snapshotter = _snapshotter(services, sandbox)

    async def view(parent: str) -> list[types_pb2.Mount]:
        request = snapshots_pb2.ViewSnapshotRequest(snapshotter=snapshotter, key=key, parent=parent)
        lease = services.containerd.with_lease(sandbox.id)
        answer = await services.containerd.snapshots.View(request, metadata=lease)
        return list(answer.mounts)

    try:
        return await view(image.chain_id)
    except aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.ALREADY_EXISTS:
            request = snapshots_pb2.MountsRequest(snapshotter=snapshotter, key=key)
            return list((await services.containerd.snapshots.Mounts(request)).mounts)
        if not is_not_found(error):
            raise
    return await view(await services.images.unpacked(image, snapshotter))


def _mount(mounts: Sequence[types_pb2.Mount], target: str, maps: MapLines | None) -> None:
    if is_mounted(mounts, target):
        return
    if maps is None:
        mount_read_only(mounts, target)
        return
    with userns.held(maps) as namespace, open(namespace, "rb") as file:
        mount_mapped(mounts, target, file.fileno())


def _make_directory(target: Path) -> None:
    target.mkdir(mode=0o755, parents=True, exist_ok=True)


def _names(directory: Path) -> list[str] | None:
    """The names in a directory; None if it does not exist."""
    try:
        return [entry.name for entry in directory.iterdir()]
    except FileNotFoundError:
        return None


def _snapshotter(services: Services, sandbox: Sandbox) -> str:
    return services.handlers.snapshotter(sandbox.metadata.runtime_handler, sandbox.snapshotter)


def _turn(services: Services, sandbox: Sandbox) -> asyncio.Lock:
    """Held while a pod's images are being mounted or unmounted."""
    return services.volume_turns.setdefault(sandbox, asyncio.Lock())
