"""One HTTP request of a pull, with redirects, content encodings and body.

For every URL, including redirects, the proxy is taken from the environment, and only what it may
see is sent: credentials and configured headers go to the address they are meant for, not to
redirect targets.
"""

from __future__ import annotations

import asyncio
import os
import re
import ssl
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeAlias

from runtime.errors import CriError, FailedPrecondition, Unavailable, Unknown
from runtime.images.progress import Activity
from runtime.images.registry.network import network_errors, proxy_for, why

if TYPE_CHECKING:
    import aiohttp
    from yarl import URL

_REDIRECTS: Final = 10
"""Maximum redirects of one request, as in Go's client."""
_MOVED: Final = frozenset({301, 302, 303, 307, 308})
_TO_GET: Final = frozenset({301, 302, 303})
"""Statuses after which a POST continues as a GET without its form."""
_CONTENT_RANGE: Final = re.compile(r"\s*bytes\s+([0-9]{1,19})-", re.I)
_DECODED: Final = 1 << 20
"""Maximum bytes decoded in one piece: a few encoded bytes can expand to gigabytes."""

Headers: TypeAlias = Sequence[tuple[str, str]]


class HostError(Exception):
    """One host failed; caught by the loop over the hosts."""

    def __init__(self, why: str, kind: type[CriError], *, status: int = 0) -> None:
        super().__init__(why)
        self.why = why
        self.kind = kind
        self.status = status
        """Of its HTTP response; 0 if there was none, or it is not the reason."""


class WholeOnly(Exception):
    """A host cannot return a part of a blob, only the whole."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for."""

    method: str
    url: str
    headers: Headers = ()
    private: Headers = field(default=(), repr=False)
    """Headers that only the first URL receives."""
    form: Sequence[tuple[str, str]] | None = field(default=None, repr=False)
    """Form of a POST; it may contain secrets, so it is not sent to another address."""
    tls: ssl.SSLContext | bool = True
    dial_timeout: float = 30.0
    """Seconds for one connection attempt."""
    answer_timeout: float = 30.0
    """Seconds from the connection to the headers of the answer."""
    silence_timeout: float | None = None
    """Seconds without a byte; None: no limit but that of the pull."""
    total_timeout: float | None = None
    """Seconds for the whole request; None: only the pull's own limit."""


async def send(session: aiohttp.ClientSession, request: Request) -> aiohttp.ClientResponse:
    """The response after all redirects, whatever its status.

    Raises what `network_errors` lists, ValueError for an invalid URL, and HostError for redirects
    that are not followed.
    """
    import aiohttp
    from yarl import URL

    url = first = URL(request.url)
    method, form = request.method, request.form
    timeout = aiohttp.ClientTimeout(
        total=request.total_timeout,
        sock_connect=request.dial_timeout,
        sock_read=request.silence_timeout,
    )
    for _ in range(_REDIRECTS + 1):
        private = request.private if url.origin() == first.origin() else ()
        async with answering(request.dial_timeout + request.answer_timeout):
            answer = await session.request(
                method,
                url,
                headers=[*request.headers, *private],
                data=form,
                timeout=timeout,
                ssl=request.tls,
                proxy=_proxy(url),
                allow_redirects=False,
            )
        location = answer.headers.get("Location", "")
        if answer.status not in _MOVED or not location:
            return answer
        answer.release()
        url = _redirected(url, location)
        if method == "POST" and answer.status in _TO_GET:
            method, form = "GET", None
        if form is not None and url.origin() != first.origin():
            raise HostError(f"redirects credentials to {url.origin()}", Unknown)
    raise HostError(f"redirects more than {_REDIRECTS} times", Unknown)


@asynccontextmanager
async def answering(limit: float) -> AsyncIterator[None]:
    """HostError if the block, which waits for an answer, takes longer than ``limit`` seconds."""
    try:
        async with asyncio.timeout(limit) as waiting:
            yield
    except TimeoutError as error:
        if not waiting.expired():
            raise
        raise HostError(f"did not answer within {limit:g} s", Unavailable) from error


def _redirected(url: URL, location: str) -> URL:
    from yarl import URL

    try:
        # storage URLs are signed and must be used unchanged, however they are encoded
        target = url.join(URL(location, encoded=True))
        if target.scheme in ("http", "https") and target.host:
            return target
    except (ValueError, UnicodeError):
        pass
    raise HostError("redirects to something that is not an http or https URL", Unknown)


def _proxy(url: URL) -> str | None:
    proxy = proxy_for(str(url), os.environ)
    if proxy and not proxy.startswith(("http://", "https://")):
        scheme = proxy.partition(":")[0]
        raise FailedPrecondition(
            f"the environment sets a proxy of type {scheme!r} for {url.host}: "
            "only http and https proxies are supported"
        )
    return proxy


