"""Keeps containerd's images in memory, so that lists and lookups need no calls.

All records are read at the start; after that, containerd's events report changes by any client
(this server, the built-in plugin, ``ctr -n k8s.io``). Events have no replay, so after a lost
connection everything is compared again. Work on one name is serialised, so the cache never ends up
older than containerd's response.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Final, TypeAlias
from weakref import WeakValueDictionary

import grpc
import structlog
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import DecodeError
from grpc import aio

from generated.containerd import events_pb2, image_events_pb2, images_pb2, types_pb2
from runtime.containerd.client import Containerd
from runtime.errors import CriError, NotFound, from_rpc
from runtime.images import content as image_content
from runtime.images import reference as image_reference
from runtime.images.cache import PINNED, Content, ImageCache, Record, content_of
from runtime.images.choice import choose
from runtime.images.manifest import (
    Config,
    Descriptor,
    Index,
    Manifest,
    chain_ids,
    parse,
    parse_config,
    sniff,
)
from runtime.images.platforms import Platform
from runtime.images.unpack import snapshot_exists
from runtime.steps.watched import ended, watched
from runtime.transforms.facts import Image

log = structlog.get_logger(__name__)

MANAGED: Final = {"io.cri-containerd.image": "managed"}
_RESUBSCRIBE_DELAY: Final = 0.5
"""Seconds between attempts to subscribe to events."""
_SETTLE_DELAY: Final = 0.2
"""Seconds after a subscription before comparing: gRPC does not report when it is active."""
_READS_AT_ONCE: Final = 8
_AWAY: Final = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
    }
)
"""Errors that say nothing about the requested object."""


class ImageStore:
    """Changes containerd's records and keeps ``cache`` up to date, from ``start`` until
    ``close``."""

    def __init__(
        self,
        containerd: Containerd,
        platform: Platform,
        pinned_references: Collection[str],
        *,
        snapshotters: Collection[str],
        left_out: Callable[[str], None],
    ) -> None:
        """``snapshotters`` are those that images may be unpacked in; ``left_out`` is called with
        each record that makes no image, and the reason."""
        self._containerd = containerd
        self._platform = platform
        self._snapshotters = snapshotters
        self._left_out = left_out
        self._pinned = frozenset(_complete(reference) for reference in pinned_references)
        self.cache = ImageCache()
        self._reads = asyncio.Semaphore(_READS_AT_ONCE)
        self._adopting = asyncio.Lock()
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._changes: list[set[str]] = []
        """For each running comparison, the names that changed since it began."""
        self._watcher: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Load everything, then subscribe to events."""
        await self.reconcile()
        self._watcher = watched("image events", self._watch)

    async def close(self) -> None:
        """Stop following events."""
        await ended(self._watcher)

    def labels_for(self, reference: str) -> dict[str, str]:
        """The labels for the records of an image that is pulled as ``reference``."""
        return MANAGED | (PINNED if reference in self._pinned else {})

    # Changing containerd's records

    async def put(
        self,
        name: str,
        target: Descriptor,
        labels: Mapping[str, str],
        content: Content | None = None,
    ) -> None:
        """Ensure that a record with this name, target and labels exists (other labels are kept).

        ``content`` is that of the target, if known; otherwise it is read.
        """
        image = _record_message(name, target, labels)
        async with self._turn(name):
            try:
                answer = await self._containerd.images.Create(
                    images_pb2.CreateImageRequest(image=image)
                )
            except aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.ALREADY_EXISTS:
                    raise
                paths = ["target", *(f"labels.{key}" for key in labels)]
                answer = await self._containerd.images.Update(
                    images_pb2.UpdateImageRequest(image=image, update_mask=FieldMask(paths=paths))
                )
            await self._take(answer.image, content)

    async def delete(self, name: str, *, sync: bool) -> None:
        """Delete a record; ``sync`` waits until containerd has collected its content."""
        async with self._turn(name):
            try:
                await self._containerd.images.Delete(
                    images_pb2.DeleteImageRequest(name=name, sync=sync)
                )
            except aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.NOT_FOUND:
                    raise
            self._drop(name)

    def forget_content(self, image: Image) -> None:
        """Hide an image whose content turned out to be incomplete: a client then sees it as missing
        and pulls it again."""
        self.cache.forget_content(image)
        self._leave_out(image.reference, "its content is incomplete: pull it again")

    # Following containerd

    async def reconcile(self) -> None:
        """Compare with containerd and apply the differences.

        Names that changed while containerd responded are newer than its response, and are not
        touched.
        """
        with self._noting_changes() as changed:
            answer = await self._containerd.images.List(images_pb2.ListImagesRequest())
            listed = {image.name: image for image in answer.images}
            compare = partial(self._compare, listed, changed)
            await asyncio.gather(*map(compare, {*self.cache.names(), *listed}))
        await self._adopt(listed)

    async def _compare(
        self, listed: Mapping[str, images_pb2.Image], changed: Collection[str], name: str
    ) -> None:
        async with self._turn(name):
            if name in changed:
                return
            if name in listed:
                await self._take(listed[name])
            else:
                self._drop(name)

    def _turn(self, name: str) -> asyncio.Lock:
        """Held while containerd is queried about a record and the response is stored."""
        return self._turns.setdefault(name, asyncio.Lock())

    @contextmanager
    def _noting_changes(self) -> Iterator[set[str]]:
        changed: set[str] = set()
        self._changes.append(changed)
        try:
            yield changed
        finally:
            self._changes[:] = [noted for noted in self._changes if noted is not changed]

    def _note_change(self, name: str) -> None:
        for changed in self._changes:
            changed.add(name)

    async def _watch(self) -> None:
        """Follow events for ever; after a lost connection everything is compared again."""
        while True:
            try:
                await self._follow()
            except aio.AioRpcError as error:
                log.debug("image events interrupted", why=error.details())
            await asyncio.sleep(_RESUBSCRIBE_DELAY)

    async def _follow(self) -> None:
        namespace = self._containerd.namespace
        filters = [f'namespace=={namespace},topic~="^/images/"']
        stream = self._containerd.events.Subscribe(events_pb2.SubscribeRequest(filters=filters))
        try:
            settling = asyncio.create_task(self._settle())
            try:
                async for envelope in stream:
                    name = _event_name(envelope)
                    if name:
                        await self._refresh(name)
            finally:
                settling.cancel()
                await asyncio.gather(settling, return_exceptions=True)
        finally:
            stream.cancel()

    async def _settle(self) -> None:
        await asyncio.sleep(_SETTLE_DELAY)
        try:
            await self.reconcile()
        except aio.AioRpcError as error:
            log.debug("could not compare the images", why=error.details())

    async def _refresh(self, name: str) -> None:
        """Read one record again: an event says that it changed, not how."""
        async with self._turn(name):
            try:
                answer = await self._containerd.images.Get(images_pb2.GetImageRequest(name=name))
            except aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.NOT_FOUND:
                    raise
                self._drop(name)
                return
            await self._take(answer.image)
        await self._adopt([name])

    async def _take(self, image: images_pb2.Image, content: Content | None = None) -> None:
        target = Descriptor(image.target.media_type, image.target.digest, image.target.size)
        if self.cache.has_content(target):
            content = None
        elif content is None:
            content = await self._read(image.name, target)
        self._note_change(image.name)
        self.cache.keep(Record(image.name, target, dict(image.labels)), content)

    def _drop(self, name: str) -> None:
        self._note_change(name)
        self.cache.drop(name)

    async def _read(self, name: str, target: Descriptor) -> Content | None:
        """The content of a record's target; None, which is logged, if it makes no image."""
        try:
            async with self._reads:
                content = await read_content(self._containerd, target, self._platform)
                await self._must_be_complete(content)
                return content
        except CriError as error:
            self._leave_out(name, error.message)
        except aio.AioRpcError as error:
            if error.code() in _AWAY:
                raise
            self._leave_out(name, from_rpc(error, "read its content").message)
        return None

    async def _must_be_complete(self, content: Content) -> None:
        """Raise NotFound if containers cannot be created from an image: it is not unpacked, and its
        layers are incomplete."""
        chain = chain_ids(content.config.diff_ids)
        for snapshotter in self._snapshotters if chain else ():
            if await snapshot_exists(self._containerd, snapshotter, chain[-1]):
                return
        for layer in content.manifest.layers:
            if await image_content.info(self._containerd, layer.digest) is None:
                raise NotFound(f"layer {layer.digest} is not in containerd's content store")

    def _leave_out(self, name: str, why: str) -> None:
        log.warning("image not listed", image=name, why=why)
        self._left_out(name)

    async def _adopt(self, names: Iterable[str]) -> None:
        """Give images pulled by other clients an ID record and our label, as the built-in plugin
        does: the ID then keeps the image while its tags move."""
        async with self._adopting:
            for name in names:
                record, image = self.cache.record(name), self.cache.image_of(name)
                if record is None or image is None:
                    continue
                labels = self.labels_for(name)
                if labels.items() <= dict(record.labels).items():
                    continue
                try:
                    await self._adopt_one(record, image.id, labels)
                except aio.AioRpcError as error:
                    log.warning("could not label an image", image=name, why=error.details())

    async def _adopt_one(self, record: Record, image_id: str, labels: Mapping[str, str]) -> None:
        """Write the ID record first, because the label implies it; delete it if the image is
        gone."""
        known = self.cache.record(image_id) is not None
        await self.put(image_id, record.target, labels)
        async with self._turn(record.name):
            labelled = await self._label(record, labels)
        if not labelled and not known:
            await self.delete(image_id, sync=False)

    async def _label(self, record: Record, labels: Mapping[str, str]) -> bool:
        """Label a record; False: it was deleted by another client, and must not be recreated.

        The whole record is sent, although the mask names only labels: containerd 2.x reads the
        target of every update and panics without one.
        """
        request = images_pb2.UpdateImageRequest(
            image=_record_message(record.name, record.target, {**record.labels, **labels}),
            update_mask=FieldMask(paths=[f"labels.{key}" for key in labels]),
        )
        try:
            answer = await self._containerd.images.Update(request)
        except aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                raise
            self._drop(record.name)
            return False
        await self._take(answer.image)
        return True


