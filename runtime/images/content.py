"""Blobs in containerd's content store: read, write, resume a write, and set labels.

Write references are those of containerd's own clients (``layer-sha256:…``), so a partly written
blob is resumed by whichever client pulls it next, and two pulls never write the same blob twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing, suppress
from itertools import chain, repeat
from typing import Final, TypeAlias, TypeVar
from urllib.parse import urlsplit

import grpc
from google.protobuf.field_mask_pb2 import FieldMask
from grpc import aio

from generated.containerd import content_pb2
from runtime.containerd.client import Containerd, Metadata
from runtime.errors import FailedPrecondition, NotFound, Unknown
from runtime.images.manifest import DOCUMENT_LIMIT, INDEX_TYPES, MANIFEST_TYPES, Descriptor
from runtime.steps import threads

_T = TypeVar("_T")

_QUICK: Final = 1 << 16
"""Documents up to this many bytes are parsed on the event loop: it takes less than a
millisecond."""
_PIECE: Final = 1 << 19
"""Bytes of one write message: with half as many, large images take a seventh longer. At most so
many received bytes of a layer are lost when a pull is interrupted."""
_LABEL_LIMIT: Final = 4096
"""Maximum characters of a label's key and value together (containerd's rule)."""
_SOURCE_LABEL: Final = "containerd.io/distribution.source."
_LOCKED_DELAYS: Final = (0.02, 0.05, 0.1, 0.25, 0.5, 1.0)
"""Seconds between checks of a blob that another client is writing; the last one repeats."""

_WRITE: Final = content_pb2.WriteAction.WRITE
_COMMIT: Final = content_pb2.WriteAction.COMMIT
_UNANSWERED: Final = 1
"""Write messages that may be unconfirmed while the next one is sent."""

_WriteStream: TypeAlias = (
    "aio.StreamStreamCall[content_pb2.WriteContentRequest, content_pb2.WriteContentResponse]"
)

Source = Callable[[int], AsyncGenerator[bytes, None]]
"""Returns the bytes of a blob from an offset to its end."""


async def read(containerd: Containerd, digest: str, limit: int = DOCUMENT_LIMIT) -> bytes:
    """A small blob; NotFound if it does not exist."""
    data = bytearray()
    try:
        async for answer in containerd.content.Read(content_pb2.ReadContentRequest(digest=digest)):
            data += answer.data
            if len(data) > limit:
                raise FailedPrecondition(f"{digest} is larger than {limit} bytes")
    except aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.NOT_FOUND:
            raise NotFound(f"{digest} is not in containerd's content store") from error
        raise
    return bytes(data)


async def parsed(parse: Callable[[bytes, str, str], _T], data: bytes, kind: str, digest: str) -> _T:
    """The result of ``parse``, run in a thread if the document is large."""
    if len(data) <= _QUICK:
        return parse(data, kind, digest)
    return await threads.DOCUMENTS.run(parse, data, kind, digest)


async def info(containerd: Containerd, digest: str) -> content_pb2.Info | None:
    """The content store's information about a complete blob; None if it does not exist."""
    try:
        answer = await containerd.content.Info(content_pb2.InfoRequest(digest=digest))
    except aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.NOT_FOUND:
            return None
        raise
    found: content_pb2.Info = answer.info
    return found


async def set_labels(containerd: Containerd, digest: str, labels: Mapping[str, str]) -> None:
    """Set these labels of a blob and keep its others; NotFound if the blob does not exist."""
    if not labels:  # an empty mask would mean: replace all
        return
    whole = await info(containerd, digest)
    if whole is None:
        raise NotFound(f"{digest} is not in containerd's content store")
    whole.labels.update(labels)
    await containerd.content.Update(
        content_pb2.UpdateRequest(
            info=whole, update_mask=FieldMask(paths=[f"labels.{key}" for key in labels])
        )
    )


def missing_labels(have: Mapping[str, str], wanted: Mapping[str, str]) -> dict[str, str]:
    """The required labels that a blob lacks; source labels are merged, all others replaced."""
    missing = {}
    for key, value in wanted.items():
        if key.startswith(_SOURCE_LABEL):
            sources = [*filter(None, have.get(key, "").split(",")), value]
            joined = ",".join(sorted(set(sources)))
            value = joined if len(key) + len(joined) <= _LABEL_LIMIT else value
        if have.get(key) != value:
            missing[key] = value
    return missing


