"""The images of the node: list, status, pull, remove, and the disk they take."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

import structlog

from generated.cri import api_pb2
from generated.statuses import image as image_status
from generated.statuses import image_fs_info_response
from runtime.config.tables import Config
from runtime.containerd.client import Containerd
from runtime.documents import DocumentError, decode
from runtime.errors import FailedPrecondition, NotFound
from runtime.images import content as image_content
from runtime.images import reference as image_reference
from runtime.images.leases import PullLeases
from runtime.images.manifest import Descriptor
from runtime.images.platforms import host_platform
from runtime.images.progress import Activity, unless_stalled
from runtime.images.pull import ImageSource, Puller
from runtime.images.reference import Reference
from runtime.images.registry.auth import ANONYMOUS, Credentials, credentials
from runtime.images.registry.client import Registry, open_registry
from runtime.images.registry.hosts import hosts_for
from runtime.images.store import ImageStore
from runtime.images.unpack import snapshot_exists
from runtime.images.usage import ImageUsage, written
from runtime.lookups.handlers import Handlers
from runtime.readings import Filesystems, LayerUsage
from runtime.steps import threads
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
        self._config_path = settings.registry.config_path
        self._snapshotter = config.containerd.snapshotter
        self._handlers = handlers
        self._left_out = left_out
        self._puller = Puller(
            containerd,
            platform,
            max_concurrent_downloads=settings.max_concurrent_downloads,
        )
        self._progress_timeout = settings.image_pull_progress_timeout
        self._leases = PullLeases(containerd, str(config.state_dir))
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
        self._usage = ImageUsage(containerd, self._snapshotters, settings.stats_collect_period)

    async def start(self) -> None:
        """Know every image; then stay up to date until ``close``."""
        await asyncio.gather(self._leases.delete_leftovers(), self._store.start())
        self._usage.start()

    async def close(self) -> None:
        """End what runs in the background."""
        await asyncio.gather(self._store.close(), self._usage.close(), self._leases.close())

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
        image = await self._pull(reference, who, self.snapshotter_for(request.image))
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
        return await self._pull(image_reference.parse(reference), ANONYMOUS, self._snapshotter)

    async def unpacked(self, image: Image, snapshotter: str) -> str:
        """The chain id of an image, whose snapshots are there when this returns.

        They are missing after a change of snapshotter, or when somebody fetched without unpacking.
        """
        if not image.chain_id or await snapshot_exists(
            self._containerd, snapshotter, image.chain_id
        ):
            return image.chain_id
        content = self._cache.content(image)
        if content is None:
            raise NotFound(f"image {image.reference} was removed")
        async with self._leases.hold(image.reference) as lease:
            try:
                return await self._puller.unpack(
                    image.reference,
                    content.manifest,
                    content.config,
                    snapshotter=snapshotter,
                    lease=lease,
                )
            except NotFound:
                self._store.forget_content(image)
                raise

    async def install(self, reference: str, source: ImageSource) -> Image:
        """Take an image from a source of our own, such as the pause image of an embedded server."""
        name = image_reference.parse(reference)
        return await self._take(name, source, self._snapshotter, {})

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

    async def _pull(self, reference: Reference, who: Credentials, snapshotter: str) -> Image:
        activity = Activity()
        work = self._ask_registry(reference, who, snapshotter, activity)
        return await unless_stalled(work, activity, self._progress_timeout)

    async def _ask_registry(
        self, reference: Reference, who: Credentials, snapshotter: str, activity: Activity
    ) -> Image:
        hosts = await threads.CONFIGURATION.run(hosts_for, reference.domain, self._config_path)
        async with open_registry(reference, hosts, who, activity) as registry:
            image = await self._unchanged(reference, registry, snapshotter)
            if image:
                return image
            source = image_content.source_label(reference.domain, reference.path)
            return await self._take(reference, registry, snapshotter, source)

    async def _unchanged(
        self, reference: Reference, registry: Registry, snapshotter: str
    ) -> Image | None:
        """The local image if the registry still means it, everything of it is here and its records
        are complete: then nothing need be fetched."""
        target = self._cache.target_of(str(reference))
        image = self._cache.find(str(reference))
        if target is None or image is None:
            return None
        if await registry.digest_of_tag() != target.digest:
            return None
        names = self._record_names(reference, target, image.id)
        if any(self._cache.target_of(name) != target for name in names):
            return None
        if image.chain_id and not await snapshot_exists(
            self._containerd, snapshotter, image.chain_id
        ):
            return None
        return image

    async def _take(
        self,
        reference: Reference,
        source: ImageSource,
        snapshotter: str,
        source_label: Mapping[str, str],
    ) -> Image:
        async with self._leases.hold(str(reference)) as lease:
            pulled = await self._puller.pull(
                str(reference),
                source,
                snapshotter=snapshotter,
                source_label=source_label,
                lease=lease,
            )
            labels = self._store.labels_for(str(reference))
            image_id = pulled.config.digest
            names = self._record_names(reference, pulled.target, image_id)
            await asyncio.gather(*(self._store.put(n, pulled.target, labels) for n in names))
        image = self._cache.find(image_id)
        if image is None:
            raise NotFound(f"image {reference} was removed while it was pulled")
        return image

    def _record_names(
        self, reference: Reference, target: Descriptor, image_id: str
    ) -> tuple[str, ...]:
        """The records of an image: its id, the tag if it was pulled by one, and the digest."""
        by_tag = (str(reference),) if reference.tag else ()
        return (image_id, *by_tag, reference.at(target.digest))

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
