"""The client of one registry for one pull: resolve, manifests, blobs.

Every request goes to the registry's hosts in their order (mirrors first) until one answers. A blob
that breaks off is asked for again from where it broke (``Range``), at the same host as long as it
gives bytes, then at the next. Nothing is held in memory but the piece in hand.

aiohttp is imported at the first pull: a server that pulls nothing neither waits nor pays for it.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NoReturn

import structlog

from runtime.errors import CriError, FailedPrecondition, RegistryUnavailable, Unavailable, Unknown
from runtime.images.manifest import DOCUMENT_LIMIT, Descriptor, digest_of, sniff
from runtime.images.progress import Activity
from runtime.images.reference import Reference
from runtime.images.registry.auth import Credentials
from runtime.images.registry.host import HostClient, HostError, Visit
from runtime.images.registry.hosts import PULL, RESOLVE, RegistryHost
from runtime.images.registry.network import network_errors, why
from runtime.steps import threads

if TYPE_CHECKING:
    import aiohttp

log = structlog.get_logger(__name__)

_HEADERS: Final = {
    "User-Agent": "cri-containerd",
    # digests are those of the bytes on the wire
    "Accept-Encoding": "identity",
}
_READ_BUFFER: Final = 1 << 16
"""Bytes that a connection reads ahead: larger ones cost memory and gain no time."""
_HEADER_LIMIT: Final = 1 << 15
_FRUITLESS_TRIES: Final = 3
"""Tries in a row at one blob and host that gave no byte."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why one host did not give what was asked for."""

    host: str
    why: str
    kind: type[CriError]

    def __str__(self) -> str:
        return f"{self.host}: {self.why}"


@asynccontextmanager
async def open_registry(
    reference: Reference, hosts: Sequence[RegistryHost], who: Credentials, activity: Activity
) -> AsyncIterator[Registry]:
    """A client for one pull; ``activity`` is told of the bytes that come."""
    # the first import takes 0.2 s, in which other calls want to be answered
    aiohttp = await threads.STATE_FILES.run(importlib.import_module, "aiohttp")
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        headers=_HEADERS,
        read_bufsize=_READ_BUFFER,
        # a redirect to storage is signed: its address must not be touched, however long it is
        requote_redirect_url=False,
        max_line_size=_HEADER_LIMIT,
        max_field_size=_HEADER_LIMIT,
    ) as session:
        visit = Visit(session, reference.domain, reference.path, who, activity)
        yield Registry(reference, [HostClient(host, visit) for host in hosts], activity)


class Registry:
    """The hosts of one registry, asked in turn."""

    def __init__(
        self, reference: Reference, hosts: Sequence[HostClient], activity: Activity
    ) -> None:
        self._reference = reference
        self._hosts = hosts
        self._activity = activity

    async def digest_of_tag(self) -> str | None:
        """The digest that the reference names now, without fetching (registries that count pulls do
        not count this); None when no host says so by HEAD."""
        for host in self._capable(PULL if self._reference.digest else RESOLVE):
            try:
                async with host.open("HEAD", f"manifests/{self._reference.object}") as answer:
                    digest = answer.headers.get("Docker-Content-Digest")
                    return str(digest) if digest else None
            except HostError:
                continue
        return None

    async def manifest(self, wanted: str = "") -> tuple[Descriptor, bytes]:
        """The manifest or index under ``wanted``, a digest, or else under the reference."""
        wanted = wanted or self._reference.object
        by_digest = ":" in wanted
        refusals = []
        for host in self._capable(PULL if by_digest else RESOLVE):
            try:
                async with host.open("GET", f"manifests/{wanted}") as answer:
                    data = await self._document(answer)
                    media_type = sniff(data, answer.headers.get("Content-Type", ""))
                digest = digest_of(data, wanted if by_digest else "")
                if by_digest and digest != wanted:
                    raise HostError(f"gave {digest} for {wanted}", Unknown)
                return Descriptor(media_type, digest, len(data)), data
            except HostError as error:
                refusals.append(Refusal(host.name, error.why, error.kind))
        _raise(f"resolve {self._reference}" if not by_digest else f"fetch {wanted}", refusals)

    async def blob(self, descriptor: Descriptor, offset: int = 0) -> AsyncGenerator[bytes, None]:
        """The bytes of a blob from ``offset`` to its end, in pieces as they come."""
        refusals: list[Refusal] = []
        for host in self._capable(PULL):
            fruitless = 0
            while offset < descriptor.size:
                began = offset
                try:
                    async with aclosing(host.read(f"blobs/{descriptor.digest}", offset)) as pieces:
                        async for piece in pieces:
                            offset += len(piece)
                            if offset > descriptor.size:
                                raise HostError(f"sent more than {descriptor.size} bytes", Unknown)
                            yield piece
                    if offset < descriptor.size:
                        raise HostError(
                            f"ended at {offset} of {descriptor.size} bytes", Unavailable
                        )
                except HostError as error:
                    log.debug("blob broke off", digest=descriptor.digest, at=offset, why=error.why)
                    refusals.append(Refusal(host.name, error.why, error.kind))
                    fruitless = 0 if offset > began else fruitless + 1
                    if error.kind is not Unavailable or fruitless == _FRUITLESS_TRIES:
                        break
                    await asyncio.sleep(0.1 * 4**fruitless)
            else:
                return
        _raise(f"fetch {descriptor.digest} of {self._reference.name}", refusals)

    def _capable(self, capability: str) -> list[HostClient]:
        able = [host for host in self._hosts if capability in host.host.capabilities]
        if not able:
            raise FailedPrecondition(
                f"no host of {self._reference.domain} may {capability}: "
                "give one this capability in hosts.toml"
            )
        return able

    async def _document(self, answer: aiohttp.ClientResponse) -> bytes:
        data = bytearray()
        try:
            async for piece in answer.content.iter_any():
                self._activity.moved()
                data += piece
                if len(data) > DOCUMENT_LIMIT:
                    raise HostError(f"manifest is larger than {DOCUMENT_LIMIT} bytes", Unknown)
        except network_errors() as error:
            raise HostError(why(error), Unavailable) from error
        return bytes(data)


def _raise(doing: str, refusals: Sequence[Refusal]) -> NoReturn:
    """The error after every host refused: the last host, the registry itself, decides its kind."""
    kind = refusals[-1].kind
    told = "; ".join(dict.fromkeys(map(str, refusals)))
    if kind is Unavailable:
        kind = RegistryUnavailable
    raise kind(f"cannot {doing}: {told}")
