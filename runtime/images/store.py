"""Keep the images of containerd's namespace in memory, so that lists and look-ups need no call.

All records are read at the start; after that containerd's events say what changed, whoever changed
it (this server, the built-in plugin, ``ctr -n k8s.io``). Events have no replay, so after a lost
connection everything is compared once more. All that happens to one name happens in turn, so that
what containerd says of it is never older than what is known here.
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
from runtime.images.cache import PINNED, Content, ImageCache, Record
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
"""Seconds between tries to hear events again."""
_SETTLE_DELAY: Final = 0.2
"""Seconds after a subscription before everything is compared: gRPC does not say when it counts."""
_READS_AT_ONCE: Final = 8
_AWAY: Final = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
    }
)
"""What says nothing of the object that was asked for."""


class ImageStore:
    """Changes containerd's records and keeps ``cache`` fresh, from ``start`` until ``close``."""

    def __init__(
        self,
        containerd: Containerd,
        platform: Platform,
        pinned_references: Collection[str],
        *,
        snapshotters: Collection[str],
        left_out: Callable[[str], None],
    ) -> None:
        """``snapshotters`` are those that images may be unpacked in; ``left_out`` is told of each
        record that makes no image, with the reason."""
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
        """For each comparison under way the names that changed since it began."""
        self._watcher: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Load everything, then listen."""
        await self.reconcile()
        self._watcher = watched("image events", self._watch)

    async def close(self) -> None:
        """Stop listening."""
        await ended(self._watcher)

    def labels_for(self, reference: str) -> dict[str, str]:
        """The labels of the records of an image that is pulled under ``reference``."""
        return MANAGED | (PINNED if reference in self._pinned else {})

    # Changing containerd's records

    async def put(self, name: str, target: Descriptor, labels: Mapping[str, str]) -> None:
        """Have a record of this name, target and labels (others are left)."""
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
            await self._take(answer.image)

    async def delete(self, name: str, *, sync: bool) -> None:
        """Delete a record; ``sync`` waits until containerd has collected what it held."""
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
        """Stop offering an image whose content turned out to be incomplete: a client that sees it
        missing pulls it again."""
        self.cache.forget_content(image)
        self._leave_out(image.reference, "its content is incomplete: pull it again")

    # Keeping fresh

    async def reconcile(self) -> None:
        """Compare with containerd and take what differs.

        What changed while containerd answered is newer than its answer, and left as it is.
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
        """Held by whatever asks containerd about a record and then keeps the answer."""
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
        """Follow the events for ever; after a lost connection everything is compared again."""
        while True:
            try:
                await self._follow()
            except aio.AioRpcError as error:
                log.debug("image events broke off", why=error.details())
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
            log.debug("images were not compared", why=error.details())

    async def _refresh(self, name: str) -> None:
        """Look at one record again: an event says that it changed, not what it is now."""
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

    async def _take(self, image: images_pb2.Image) -> None:
        target = Descriptor(image.target.media_type, image.target.digest, image.target.size)
        content = None
        if not self.cache.has_content(target):
            content = await self._read(image.name, target)
        self._note_change(image.name)
        self.cache.keep(Record(image.name, target, dict(image.labels)), content)

    def _drop(self, name: str) -> None:
        self._note_change(name)
        self.cache.drop(name)

    async def _read(self, name: str, target: Descriptor) -> Content | None:
        """The content of a record's target; None, said in the log, when it makes no image."""
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
        """NotFound when containers cannot be made of an image: it is not unpacked, and there is not
        everything to unpack it from."""
        chain = chain_ids(content.config.diff_ids)
        for snapshotter in self._snapshotters if chain else ():
            if await snapshot_exists(self._containerd, snapshotter, chain[-1]):
                return
        for layer in content.manifest.layers:
            if await image_content.info(self._containerd, layer.digest) is None:
                raise NotFound(f"layer {layer.digest} is not in containerd's content store")

    def _leave_out(self, name: str, why: str) -> None:
        log.warning("an image is not listed", image=name, why=why)
        self._left_out(name)

    async def _adopt(self, names: Iterable[str]) -> None:
        """Give images that others pulled an id record and our label, as the built-in plugin does:
        the id then holds the image while its tags move."""
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
                    log.warning("an image was not labelled", image=name, why=error.details())

    async def _adopt_one(self, record: Record, image_id: str, labels: Mapping[str, str]) -> None:
        """The id first, as the label says that it is there; taken back when the record is gone."""
        known = self.cache.record(image_id) is not None
        await self.put(image_id, record.target, labels)
        async with self._turn(record.name):
            labelled = await self._label(record, labels)
        if not labelled and not known:
            await self.delete(image_id, sync=False)

    async def _label(self, record: Record, labels: Mapping[str, str]) -> bool:
        """Label a record; False: somebody has deleted it, and it must not come back.

        The whole record is sent, although the mask names labels alone: containerd 2.x reads the
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
    """Manifest and config behind a record's target; CriError says what is missing or wrong."""
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
    # what was looked at on the way and is for other platforms does not count
    size = sum(length for one, length in read if one is top or one is manifest)
    return Content(manifest, await config(manifest.config), size + manifest.size)


def _record_message(name: str, target: Descriptor, labels: Mapping[str, str]) -> images_pb2.Image:
    return images_pb2.Image(
        name=name,
        labels=dict(labels),
        target=types_pb2.Descriptor(
            media_type=target.media_type, digest=target.digest, size=target.size
        ),
    )


def _complete(reference: str) -> str:
    """The complete form, by which records are named; what is no reference stays as it is."""
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
    """The name of the image record that an event speaks of."""
    kind = _EVENTS.get(envelope.topic)
    if kind is None:
        return ""
    event = kind()
    try:
        event.ParseFromString(envelope.event.value)
    except DecodeError:
        return ""
    return event.name
