"""The registry client of one pull: resolve, manifests, blobs.

Every request goes to the registry's hosts in order (mirrors first) until one succeeds. An
interrupted blob is continued where it broke off (``Range``): at the same host as long as that sends
bytes, then at the next, and finally at the URLs in its descriptor (for layers that a registry may
not redistribute), without credentials. Only the current piece is held in memory.

aiohttp is imported at the first pull: a server that never pulls saves the time and memory.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, NoReturn

import structlog

from runtime.errors import (
    CriError,
    FailedPrecondition,
    NotFound,
    RegistryUnavailable,
    Unavailable,
    Unknown,
)
from runtime.images.manifest import DOCUMENT_LIMIT, Descriptor, digest_of, sniff
from runtime.images.progress import Activity
from runtime.images.reference import Reference
from runtime.images.registry.auth import Credentials, Secrets
from runtime.images.registry.host import HostClient, Visit, read_outside
from runtime.images.registry.hosts import PULL, RESOLVE, RegistryHost
from runtime.images.registry.network import network_errors, why
from runtime.images.registry.ranges import Ranges, in_parallel
from runtime.images.registry.transport import HostError, WholeOnly, read_body
from runtime.steps import threads
from runtime.text import one_line

if TYPE_CHECKING:
    import aiohttp

log = structlog.get_logger(__name__)

_HEADERS: Final = {
    "User-Agent": "cri-containerd",
    # digests are those of the bytes on the wire
    "Accept-Encoding": "identity",
}
_READ_BUFFER: Final = 1 << 16
"""Bytes that a connection reads ahead: larger buffers cost memory and are not faster."""
_HEADER_LIMIT: Final = 1 << 15
_FRUITLESS_TRIES: Final = 3
"""Consecutive attempts for one blob at one host that may return no bytes."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why one host did not return the requested object."""

    host: str
    why: str
    kind: type[CriError]

    def __str__(self) -> str:
        return f"{self.host}: {self.why}"