def source_label(domain: str, repository: str) -> dict[str, str]:
    """The label for the registry (without its port) and repository a blob came from."""
    return {_SOURCE_LABEL + (urlsplit("//" + domain).hostname or domain): repository}


def write_reference(descriptor: Descriptor) -> str:
    """The reference of the write of a blob, as containerd's own clients name it."""
    if descriptor.media_type in INDEX_TYPES:
        kind = "index"
    elif descriptor.media_type in MANIFEST_TYPES:
        kind = "manifest"
    elif ".layer." in descriptor.media_type or ".rootfs." in descriptor.media_type:
        kind = "layer"
    else:
        kind = "config"
    return f"{kind}-{descriptor.digest}"


async def write(
    containerd: Containerd,
    descriptor: Descriptor,
    source: Source,
    *,
    labels: Mapping[str, str],
    metadata: Metadata,
) -> None:
    """Write a blob, resuming an earlier attempt; does nothing if it exists."""
    for delay in chain(_LOCKED_DELAYS, repeat(_LOCKED_DELAYS[-1])):
        if await _try_write(containerd, descriptor, source, labels, metadata):
            return
        await asyncio.sleep(delay)


async def _try_write(
    containerd: Containerd,
    descriptor: Descriptor,
    source: Source,
    labels: Mapping[str, str],
    metadata: Metadata,
) -> bool:
    """False: another client is writing the blob; check again later."""
    stream = containerd.content.Write(metadata=metadata)
    reference = write_reference(descriptor)
    try:
        offset = await _send(
            stream,
            action=content_pb2.WriteAction.STAT,
            ref=reference,
            total=descriptor.size,
            expected=descriptor.digest,
        )
    except aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.ALREADY_EXISTS:
            return True
        if await _is_locked(containerd, reference, error):
            return False
        raise
    try:
        await _write_all(stream, descriptor, source, offset, labels)
    except aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.ALREADY_EXISTS:
            return True
        if error.code() is grpc.StatusCode.FAILED_PRECONDITION:
            # what was written can never become the blob: the next pull must start over
            await containerd.content.Abort(content_pb2.AbortRequest(ref=reference))
            raise Unknown(
                f"the bytes of {descriptor.digest} are wrong: {error.details()}"
            ) from error
        raise
    finally:
        stream.cancel()  # has no effect on a stream that has ended
    return True


async def _write_all(
    stream: _WriteStream,
    descriptor: Descriptor,
    source: Source,
    offset: int,
    labels: Mapping[str, str],
) -> None:
    """Write everything that the source returns from ``offset`` on, and commit the blob.

    The next piece is sent before the previous one is confirmed: waiting for each takes twice the
    time. The last one is sent with the commit.
    """
    waiting: list[bytes] = []
    length = unanswered = 0
    async with aclosing(source(offset)) as pieces:
        async for piece in pieces:
            waiting.append(piece)
            length += len(piece)
            if length < _PIECE:
                continue
            await _ask(stream, action=_WRITE, offset=offset, data=b"".join(waiting))
            offset += length
            waiting, length = [], 0
            unanswered += 1
            if unanswered > _UNANSWERED:
                await _answer(stream)
                unanswered -= 1
    await _ask(
        stream,
        action=_COMMIT,
        total=descriptor.size,
        expected=descriptor.digest,
        offset=offset,
        data=b"".join(waiting),
        labels=dict(labels),
    )
    for _ in range(unanswered + 1):
        await _answer(stream)


async def _send(stream: _WriteStream, **fields: object) -> int:
    """One message and its response: the offset that the store has reached."""
    await _ask(stream, **fields)
    return await _answer(stream)


async def _ask(stream: _WriteStream, **fields: object) -> None:
    with suppress(asyncio.InvalidStateError):  # the call has ended: its status says why
        await stream.write(content_pb2.WriteContentRequest(**fields))  # type: ignore[arg-type]


async def _answer(stream: _WriteStream) -> int:
    answer = await stream.read()
    if not isinstance(answer, content_pb2.WriteContentResponse):
        raise Unknown("containerd ended a write without a response")
    return int(answer.offset)


async def _is_locked(containerd: Containerd, reference: str, error: aio.AioRpcError) -> bool:
    """Whether a write could not start because another write of the same blob is running."""
    if error.code() is not grpc.StatusCode.UNAVAILABLE:
        return False
    try:
        await containerd.content.Status(content_pb2.StatusRequest(ref=reference))
    except aio.AioRpcError as gone:
        # the other write may have ended between the two calls
        return gone.code() is grpc.StatusCode.NOT_FOUND
    return True
