"""One HTTP request of a pull, with its redirects, its encodings and its bytes.

Every address that is asked, a redirect's too, gets the proxy that the environment names for it and
only what it may see: credentials and configured headers go to the address that they are meant for
and not on to where it redirects.
"""

from __future__ import annotations

import os
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
"""Redirects of one request, as Go's client follows them."""
_MOVED: Final = frozenset({301, 302, 303, 307, 308})
_TO_GET: Final = frozenset({301, 302, 303})
"""Statuses after which a POST goes on as a GET without its form."""
_DECODED: Final = 1 << 20
"""Bytes that one piece is decoded to at most: a few encoded bytes can stand for gigabytes."""

Headers: TypeAlias = Sequence[tuple[str, str]]


class HostError(Exception):
    """One host failed; carried to the loop over the hosts."""

    def __init__(self, why: str, kind: type[CriError]) -> None:
        super().__init__(why)
        self.why = why
        self.kind = kind


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for."""

    method: str
    url: str
    headers: Headers = ()
    private: Headers = field(default=(), repr=False)
    """Headers that only the first address sees."""
    form: Sequence[tuple[str, str]] | None = field(default=None, repr=False)
    """Of a POST; it may hold secrets, so it is not sent on to another address."""
    tls: ssl.SSLContext | bool = True
    dial_timeout: float = 30.0
    """Seconds for one connection."""
    total_timeout: float | None = None
    """Seconds for the whole request; None: no limit but that of the pull."""


async def send(session: aiohttp.ClientSession, request: Request) -> aiohttp.ClientResponse:
    """The answer at the end of all redirects, whatever its status.

    Raises what `network_errors` lists, ValueError for a URL that is none, and HostError for
    redirects that are not followed.
    """
    import aiohttp
    from yarl import URL

    url = first = URL(request.url)
    method, form = request.method, request.form
    timeout = aiohttp.ClientTimeout(total=request.total_timeout, sock_connect=request.dial_timeout)
    for _ in range(_REDIRECTS + 1):
        private = request.private if url.origin() == first.origin() else ()
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


def _redirected(url: URL, location: str) -> URL:
    from yarl import URL

    try:
        # what storage has signed must not be touched, however it is written
        target = url.join(URL(location, encoded=True))
        if target.scheme in ("http", "https") and target.host:
            return target
    except (ValueError, UnicodeError):
        pass
    raise HostError("redirects to something that is no http or https URL", Unknown)


def _proxy(url: URL) -> str | None:
    proxy = proxy_for(str(url), os.environ)
    if proxy and not proxy.startswith(("http://", "https://")):
        scheme = proxy.partition(":")[0]
        raise FailedPrecondition(
            f"the environment names a proxy of kind {scheme!r} for {url.host}: "
            "only http and https proxies are supported"
        )
    return proxy


async def read_body(
    answer: aiohttp.ClientResponse, limit: int, activity: Activity | None = None
) -> bytes:
    """The decoded beginning of an answer, at most ``limit`` bytes."""
    data = bytearray()
    async for piece in _decoded(answer, _decoders(answer), activity):
        data += piece
        if len(data) >= limit:
            break
    return bytes(data[:limit])


def encodes_a_part(answer: aiohttp.ClientResponse, rest: int) -> bool:
    """Whether the answer to a ``Range`` is part of encoded bytes, which nothing can be made of."""
    return answer.status == 206 and bool(_decoders_of_blob(answer, rest))


async def read_blob(
    answer: aiohttp.ClientResponse, offset: int, size: int, activity: Activity
) -> AsyncGenerator[bytes, None]:
    """The bytes of a blob of ``size`` from ``offset`` on, out of an answer to that range or to the
    whole; HostError when they break off."""
    skip = 0 if answer.status == 206 else offset
    rest = size - (offset - skip)
    try:
        async for piece in _decoded(answer, _decoders_of_blob(answer, rest), activity):
            if skip:  # a server without Range sends everything again
                piece, skip = piece[skip:], max(0, skip - len(piece))
            if piece:
                yield piece
    except network_errors() as error:
        raise HostError(why(error), Unavailable) from error


@asynccontextmanager
async def released(answer: aiohttp.ClientResponse) -> AsyncIterator[aiohttp.ClientResponse]:
    """The answer, whose connection is given back afterwards; with unread bytes it is closed."""
    try:
        yield answer
    finally:
        answer.release()


# Encodings. None is asked for, but some servers and caches encode what they like.


def _decoders_of_blob(answer: aiohttp.ClientResponse, rest: int) -> list[zlib._Decompress]:
    """Storage may be told the encoding of a compressed layer, which is to stay as it is: then the
    answer is as long as the layer."""
    if answer.headers.get("Content-Length") == str(rest):
        return []
    return _decoders(answer)


def _decoders(answer: aiohttp.ClientResponse) -> list[zlib._Decompress]:
    """What undoes the answer's encodings, the last one first."""
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
                        f"answers with the encoding {other!r}, which was not asked for", Unknown
                    )
    if len(made) > 2:
        raise HostError(f"answers in {len(made)} encodings, none of them asked for", Unknown)
    return made


async def _decoded(
    answer: aiohttp.ClientResponse,
    decoders: Sequence[zlib._Decompress],
    activity: Activity | None = None,
) -> AsyncGenerator[bytes, None]:
    async for piece in answer.content.iter_any():
        if activity:
            activity.moved()
        for part in _through(decoders, piece):
            yield part
    if not all(decoder.eof for decoder in decoders):
        raise HostError("ends before its encoding does", Unavailable)


def _through(decoders: Sequence[zlib._Decompress], data: bytes) -> Iterator[bytes]:
    """The data, decoded by each decoder in turn, in parts of bounded size."""
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
        raise HostError(f"is not encoded as it says: {error}", Unknown) from error