async def read_content(containerd: Containerd, target: Descriptor, platform: Platform) -> Content:
    """Manifest and config of a record's target; raises CriError if missing or invalid."""
    read: list[tuple[Index | Manifest, int]] = []

    async def document(descriptor: Descriptor) -> Index | Manifest:
        data = await image_content.read(containerd, descriptor.digest)
        media_type = sniff(data, descriptor.media_type)
        parsed = await image_content.parsed(parse, data, media_type, descriptor.digest)
        read.append((parsed, len(data)))
        return parsed

    async def config(descriptor: Descriptor) -> Config:
        data = await image_content.read(containerd, descriptor.digest)
        return await image_content.parsed(
            parse_config, data, descriptor.media_type, descriptor.digest
        )

    top = await document(target)
    manifest = await choose(top, platform, document, config) if isinstance(top, Index) else top
    return content_of(top, manifest, await config(manifest.config), read)


def _record_message(name: str, target: Descriptor, labels: Mapping[str, str]) -> images_pb2.Image:
    return images_pb2.Image(
        name=name,
        labels=dict(labels),
        target=types_pb2.Descriptor(
            media_type=target.media_type, digest=target.digest, size=target.size
        ),
    )


def _complete(reference: str) -> str:
    """The complete reference, by which records are named; anything else is returned unchanged."""
    if image_reference.why_invalid(reference) is not None:
        return reference
    return str(image_reference.parse(reference))


_ImageEvent: TypeAlias = (
    image_events_pb2.ImageCreate | image_events_pb2.ImageUpdate | image_events_pb2.ImageDelete
)

_EVENTS: Final[Mapping[str, type[_ImageEvent]]] = {
    "/images/create": image_events_pb2.ImageCreate,
    "/images/update": image_events_pb2.ImageUpdate,
    "/images/delete": image_events_pb2.ImageDelete,
}


def _event_name(envelope: types_pb2.Envelope) -> str:
    """The name of the image record that an event is about."""
    kind = _EVENTS.get(envelope.topic)
    if kind is None:
        return ""
    event = kind()
    try:
        event.ParseFromString(envelope.event.value)
    except DecodeError:
        return ""
    return event.name
