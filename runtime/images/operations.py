"""The images of the node: list, status, pull, remove, and the disk they take."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Final

import structlog

from generated.cri import api_pb2
from generated.statuses import image as image_status
from generated.statuses import image_fs_info_response
from runtime.config.tables import Config
from runtime.containerd.client import Containerd
from runtime.documents import DocumentError, decode
from runtime.errors import FailedPrecondition
from runtime.images import content as image_content
from runtime.images import reference as image_reference
from runtime.images.intake import Intake
from runtime.images.leases import PullLeases
from runtime.images.platforms import host_platform
from runtime.images.pull import ImageSource, Puller
from runtime.images.registry.auth import ANONYMOUS, credentials
from runtime.images.store import ImageStore
from runtime.images.usage import ImageUsage, written
from runtime.lookups.handlers import Handlers
from runtime.readings import Filesystems, LayerUsage
from runtime.transforms.facts import Host, Image

log = structlog.get_logger(__name__)

_HANDLER_ANNOTATION: Final = "io.containerd.cri.runtime-handler"


class Images:
    """The ImageOperations, and what pods and containers need of images."""

    def __init__(
        self,
        *,
        containerd: Containerd,
        config: Config,
        host: Host,
        handlers: Handlers,
        left_out: Callable[[str], None],
    ) -> None:
        """``left_out`` counts what cannot be listed, by its kind."""
        settings = config.images
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
            Puller(
                containerd, platform, max_concurrent_downloads=settings.max_concurrent_downloads
            ),
            PullLeases(containerd, str(config.state_dir)),
            config_path=settings.registry.config_path,
            progress_timeout=settings.image_pull_progress_timeout,
        )
        self._usage = ImageUsage(containerd, self._snapshotters, settings.stats_collect_period)

    async def start(self) -> None:
        """Know every image; then stay up to date until ``close``."""
        await asyncio.gather(self._intake.start(), self._store.start())
        self._usage.start()

    async def close(self) -> None:
        """End what runs in the background."""
        await asyncio.gather(self._store.close(), self._usage.close(), self._intake.close())

    async def reconcile(self) -> None:
        """Compare with containerd, which was away."""
        await self._store.reconcile()

    async def measure(self) -> None:
        """Take new figures of the disk now."""
        await self._usage.walk()

    # What the CRI asks for

    async def list(self, request: api_pb2.ListImagesRequest) -> api_pb2.ListImagesResponse:
        """Every image, or the one that the filter names."""
        name = request.filter.image.image
        if name:
            one = self._cache.find(name)
            images = [one] if one else []
        else:
            images = self._cache.images()
        return api_pb2.ListImagesResponse(images=self._shown(images))

    async def status(self, request: api_pb2.ImageStatusRequest) -> api_pb2.ImageStatusResponse:
        """One image; an empty answer when it is not here."""
        image = self._cache.find(request.image.image)
        if image is None:
            return api_pb2.ImageStatusResponse()
        info = await self._verbose(image) if request.verbose else {}
        return api_pb2.ImageStatusResponse(image=image_status.read(image=image), info=info)

    async def pull(self, request: api_pb2.PullImageRequest) -> api_pb2.PullImageResponse:
        """Fetch, unpack and record an image; what is here already is not fetched again."""
        reference = image_reference.parse(request.image.image)
        who = credentials(request.auth)
        image = await self._intake.pull(reference, who, self.snapshotter_for(request.image))
        return api_pb2.PullImageResponse(image_ref=image.id)

    async def remove(self, request: api_pb2.RemoveImageRequest) -> api_pb2.RemoveImageResponse:
        """Remove an image with all its names; one that is not here is removed already."""
        names = self._cache.names_to_remove(request.image.image)
        for name in names:
            # the last one waits until the space is free, as the kubelet measures it next
            await self._store.delete(name, sync=name == names[-1])
        return api_pb2.RemoveImageResponse()

    async def fs_info(self, request: api_pb2.ImageFsInfoRequest) -> api_pb2.ImageFsInfoResponse:
        """The disk that layers take, as last measured."""
        roots = {name: self._root(name) for name in self._snapshotters}
        filesystems = Filesystems(
            images=tuple(written(self._usage.total(name), root) for name, root in roots.items()),
            containers=tuple(
                written(self._usage.writable(name), root) for name, root in roots.items()
            ),
        )
        return image_fs_info_response.read(filesystems=filesystems)

    # What pods and containers need

    async def resolve(self, name: str) -> Image | None:
        """The local image of a reference, an id or a unique prefix of one."""
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
        """The chain id of an image, whose snapshots are there when this returns."""
        return await self._intake.unpacked(image, snapshotter)

    async def install(self, reference: str, source: ImageSource) -> Image:
        """Take an image from a source of our own, such as the pause image of an embedded server."""
        name = image_reference.parse(reference)
        return await self._intake.take(name, source, self._snapshotter, {})

    def layer_usage(self, snapshotter: str, key: str) -> LayerUsage | None:
        """What a container wrote, as last measured; None when that has not happened yet."""
        usage = self._usage.of_snapshot(snapshotter, key)
        if usage is None:
            return None
        return LayerUsage(usage.taken_at, usage.size, usage.inodes, self._root(snapshotter))

    def snapshotter_for(self, spec: api_pb2.ImageSpec) -> str:
        """The snapshotter of the handler that a pull is for.

        A handler that the node lacks decides nothing: its pods are refused when they are run.
        """
        name = spec.runtime_handler or spec.annotations.get(_HANDLER_ANNOTATION, "")
        handler = self._handlers.get(name)
        return handler.snapshotter if name and handler else self._snapshotter

    # Inside

    def _shown(self, images: Iterable[Image]) -> Iterator[api_pb2.Image]:
        """What the CRI shows of each; one that cannot be shown is left out, with a word in the log,
        as a node without its list of images cannot work."""
        for image in images:
            try:
                yield image_status.read(image=image)
            except (TypeError, ValueError) as error:
                log.error("an image cannot be shown", image=image.id, why=str(error))
                self._left_out("image")

    def _root(self, snapshotter: str) -> str:
        known = self._containerd.capabilities.snapshotters.get(snapshotter)
        return known.root if known else ""

    async def _verbose(self, image: Image) -> dict[str, str]:
        data = await image_content.read(self._containerd, image.id)
        config = await image_content.parsed(_any_document, data, "", image.id)
        return {"info": json.dumps({"chainID": image.chain_id, "imageSpec": config})}


def _any_document(data: bytes, _media_type: str, digest: str) -> object:
    """A config with all that it says; it may say more than what a container is made of."""
    try:
        return decode(data, object)
    except DocumentError as error:
        raise FailedPrecondition(f"{digest}: {error}") from error
