"""The images of the node: list, status, pull, remove, and their disk usage."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec
import structlog
from grpc import aio

from generated.containerd import types_pb2
from generated.cri import api_pb2
from generated.plans import ImageStatusPlan, ListImagesPlan, PullImagePlan, RemoveImagePlan
from generated.statuses import image as image_status
from generated.statuses import (
    image_fs_info_response,
    image_status_response,
    list_images_response,
    pull_image_response,
)
from runtime.config.tables import Config, ConfigError
from runtime.containerd.client import Containerd, Metadata
from runtime.documents import DocumentError, decode
from runtime.errors import FailedPrecondition, from_rpc
from runtime.images import content as image_content
from runtime.images import layer_file as image_layer_file
from runtime.images import reference as image_reference
from runtime.images.intake import Intake
from runtime.images.leases import PullLeases
from runtime.images.metrics import Metrics
from runtime.images.platforms import host_platform
from runtime.images.pull import ImageSource, Puller
from runtime.images.registry.auth import ANONYMOUS, credentials
from runtime.images.store import ImageStore
from runtime.images.usage import ImageUsage, written
from runtime.lookups.handlers import Handlers
from runtime.readings import Details, Filesystems, LayerUsage
from runtime.transforms.facts import Host, Image, Listing

log = structlog.get_logger(__name__)


class Images:
    """The image operations, and what pods and containers need of images."""

    def __init__(
        self,
        *,
        containerd: Containerd,
        config: Config,
        host: Host,
        handlers: Handlers,
        left_out: Callable[[str], None],
        metrics: Metrics,
    ) -> None:
        """``left_out`` counts images that cannot be listed, by kind.

        Raises ConfigError for a pause image that is no image reference.
        """
        settings = config.images
        reason = image_reference.why_invalid(config.pause_image)
        if reason is not None:
            raise ConfigError(
                f"images.pinned_images.sandbox: {config.pause_image!r} is not an image reference: "
                f"{reason}"
            )
        platform = host_platform(host.architecture, os.uname().machine)
        self._containerd = containerd
        self._snapshotter = config.containerd.snapshotter
        self._handlers = handlers
        self._left_out = left_out
        others = {handler.snapshotter for handler in handlers.values()} - {self._snapshotter}
        self._snapshotters = (self._snapshotter, *sorted(others))
        self._store = ImageStore(
            containerd,
            platform,
            settings.pinned_images.values(),
            snapshotters=self._snapshotters,
            left_out=lambda _name: left_out("image"),
        )
        self._cache = self._store.cache
        self._intake = Intake(
            containerd,
            self._store,
            Puller(containerd, platform, settings=settings),
            PullLeases(containerd, str(config.state_dir)),
            settings,
            metrics,
        )
        self._usage = ImageUsage(containerd, self._snapshotters, settings.stats_collect_period)

    async def start(self) -> None:
        """Load all images; then stay up to date until ``close``."""
        await asyncio.gather(self._intake.start(), self._store.start())
        self._usage.start()

    async def close(self) -> None:
        """Cancel background work."""
        await asyncio.gather(self._store.close(), self._usage.close(), self._intake.close())

    async def reconcile(self) -> None:
        """Reconcile with containerd after it was down."""
        await self._store.reconcile()

    # Called for CRI requests

    async def list(self, plan: ListImagesPlan) -> api_pb2.ListImagesResponse:
        """All images, or the one that the filter names."""
        if plan.image:
            one = self._cache.find(plan.image)
            images = [one] if one else []
        else:
            images = self._cache.images()
        return list_images_response.read(listing=Listing(images=list(self._shown(images))))

    async def status(self, plan: ImageStatusPlan) -> api_pb2.ImageStatusResponse:
        """One image; an empty response if it does not exist here."""
        image = self._cache.find(plan.image)
        if image is None:
            return api_pb2.ImageStatusResponse()
        details = Details(await self._verbose(image) if plan.verbose else {})
        return image_status_response.read(image=image, details=details)

    async def pull(self, plan: PullImagePlan) -> api_pb2.PullImageResponse:
        """Fetch, unpack and record an image; existing parts are not fetched again."""
        image = await self._intake.pull(
            image_reference.parse(plan.image),
            credentials(plan),
            self._snapshotter_of(plan.image_handler),
        )
        return pull_image_response.read(image=image)

    async def remove(self, plan: RemoveImagePlan) -> api_pb2.RemoveImageResponse:
        """Remove an image with all its names; succeeds if it does not exist."""
        names = self._cache.names_to_remove(plan.image)
        for name in names:
            # the last deletion waits until the space is free, because the kubelet measures it next
            await self._store.delete(name, sync=name == names[-1])
        return api_pb2.RemoveImageResponse()

    async def fs_info(self, request: api_pb2.ImageFsInfoRequest) -> api_pb2.ImageFsInfoResponse:
        """The disk usage of layers, as last measured."""
        roots = {name: self._root(name) for name in self._snapshotters}
        filesystems = Filesystems(
            images=tuple(written(self._usage.total(name), root) for name, root in roots.items()),
            containers=tuple(
                written(self._usage.writable(name), root) for name, root in roots.items()
            ),
        )
        return image_fs_info_response.read(filesystems=filesystems)

    # Called by pods and containers

    async def resolve(self, name: str) -> Image | None:
        """The local image with this reference, ID or unique prefix of an ID."""
        return self._cache.find(name)

    async def ensure(self, reference: str) -> Image:
        """The image, pulled if it is not here."""
        image = self._cache.find(reference)
        if image:
            return image
        return await self._intake.pull(
            image_reference.parse(reference), ANONYMOUS, self._snapshotter
        )

    async def unpacked(self, image: Image, snapshotter: str) -> str:
        """The chain ID of an image, whose snapshots exist when this returns."""
        return await self._intake.unpacked(image, snapshotter)

    async def annotations(self, image: Image) -> Mapping[str, str]:
        """The annotations of an image's index, if it has one, and over them those of its manifest
        for this platform."""
        digests = [reference.rpartition("@")[2] for reference in image.digests[:1]]
        if content := self._cache.content(image):
            digests.append(content.manifest.digest)
        found: dict[str, str] = {}
        for digest in dict.fromkeys(digests):
            data = await image_content.read(self._containerd, digest)
            found.update(await image_content.parsed(_annotations, data, "", digest))
        return found

    async def apply(self, layer: Path, mounts: Sequence[types_pb2.Mount], lease: Metadata) -> None:
        """Unpack a file, which is a layer in an uncompressed or a gzipped tar, into a snapshot."""
        try:
            await image_layer_file.apply(self._containerd, layer, mounts, lease)
        except aio.AioRpcError as error:
            raise from_rpc(error, f"unpack {layer.name}") from error

    async def install(self, reference: str, source: ImageSource) -> Image:
        """Import an image from a built-in source, such as the pause image of an embedded server."""
        name = image_reference.parse(reference)
        return await self._intake.take(name, source, self._snapshotter, {})

    def layer_usage(self, snapshotter: str, key: str) -> LayerUsage | None:
        """The size of a container's writable layer, as last measured; None if not measured yet."""
        usage = self._usage.of_snapshot(snapshotter, key)
        if usage is None:
            return None
        return LayerUsage(usage.taken_at, usage.size, usage.inodes, self._root(snapshotter))

    async def measure_layer(self, snapshotter: str, key: str) -> None:
        """Measure a container's writable layer now; without effect if that fails."""
        await self._usage.measure(snapshotter, key)

    # Private

    def _shown(self, images: Iterable[Image]) -> Iterator[api_pb2.Image]:
        """The CRI's view of each image. One that cannot be shown is logged and left out, because a
        node cannot work without its image list."""
        for image in images:
            try:
                yield image_status.read(image=image)
            except (TypeError, ValueError) as error:
                log.error("an image cannot be shown", image=image.id, why=str(error))
                self._left_out("image")

    def _snapshotter_of(self, name: str) -> str:
        """The snapshotter of the handler that a pull is for.

        An unknown handler is ignored here: its pods are refused when they are run.
        """
        handler = self._handlers.get(name)
        return handler.snapshotter if name and handler else self._snapshotter

    def _root(self, snapshotter: str) -> str:
        known = self._containerd.capabilities.snapshotters.get(snapshotter)
        return known.root if known else ""

    async def _verbose(self, image: Image) -> dict[str, str]:
        data = await image_content.read(self._containerd, image.id)
        config = await image_content.parsed(_any_document, data, "", image.id)
        return {"info": json.dumps({"chainID": image.chain_id, "imageSpec": config})}


class _Annotated(msgspec.Struct):
    annotations: dict[str, str] | None = None


def _annotations(data: bytes, _media_type: str, digest: str) -> Mapping[str, str]:
    try:
        return decode(data, _Annotated).annotations or {}
    except DocumentError as error:
        raise FailedPrecondition(f"{digest}: {error}") from error


def _any_document(data: bytes, _media_type: str, digest: str) -> object:
    """A config with all of its fields, including those that containers do not use."""
    try:
        return decode(data, object)
    except DocumentError as error:
        raise FailedPrecondition(f"{digest}: {error}") from error
