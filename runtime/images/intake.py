"""Bring an image onto the node: its blobs, its snapshots, and then the records that name it.

A lease protects fetched data from containerd's garbage collector until the records do.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from runtime.config.tables import ImagesTable
from runtime.containerd.client import Containerd
from runtime.errors import NotFound
from runtime.images import content as image_content
from runtime.images.leases import PullLeases
from runtime.images.manifest import Descriptor
from runtime.images.metrics import Metrics
from runtime.images.progress import Activity, unless_stalled
from runtime.images.pull import ImageSource, Puller
from runtime.images.reference import Reference
from runtime.images.registry.auth import Credentials
from runtime.images.registry.client import Registry, open_registry
from runtime.images.registry.hosts import hosts_for
from runtime.images.store import ImageStore
from runtime.images.unpack import snapshot_exists
from runtime.images.verifiers import Verifiers
from runtime.steps import threads
from runtime.transforms.facts import Image


class Intake:
    """Brings images onto the node, from registries and other sources."""

    def __init__(
        self,
        containerd: Containerd,
        store: ImageStore,
        puller: Puller,
        leases: PullLeases,
        settings: ImagesTable,
        metrics: Metrics,
    ) -> None:
        self._containerd = containerd
        self._store = store
        self._cache = store.cache
        self._puller = puller
        self._leases = leases
        self._metrics = metrics
        self._registry = settings.registry
        self._progress_timeout = float(settings.image_pull_progress_timeout)
        self._verifiers = Verifiers(settings.image_verifier)
        self._headers = tuple(
            (name, value) for name, values in settings.registry.headers.items() for value in values
        )

    async def start(self) -> None:
        """Delete the leases of an earlier server's pulls."""
        await self._leases.delete_leftovers()

    async def close(self) -> None:
        """Cancel background work."""
        await self._leases.close()

    async def pull(self, reference: Reference, who: Credentials, snapshotter: str) -> Image:
        """Fetch, unpack and record an image; existing parts are not fetched again.

        Raises RegistryUnavailable if nothing arrives for the progress timeout, and the errors of
        the registry and of containerd.
        """
        activity = Activity()
        with self._counted(activity):
            work = self._ask_registry(reference, who, snapshotter, activity)
            return await unless_stalled(work, activity, self._progress_timeout)

    @contextmanager
    def _counted(self, activity: Activity) -> Iterator[None]:
        began, succeeded = time.monotonic(), False
        self._metrics.pull_began()
        try:
            yield
            succeeded = True
        finally:
            self._metrics.pull_ended(
                succeeded=succeeded,
                received=activity.received,
                seconds=time.monotonic() - began,
            )

    async def _ask_registry(
        self, reference: Reference, who: Credentials, snapshotter: str, activity: Activity
    ) -> Image:
        hosts = await threads.CONFIGURATION.run(
            hosts_for, reference.domain, self._registry.config_path, self._headers
        )
        async with open_registry(reference, hosts, who, activity, self._puller.ranges) as registry:
            source = _Verified(registry, self._verifiers, reference)
            unchanged = await self._unchanged(reference, registry, snapshotter)
            if unchanged:
                image, target = unchanged
                # it may have been pulled before a verifier was installed
                await source.verify(target)
                return image
            label = image_content.source_label(reference.domain, reference.path)
            return await self.take(reference, source, snapshotter, label)

    async def _unchanged(
        self, reference: Reference, registry: Registry, snapshotter: str
    ) -> tuple[Image, Descriptor] | None:
        """The local image and its target, if the registry still resolves the reference to it and it
        is complete with all records: then nothing needs to be fetched."""
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
        return image, target

    async def take(
        self,
        reference: Reference,
        source: ImageSource,
        snapshotter: str,
        source_label: Mapping[str, str],
    ) -> Image:
        """Fetch the image from ``source`` and record it under its ID, tag and digest."""
        async with self._leases.hold(str(reference)) as lease:
            pulled = await self._puller.pull(
                str(reference),
                source,
                snapshotter=snapshotter,
                source_label=source_label,
                lease=lease,
            )
            labels = self._store.labels_for(str(reference))
            image_id = pulled.content.image_id
            names = self._record_names(reference, pulled.target, image_id)
            await asyncio.gather(
                *(self._store.put(n, pulled.target, labels, pulled.content) for n in names)
            )
        image = self._cache.find(image_id)
        if image is None:
            raise NotFound(f"image {reference} was removed while it was pulled")
        return image

    def _record_names(
        self, reference: Reference, target: Descriptor, image_id: str
    ) -> tuple[str, ...]:
        """The records of an image: its ID, the tag if it was pulled by one, and the digest."""
        by_tag = (str(reference),) if reference.tag else ()
        return (image_id, *by_tag, reference.at(target.digest))

    async def unpacked(self, image: Image, snapshotter: str) -> str:
        """The chain ID of an image, whose snapshots exist when this returns.

        They are missing after a change of the snapshotter, or if another client fetched without
        unpacking.
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


@dataclass(frozen=True, slots=True)
class _Verified:
    """A registry whose answer to a reference is verified before anything else is fetched."""

    registry: Registry
    verifiers: Verifiers
    reference: Reference

    async def verify(self, target: Descriptor) -> None:
        """Raises SignatureValidationFailed unless every verifier allows the image."""
        await self.verifiers.verify(str(self.reference), target)

    async def manifest(self, wanted: str = "") -> tuple[Descriptor, bytes]:
        descriptor, data = await self.registry.manifest(wanted)
        if not wanted:
            await self.verify(descriptor)
        return descriptor, data

    def blob(self, descriptor: Descriptor, offset: int = 0) -> AsyncGenerator[bytes, None]:
        return self.registry.blob(descriptor, offset)