@asynccontextmanager
async def open_registry(
    reference: Reference,
    hosts: Sequence[RegistryHost],
    who: Credentials,
    activity: Activity,
    ranges: Ranges,
) -> AsyncIterator[Registry]:
    """A client for one pull; ``activity`` counts the bytes received."""
    # the first import takes 0.2 s, during which the loop must serve other calls
    aiohttp = await threads.CONFIGURATION.run(importlib.import_module, "aiohttp")
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        headers=_HEADERS,
        read_bufsize=_READ_BUFFER,
        # a redirect to storage is signed: its URL must be used unchanged, whatever its length
        requote_redirect_url=False,
        max_line_size=_HEADER_LIMIT,
        max_field_size=_HEADER_LIMIT,
    ) as session:
        visit = Visit(session, reference.domain, reference.path, who, activity, Secrets(who))
        yield Registry(reference, [HostClient(host, visit) for host in hosts], visit, ranges)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a blob can be fetched from."""

    name: str
    read: Callable[[int, int], AsyncGenerator[bytes, None]]
    """Its bytes from an offset to another."""
    failed: Callable[[HostError], None]
    """Called with a failure."""
    tries: int
    """Consecutive attempts that may return no bytes."""


class Registry:
    """The hosts of one registry, tried in order.

    The last one is the registry itself and is retried. A host before it that failed (except because
    it lacks the requested object) is skipped for the rest of this pull: seven layers need not find
    out seven times that a mirror is down.
    """

    def __init__(
        self, reference: Reference, hosts: Sequence[HostClient], visit: Visit, ranges: Ranges
    ) -> None:
        self._reference = reference
        self._hosts = hosts
        self._visit = visit
        self._ranges = ranges
        self._failed: set[HostClient] = set()

    async def digest_of_tag(self) -> str | None:
        """The digest that the reference resolves to now, without fetching (registries do not count
        HEAD as a pull); None if no host answers HEAD."""
        path = f"manifests/{self._reference.object}"
        for host, patient in self._turns(PULL if self._reference.digest else RESOLVE):
            try:
                async with host.open("HEAD", path, patient=patient) as answer:
                    digest = answer.headers.get("Docker-Content-Digest")
                    return str(digest) if digest else None
            except HostError as error:
                if error.kind is Unavailable:  # other hosts may refuse only HEAD
                    self._note(host, error)
        return None

    async def manifest(self, wanted: str = "") -> tuple[Descriptor, bytes]:
        """The manifest or index with the digest ``wanted``, or else of the reference."""
        wanted = wanted or self._reference.object
        by_digest = ":" in wanted
        refusals = []
        for host, patient in self._turns(PULL if by_digest else RESOLVE):
            try:
                async with host.open("GET", f"manifests/{wanted}", patient=patient) as answer:
                    data = await self._document(answer)
                    served = answer.headers.get("Content-Type", "")
                if not data.lstrip().startswith(b"{"):
                    raise HostError(
                        f"sent {len(data)} bytes of {one_line(served, 80) or 'an unknown type'} "
                        "instead of a manifest; is it a login or error page?",
                        Unknown,
                    )
                media_type = sniff(data, served)
                digest = digest_of(data, wanted if by_digest else "")
                if by_digest and digest != wanted:
                    raise HostError(f"sent {digest} instead of {wanted}", Unknown)
                return Descriptor(media_type, digest, len(data)), data
            except HostError as error:
                self._note(host, error)
                refusals.append(Refusal(host.name, error.why, error.kind))
        _raise(f"resolve {self._reference}" if not by_digest else f"fetch {wanted}", refusals)

    async def blob(self, descriptor: Descriptor, offset: int = 0) -> AsyncGenerator[bytes, None]:
        """The bytes of a blob from ``offset`` to its end, in pieces as they arrive."""
        if self._ranges.divide(descriptor.size - offset):
            fetch = partial(self._part, descriptor)
            try:
                async with aclosing(
                    in_parallel(offset, descriptor.size, self._ranges, fetch)
                ) as parts:
                    async for part in parts:
                        offset += len(part)
                        yield part
            except WholeOnly:
                log.debug("a registry host sends no ranges", digest=descriptor.digest, at=offset)
        if offset < descriptor.size:
            async with aclosing(self._stretch(descriptor, offset, descriptor.size)) as pieces:
                async for piece in pieces:
                    yield piece

    async def _part(self, descriptor: Descriptor, offset: int, end: int) -> bytes:
        async with aclosing(self._stretch(descriptor, offset, end)) as pieces:
            return b"".join([piece async for piece in pieces])

    async def _stretch(
        self, descriptor: Descriptor, offset: int, end: int
    ) -> AsyncGenerator[bytes, None]:
        """The bytes from ``offset`` to ``end``, from the first hosts that have them.

        Raises WholeOnly if the blob does not end there and a host has no ranges.
        """
        refusals: list[Refusal] = []
        for place in self._places(descriptor):
            fruitless = 0
            while offset < end:
                began = offset
                try:
                    async with aclosing(place.read(offset, end)) as pieces:
                        async for piece in pieces:
                            offset += len(piece)
                            if offset > end:
                                raise HostError(f"sent more than {end - began} bytes", Unknown)
                            yield piece
                    if offset < end:
                        raise HostError(
                            f"ended after {offset} of {descriptor.size} bytes", Unavailable
                        )
                except HostError as error:
                    log.debug(
                        "download of a blob interrupted",
                        digest=descriptor.digest,
                        at=offset,
                        why=error.why,
                    )
                    refusals.append(Refusal(place.name, error.why, error.kind))
                    fruitless = 0 if offset > began else fruitless + 1
                    if error.kind is not Unavailable or fruitless == place.tries:
                        place.failed(error)
                        break
                    await asyncio.sleep(0.1 * 4**fruitless)
            else:
                return
        _raise(f"fetch {descriptor.digest} of {self._reference.name}", refusals)

    def _places(self, descriptor: Descriptor) -> Iterator[_Place]:
        """The hosts, and then the URLs in the descriptor."""
        for host, patient in self._turns(PULL):
            read = partial(
                self._read_from, host, f"blobs/{descriptor.digest}", descriptor.size, patient
            )
            tries = _FRUITLESS_TRIES if patient else 1
            yield _Place(host.name, read, partial(self._note, host), tries)
        for url in descriptor.urls:
            read = partial(read_outside, self._visit, url, descriptor.size)
            yield _Place(url.partition("?")[0], read, lambda _error: None, _FRUITLESS_TRIES)

    def _read_from(
        self, host: HostClient, path: str, size: int, patient: bool, offset: int, end: int
    ) -> AsyncGenerator[bytes, None]:
        return host.read(path, offset, end, size, patient=patient)

    def _turns(self, capability: str) -> Iterator[tuple[HostClient, bool]]:
        """The hosts to try, and whether each is retried."""
        able = [host for host in self._hosts if capability in host.host.capabilities]
        if not able:
            raise FailedPrecondition(
                f"no host for {self._reference.domain} has the capability {capability}: "
                "add it to one in hosts.toml"
            )
        for host in able[:-1]:
            if host not in self._failed:
                yield host, False
        yield able[-1], True

    def _note(self, host: HostClient, error: HostError) -> None:
        if error.kind is NotFound or host in self._failed:
            return
        self._failed.add(host)
        if error.kind is Unavailable and len(self._hosts) > 1:
            log.warning(
                "a registry host cannot be used for this pull; the others are",
                image=str(self._reference),
                host=host.name,
                reason=error.why,
            )

    async def _document(self, answer: aiohttp.ClientResponse) -> bytes:
        try:
            data = await read_body(answer, DOCUMENT_LIMIT + 1, self._visit.activity)
        except network_errors() as error:
            raise HostError(why(error), Unavailable) from error
        if len(data) > DOCUMENT_LIMIT:
            raise HostError(f"manifest is larger than {DOCUMENT_LIMIT} bytes", Unknown)
        return data


def _raise(doing: str, refusals: Sequence[Refusal]) -> NoReturn:
    """The error after every host has failed: the last host, the registry itself, decides its
    type."""
    kind = refusals[-1].kind
    answers = "; ".join(dict.fromkeys(map(str, refusals)))
    if kind is Unavailable:
        kind = RegistryUnavailable
    raise kind(f"cannot {doing}: {answers}")
