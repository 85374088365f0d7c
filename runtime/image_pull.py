"""A pull: from a reference to content, snapshots and image records in containerd.

The order of a pull: resolve the reference, choose the manifest for this host's platform, then
fetch layers side by side while the lowest that is there is unpacked, then write the image records.
Everything new is under one lease until the records hold it, so that no garbage collection between
can take a part. Blobs and layers that two pulls want at once are fetched and unpacked once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol, TypeVar

from runtime import image_content
from runtime.containerd import Containerd, Metadata
from runtime.errors import FailedPrecondition, Unavailable
from runtime.image_manifest import (
    Config,
    Descriptor,
    Index,
    Manifest,
    Platform,
    child_labels,
    choose,
    parse,
    parse_config,
)
from runtime.image_unpack import Unpacker, keep_in_lease
from runtime.registry_host import Activity
from runtime.shared_tasks import SharedTasks

_T = TypeVar("_T")

_STALL_LOOKS: Final = 10.0
"""Seconds between looks at whether bytes still come; half the limit if that is less."""


class ImageSource(Protocol):
    """Where an image comes from: a registry, or what an embedded server brings with it."""

    async def manifest(self, wanted: str = "") -> tuple[Descriptor, bytes]:
        """The document under a digest, or under the reference."""

    def blob(self, descriptor: Descriptor, offset: int = 0) -> AsyncGenerator[bytes, None]:
        """The bytes of a blob from an offset on."""


@dataclass(frozen=True, slots=True)
class Pulled:
    """What a pull made, except for the records."""

    target: Descriptor
    """What the reference names: an index or a manifest."""
    config: Descriptor
    """Its digest is the image's id."""
    chain_id: str


class Puller:
    """Fetches and unpacks; one for the whole server, as its pulls share work."""

    def __init__(
        self,
        containerd: Containerd,
        platform: Platform,
        *,
        max_concurrent_downloads: int,
        progress_timeout: float,
    ) -> None:
        self.containerd = containerd
        self.platform = platform
        self.max_downloads = max_concurrent_downloads
        self._progress_timeout = progress_timeout
        self.unpacker = Unpacker(containerd)
        self.writes = SharedTasks()

    async def pull(
        self,
        source: ImageSource,
        activity: Activity,
        *,
        snapshotter: str,
        source_label: Mapping[str, str],
        lease: Metadata,
    ) -> Pulled:
        """Bring the image of ``source`` into content store and snapshotter, under ``lease``.

        ``activity`` is that of the source: without a byte for the progress timeout the pull fails.
        """
        work = _Pull(self, source, snapshotter, source_label, lease)
        return await _unless_stalled(work.run(), activity, self._progress_timeout)

    async def unpack(
        self, manifest: Manifest, config: Config, *, snapshotter: str, lease: Metadata
    ) -> str:
        """Unpack an image from blobs that are in the content store; returns the chain id."""

        async def must_be_there(layer: Descriptor) -> None:
            if await image_content.info(self.containerd, layer.digest) is None:
                raise FailedPrecondition(f"layer {layer.digest} is gone: pull the image again")

        chain_id = await self.unpacker.unpack(
            manifest.layers,
            config.diff_ids,
            snapshotter=snapshotter,
            lease=lease,
            fetched=must_be_there,
        )
        await self.hold_snapshot(manifest.config, snapshotter, chain_id)
        return chain_id

    async def hold_snapshot(self, config: Descriptor, snapshotter: str, chain_id: str) -> None:
        """Make the config's blob hold the snapshots, as long as the image is there."""
        if chain_id:
            label = {f"containerd.io/gc.ref.snapshot.{snapshotter}": chain_id}
            await image_content.set_labels(self.containerd, config.digest, label)


