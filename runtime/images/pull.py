"""A pull: from a reference to content, snapshots and image records in containerd.

Steps: resolve the reference, choose the manifest for this host's platform, fetch layers in parallel
while others are unpacked, from the lowest on, then write the image records. One lease protects all
new data from garbage collection until the records do. Blobs and layers needed by two pulls at once
are fetched and unpacked only once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol

from runtime.config.tables import ImagesTable
from runtime.containerd.client import Containerd, Metadata
from runtime.errors import FailedPrecondition, NotFound, Unknown
from runtime.images import content
from runtime.images.cache import Content, content_of
from runtime.images.choice import choose
from runtime.images.manifest import (
    DOCUMENT_LIMIT,
    Config,
    Descriptor,
    Index,
    Manifest,
    chain_ids,
    child_labels,
    digest_of,
    parse,
    parse_config,
)
from runtime.images.platforms import Platform
from runtime.images.registry.ranges import Ranges
from runtime.images.unpack import Unpacker, keep_in_lease
from runtime.steps.parallel import cancel_all
from runtime.steps.shared_tasks import SharedTasks

_NO_LIMIT: Final = nullcontext()


class ImageSource(Protocol):
    """Where an image comes from: a registry, or the files included in an embedded server."""

    async def manifest(self, wanted: str = "") -> tuple[Descriptor, bytes]:
        """The document with this digest, or the one the reference names."""

    def blob(self, descriptor: Descriptor, offset: int = 0) -> AsyncGenerator[bytes, None]:
        """The bytes of a blob from an offset on."""


@dataclass(frozen=True, slots=True)
class Pulled:
    """The result of a pull, without the records."""

    target: Descriptor
    """The target of the reference: an index or a manifest."""
    content: Content
    """What it leads to on this host."""


class Puller:
    """Fetches and unpacks; one for the whole server, because pulls share work."""

    def __init__(
        self,
        containerd: Containerd,
        platform: Platform,
        *,
        settings: ImagesTable,
    ) -> None:
        self.containerd = containerd
        self.platform = platform
        self.slots = _slots(settings.max_concurrent_downloads)
        """Limits the layers downloaded at the same time, over all pulls of the node; without a
        number there is no limit."""
        self.ranges = Ranges(
            settings.concurrent_layer_fetch_buffer,
            self.slots if isinstance(self.slots, asyncio.Semaphore) else None,
        )
        self.keeps_layers = not settings.discard_unpacked_layers
        """Whether the layers of an image stay in the content store after they were unpacked."""
        self.unpacker = Unpacker(
            containerd,
            annotations=not settings.disable_snapshot_annotations,
            sync=settings.image_pull_with_sync_fs,
            concurrent=settings.max_concurrent_unpacks,
        )
        self.writes = SharedTasks()

    async def pull(
        self,
        name: str,
        source: ImageSource,
        *,
        snapshotter: str,
        source_label: Mapping[str, str],
        lease: Metadata,
    ) -> Pulled:
        """Fetch the image from ``source`` into the content store and snapshotter, under ``lease``;
        ``name`` is used in errors."""
        return await _Pull(self, name, source, snapshotter, source_label, lease).run()

    async def unpack(
        self, name: str, manifest: Manifest, config: Config, *, snapshotter: str, lease: Metadata
    ) -> str:
        """Unpack an image from blobs in the content store; returns the chain ID."""

        async def must_be_there(layer: Descriptor) -> None:
            if await content.info(self.containerd, layer.digest) is None:
                raise NotFound(f"layer {layer.digest} of {name} is gone: pull the image again")

        chain_id = await self.unpacker.unpack(
            name,
            manifest,
            config.diff_ids,
            snapshotter=snapshotter,
            lease=lease,
            fetched=must_be_there,
        )
        label = snapshot_label(snapshotter, config)
        await content.set_labels(self.containerd, manifest.config.digest, label)
        return chain_id


class _Pull:
    """One running pull."""

    def __init__(
        self,
        puller: Puller,
        name: str,
        source: ImageSource,
        snapshotter: str,
        source_label: Mapping[str, str],
        lease: Metadata,
    ) -> None:
        self._puller = puller
        self._name = name
        self._containerd = puller.containerd
        self._source = source
        self._snapshotter = snapshotter
        self._source_label = source_label
        self._lease = lease
        self._configs: dict[str, Config] = {}
        self._sizes: list[tuple[Index | Manifest, int]] = []
        """The bytes of each index and manifest."""
        self._unwritten: list[Callable[[], Coroutine[Any, Any, None]]] = []
        """Documents that wait until the first layer is there."""
        self._writes: list[asyncio.Task[None]] = []

    async def run(self) -> Pulled:
        """The whole pull.

        Documents are written while layers are unpacked: containerd makes one change at a time
        durable, and the layers must not wait for theirs.
        """
        try:
            target, data = await self._source.manifest()
            top = await self._parsed(target, data)
            manifest = top
            if isinstance(manifest, Index):
                manifest = await choose(
                    manifest, self._puller.platform, self._document, self._config
                )
            config = await self._config(manifest.config)
            await self._layers(manifest, config)
            self._write_documents()
            await asyncio.gather(*self._writes)
            return Pulled(target, content_of(top, manifest, config, self._sizes))
        finally:
            await cancel_all(self._writes)

    async def _document(self, entry: Descriptor) -> Index | Manifest:
        descriptor, data = await self._source.manifest(entry.digest)
        return await self._parsed(descriptor, data)

    async def _parsed(self, descriptor: Descriptor, data: bytes) -> Index | Manifest:
        parsed = await content.parsed(parse, data, descriptor.media_type, descriptor.digest)
        labels = child_labels(parsed, layers=self._puller.keeps_layers)
        self._keep_document(descriptor, data, labels)
        self._sizes.append((parsed, len(data)))
        return parsed

    async def _config(self, descriptor: Descriptor) -> Config:
        """Fetch the image config. Its blob protects the snapshots that are created later."""
        known = self._configs.get(descriptor.digest)
        if known:
            return known
        data = await self._small_blob(descriptor)
        config = await content.parsed(parse_config, data, descriptor.media_type, descriptor.digest)
        self._configs[descriptor.digest] = config
        self._keep_document(descriptor, data, snapshot_label(self._snapshotter, config))
        return config

    async def _small_blob(self, descriptor: Descriptor) -> bytes:
        if await content.info(self._containerd, descriptor.digest):
            return await content.read(self._containerd, descriptor.digest)
        if descriptor.size > DOCUMENT_LIMIT:
            raise FailedPrecondition(f"config {descriptor.digest} is larger than {DOCUMENT_LIMIT}")
        async with aclosing(self._source.blob(descriptor)) as pieces:
            data = b"".join([piece async for piece in pieces])
        if digest_of(data, descriptor.digest) != descriptor.digest:
            raise Unknown(f"the bytes of {descriptor.digest} are wrong")
        return data

    async def _layers(self, manifest: Manifest, config: Config) -> None:
        """Fetch and unpack in parallel.

        A layer's download starts when the unpacker asks for it, because only the unpacker knows
        which layers are needed.
        """
        downloads: dict[str, asyncio.Task[None]] = {}

        async def fetched(layer: Descriptor) -> None:
            if not downloads:
                for one in manifest.layers[manifest.layers.index(layer) :]:
                    if one.digest not in downloads:
                        downloads[one.digest] = asyncio.ensure_future(self._download(one))
            await _unless_one_fails(downloads[layer.digest], downloads.values())
            self._write_documents()

        try:
            await self._puller.unpacker.unpack(
                self._name,
                manifest,
                config.diff_ids,
                snapshotter=self._snapshotter,
                lease=self._lease,
                fetched=fetched,
            )
        finally:
            await cancel_all(downloads.values())

    async def _download(self, layer: Descriptor) -> None:
        source = partial(self._source.blob, layer)
        await self._keep(layer, source, {}, slot=self._puller.slots)

    def _keep_document(
        self, descriptor: Descriptor, data: bytes, labels: Mapping[str, str]
    ) -> None:
        """Have a document written that is in memory."""

        async def source(offset: int) -> AsyncGenerator[bytes, None]:
            yield data[offset:]

        self._unwritten.append(partial(self._keep, descriptor, source, labels))

    def _write_documents(self) -> None:
        self._writes += [asyncio.ensure_future(write()) for write in self._unwritten]
        self._unwritten.clear()

    async def _keep(
        self,
        descriptor: Descriptor,
        source: content.Source,
        labels: Mapping[str, str],
        *,
        slot: AbstractAsyncContextManager[object] = _NO_LIMIT,
    ) -> None:
        """Ensure that a blob is in the store, under our lease and with these labels; a write
        runs in a ``slot``."""
        wanted = {**self._source_label, **labels}

        async def write() -> None:
            async with slot:
                await content.write(
                    self._containerd, descriptor, source, labels=wanted, metadata=self._lease
                )

        while await content.info(self._containerd, descriptor.digest) is None:
            if await self._puller.writes.run(descriptor.digest, write):
                return
        await keep_in_lease(self._containerd, self._lease, "content", descriptor.digest)
        # it may have been garbage-collected, with the last image that used it, before the lease
        # held it
        there = await content.info(self._containerd, descriptor.digest)
        if there is None:
            await self._keep(descriptor, source, labels, slot=slot)
            return
        missing = content.missing_labels(there.labels, wanted)
        await content.set_labels(self._containerd, descriptor.digest, missing)


def _slots(limit: int) -> AbstractAsyncContextManager[object]:
    """Held by each of at most ``limit`` at the same time; 0 is no limit."""
    return asyncio.Semaphore(limit) if limit else _NO_LIMIT


def snapshot_label(snapshotter: str, config: Config) -> dict[str, str]:
    """The label that lets the config's blob protect the snapshots as long as the image exists."""
    chain = chain_ids(config.diff_ids)
    return {f"containerd.io/gc.ref.snapshot.{snapshotter}": chain[-1]} if chain else {}


async def _unless_one_fails(task: asyncio.Task[None], all_: Iterable[asyncio.Task[None]]) -> None:
    """Return when ``task`` is done; raise as soon as any of ``all_`` fails."""
    waiting = set(all_)
    while not task.done():
        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for one in done:
            one.result()
    task.result()