async def read_body(
    answer: aiohttp.ClientResponse, limit: int, activity: Activity | None = None
) -> bytes:
    """The decoded beginning of a response, at most ``limit`` bytes."""
    data = bytearray()
    async for piece in _decoded(answer, _decoders(answer), activity):
        data += piece
        if len(data) >= limit:
            break
    return bytes(data[:limit])


def encodes_a_part(answer: aiohttp.ClientResponse, rest: int) -> bool:
    """Whether the response to a ``Range`` is part of an encoded body, which cannot be decoded."""
    return answer.status == 206 and bool(_decoders_of_blob(answer, rest))


def is_another_part(answer: aiohttp.ClientResponse, offset: int) -> bool:
    """Whether the response to a ``Range`` begins elsewhere than at ``offset``, as it says."""
    given = answer.headers.get("Content-Range", "")
    begin = _CONTENT_RANGE.match(given)
    return answer.status == 206 and begin is not None and int(begin[1]) != offset


def range_header(offset: int, end: int, size: int) -> list[tuple[str, str]]:
    """The header that requests the bytes of a blob of ``size`` from ``offset`` to ``end``."""
    if end < size:
        return [("Range", f"bytes={offset}-{end - 1}")]
    return [("Range", f"bytes={offset}-")] if offset else []


async def read_blob(
    answer: aiohttp.ClientResponse, offset: int, size: int, activity: Activity
) -> AsyncGenerator[bytes, None]:
    """The bytes of a blob from ``offset`` to ``size``, from a response to that range or to the
    whole; raises HostError if they end early.

    A response with another length than the blob is refused before its first byte: it is an error
    page or another file, and the next host would continue after its bytes.
    """
    skip = 0 if answer.status == 206 else offset
    rest = size - (offset - skip)
    decoders = _decoders_of_blob(answer, rest)
    offered = answer.headers.get("Content-Length", "")
    if answer.status == 200 and not decoders and offered not in ("", str(rest)):
        raise HostError(f"offers {offered} bytes instead of {rest}", Unknown)
    try:
        async for piece in _decoded(answer, decoders, activity):
            if skip:  # a server without Range support sends everything again
                piece, skip = piece[skip:], max(0, skip - len(piece))
            if piece:
                yield piece
    except network_errors() as error:
        raise HostError(why(error), Unavailable) from error


@asynccontextmanager
async def released(answer: aiohttp.ClientResponse) -> AsyncIterator[aiohttp.ClientResponse]:
    """The response; its connection is released afterwards, or closed if bytes are unread."""
    try:
        yield answer
    finally:
        answer.release()


# Encodings. None are requested, but some servers and caches use them nevertheless.


def _decoders_of_blob(answer: aiohttp.ClientResponse, rest: int) -> list[zlib._Decompress]:
    """Storage may label a compressed layer with an encoding that must not be decoded: then the body
    has exactly the size of the layer."""
    if answer.headers.get("Content-Length") == str(rest):
        return []
    return _decoders(answer)


def _decoders(answer: aiohttp.ClientResponse) -> list[zlib._Decompress]:
    """The decoders for the response's encodings, the last one first."""
    made = []
    for value in reversed(answer.headers.getall("Content-Encoding", [])):
        for name in reversed(value.lower().split(",")):
            match name.strip():
                case "" | "identity":
                    continue
                case "gzip" | "x-gzip":
                    made.append(zlib.decompressobj(16 + zlib.MAX_WBITS))
                case "deflate":
                    made.append(zlib.decompressobj())
                case other:
                    raise HostError(
                        f"responds with the encoding {other!r}, which was not requested", Unknown
                    )
    if len(made) > 2:
        raise HostError(f"responds with {len(made)} encodings, none of them requested", Unknown)
    return made


async def _decoded(
    answer: aiohttp.ClientResponse,
    decoders: Sequence[zlib._Decompress],
    activity: Activity | None = None,
) -> AsyncGenerator[bytes, None]:
    async for piece in answer.content.iter_any():
        if activity:
            activity.moved(len(piece))
        for part in _through(decoders, piece):
            yield part
    if not all(decoder.eof for decoder in decoders):
        raise HostError("ends in the middle of its encoding", Unavailable)


def _through(decoders: Sequence[zlib._Decompress], data: bytes) -> Iterator[bytes]:
    """The data, decoded by each decoder in turn, in pieces of limited size."""
    if not decoders:
        yield data
        return
    first, *others = decoders
    try:
        while data and not first.eof:
            part = first.decompress(data, _DECODED)
            data = first.unconsumed_tail
            if part:
                yield from _through(others, part)
    except zlib.error as error:
        raise HostError(f"is not encoded as stated: {error}", Unknown) from error