class _Pull:
    """One pull under way."""

    def __init__(
        self,
        puller: Puller,
        source: ImageSource,
        snapshotter: str,
        source_label: Mapping[str, str],
        lease: Metadata,
    ) -> None:
        self._puller = puller
        self._containerd = puller.containerd
        self._source = source
        self._snapshotter = snapshotter
        self._source_label = source_label
        self._lease = lease
        self._slots = asyncio.Semaphore(puller.max_downloads)

    async def run(self) -> Pulled:
        target, data = await self._source.manifest()
        top = parse(data, target.media_type, target.digest)
        await self._keep_document(target, data, child_labels(top))
        manifest = await self._manifest_of(top)
        await self._keep_blob(manifest.config)
        config = parse_config(
            await image_content.read(self._containerd, manifest.config.digest),
            manifest.config.digest,
        )
        chain_id = await self._layers(manifest, config)
        await self._puller.hold_snapshot(manifest.config, self._snapshotter, chain_id)
        return Pulled(target, manifest.config, chain_id)

    async def _manifest_of(self, top: Index | Manifest) -> Manifest:
        """The manifest itself, or the one of an index that fits this host."""
        while isinstance(top, Index):
            chosen = choose(top, self._puller.platform)
            descriptor, data = await self._source.manifest(chosen.digest)
            top = parse(data, descriptor.media_type, descriptor.digest)
            await self._keep_document(descriptor, data, child_labels(top))
        return top

    async def _layers(self, manifest: Manifest, config: Config) -> str:
        """Fetch and unpack side by side; returns the chain id.

        A layer's download starts when the unpacker first asks for one: it knows which are needed.
        """
        downloads: dict[str, asyncio.Task[None]] = {}

        async def fetched(layer: Descriptor) -> None:
            if not downloads:
                for one in manifest.layers[manifest.layers.index(layer) :]:
                    if one.digest not in downloads:
                        downloads[one.digest] = asyncio.ensure_future(self._download(one))
            await _unless_one_fails(downloads[layer.digest], downloads.values())

        try:
            return await self._puller.unpacker.unpack(
                manifest.layers,
                config.diff_ids,
                snapshotter=self._snapshotter,
                lease=self._lease,
                fetched=fetched,
            )
        finally:
            for task in downloads.values():
                task.cancel()
            await asyncio.gather(*downloads.values(), return_exceptions=True)

    async def _download(self, layer: Descriptor) -> None:
        async with self._slots:
            await self._keep_blob(layer)

    async def _keep_document(
        self, descriptor: Descriptor, data: bytes, labels: Mapping[str, str]
    ) -> None:
        async def source(offset: int) -> AsyncGenerator[bytes, None]:
            yield data[offset:]

        await self._keep(descriptor, source, labels)

    async def _keep_blob(self, descriptor: Descriptor) -> None:
        await self._keep(descriptor, partial(self._source.blob, descriptor), {})

    async def _keep(
        self, descriptor: Descriptor, source: image_content.Source, labels: Mapping[str, str]
    ) -> None:
        """Have a blob in the store, under our lease and with these labels."""
        wanted = {**self._source_label, **labels}
        there = await image_content.info(self._containerd, descriptor.digest)
        if there is None:
            write = partial(
                image_content.write,
                self._containerd,
                descriptor,
                source,
                labels=wanted,
                metadata=self._lease,
            )
            if await self._puller.writes.run(descriptor.digest, write):
                return
            there = await image_content.info(self._containerd, descriptor.digest)
        await keep_in_lease(self._containerd, self._lease, "content", descriptor.digest)
        missing = image_content.missing_labels(there.labels if there else {}, wanted)
        if missing:
            await image_content.set_labels(self._containerd, descriptor.digest, missing)


async def _unless_one_fails(task: asyncio.Task[None], all_: Iterable[asyncio.Task[None]]) -> None:
    """Return when ``task`` is done; raise as soon as any of ``all_`` fails."""
    waiting = set(all_)
    while not task.done():
        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for one in done:
            one.result()
    task.result()


async def _unless_stalled(work: Awaitable[_T], activity: Activity, limit: float) -> _T:
    """The result of ``work``; Unavailable when no byte came for ``limit`` seconds (0: never)."""
    task = asyncio.ensure_future(work)
    interval = min(_STALL_LOOKS, limit / 2) if limit else None
    try:
        while not (await asyncio.wait({task}, timeout=interval))[0]:
            if activity.stalled() > limit:
                raise Unavailable(
                    f"RegistryUnavailable: no byte came for {limit:g} s "
                    "(images.image_pull_progress_timeout)"
                )
        return task.result()
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
