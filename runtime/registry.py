"""The client of one registry for one pull: resolve, manifests, blobs.

Every request goes to the registry's hosts in their order (mirrors first) until one answers. A blob
that breaks off is asked for again from where it broke (``Range``), at the same host as long as it
gives bytes, then at the next. Nothing is held in memory but the piece in hand.

aiohttp is imported at the first pull: a server that pulls nothing neither waits nor pays for it.
"""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import json
import os
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, NoReturn, Self
from urllib.parse import urlencode, urlsplit

import structlog

from runtime.errors import (
    CriError,
    FailedPrecondition,
    NotFound,
    Unauthenticated,
    Unavailable,
    Unknown,
)
from runtime.image_manifest import DOCUMENT_LIMIT, INDEX_TYPES, MANIFEST_TYPES, Descriptor, sniff
from runtime.image_reference import Reference
from runtime.registry_auth import ANONYMOUS, Authorizer, Credentials, TokenError, TokenRequest
from runtime.registry_hosts import PULL, RESOLVE, RegistryHost, is_localhost

if TYPE_CHECKING:
    import aiohttp

log = structlog.get_logger(__name__)

_ACCEPT: Final = ", ".join((*MANIFEST_TYPES, *INDEX_TYPES, "*/*"))
_USER_AGENT: Final = "cri-containerd"
_ERROR_LIMIT: Final = 64 << 10
"""Bytes of an error's body that are looked at."""
_MESSAGE_LIMIT: Final = 300
"""Characters of a registry's own words in an error."""
_RETRY_DELAYS: Final = {
    408: (0.5, 1.0, 2.0),
    429: (1.0, 2.0, 4.0),
    500: (0.5,),
    502: (0.5, 1.0),
    503: (0.5, 1.0),
    504: (0.5, 1.0),
}
"""Status → seconds before each further try at the same host."""
_RETRY_AFTER_LIMIT: Final = 30.0
"""Seconds; a server that wants a longer pause is left to the kubelet's back-off."""
_FRUITLESS_TRIES: Final = 3
"""Tries in a row at one blob and host that gave no byte."""


class Activity:
    """Whether bytes still come: counts requests under way and remembers the last byte."""

    def __init__(self) -> None:
        self._active = 0
        self._last = 0.0

    @asynccontextmanager
    async def request(self) -> AsyncIterator[None]:
        """The length of one request; the clock starts anew when one begins after a silence."""
        if not self._active:
            self.moved()
        self._active += 1
        try:
            yield
        finally:
            self._active -= 1

    def moved(self) -> None:
        """Bytes have come."""
        self._last = asyncio.get_running_loop().time()

    def stalled(self) -> float:
        """Seconds since the last byte; 0 while nothing is asked for (layers are unpacked)."""
        return asyncio.get_running_loop().time() - self._last if self._active else 0.0


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why one host did not give what was asked for."""

    host: str
    why: str
    kind: type[CriError]

    def __str__(self) -> str:
        return f"{self.host}: {self.why}"


class _HostError(Exception):
    """One host failed; carried to the loop over the hosts."""

    def __init__(self, why: str, kind: type[CriError]) -> None:
        super().__init__(why)
        self.why = why
        self.kind = kind


_KIND_OF_STATUS: Final[Mapping[int, type[CriError]]] = {
    401: Unauthenticated,
    403: Unauthenticated,
    404: NotFound,
    408: Unavailable,
    429: Unavailable,
}


def kind_of_status(status: int) -> type[CriError]:
    """The error of an HTTP status, as the kubelet tells them apart."""
    return Unavailable if status >= 500 else _KIND_OF_STATUS.get(status, Unknown)


class Registry:
    """An open client; use as ``async with Registry(…) as registry``."""

    def __init__(
        self,
        reference: Reference,
        hosts: Sequence[RegistryHost],
        who: Credentials = ANONYMOUS,
        *,
        activity: Activity | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._reference = reference
        self._hosts = [_HostClient(host, self) for host in hosts]
        self.who = who
        self.activity = activity or Activity()
        self._headers = headers or {}
        self._session: aiohttp.ClientSession | None = None

    @property
    def domain(self) -> str:
        return self._reference.domain

    @property
    def repository(self) -> str:
        return self._reference.path

    @property
    def session(self) -> aiohttp.ClientSession:
        assert self._session is not None, "use `async with Registry(…)`"
        return self._session

    async def __aenter__(self) -> Self:
        import aiohttp

        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,  # digests are those of the bytes on the wire
            headers={"User-Agent": _USER_AGENT, "Accept-Encoding": "identity", **self._headers},
            read_bufsize=1 << 20,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.session.close()

    async def digest_of_tag(self) -> str | None:
        """The digest that the reference names now, without fetching (registries that count pulls do
        not count this); None when no host says so by HEAD."""
        for host in self._capable(RESOLVE):
            try:
                async with host.open("HEAD", f"manifests/{self._reference.object}") as answer:
                    digest = answer.headers.get("Docker-Content-Digest")
                    return str(digest) if digest else None
            except _HostError:
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
                    raise _HostError(f"gave {digest} for {wanted}", Unknown)
                return Descriptor(media_type, digest, len(data)), data
            except _HostError as error:
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
                                raise _HostError(f"sent more than {descriptor.size} bytes", Unknown)
                            yield piece
                    if offset < descriptor.size:
                        raise _HostError(
                            f"ended at {offset} of {descriptor.size} bytes", Unavailable
                        )
                except _HostError as error:
                    log.debug("blob broke off", digest=descriptor.digest, at=offset, why=error.why)
                    refusals.append(Refusal(host.name, error.why, error.kind))
                    fruitless = 0 if offset > began else fruitless + 1
                    if error.kind is not Unavailable or fruitless == _FRUITLESS_TRIES:
                        break
                    await asyncio.sleep(0.1 * 4**fruitless)
            else:
                return
        _raise(f"fetch {descriptor.digest} of {self._reference.name}", refusals)

    def _capable(self, capability: str) -> list[_HostClient]:
        able = [host for host in self._hosts if capability in host.host.capabilities]
        if not able:
            raise FailedPrecondition(
                f"no host of {self.domain} may {capability}: give one the capability in hosts.toml"
            )
        return able

    async def _document(self, answer: aiohttp.ClientResponse) -> bytes:
        data = bytearray()
        try:
            async for piece in answer.content.iter_any():
                self.activity.moved()
                data += piece
                if len(data) > DOCUMENT_LIMIT:
                    raise _HostError(f"manifest is larger than {DOCUMENT_LIMIT} bytes", Unknown)
        except _network_errors() as error:
            raise _HostError(_why(error), Unavailable) from error
        return bytes(data)


class _HostClient:
    """One host of the registry."""

    def __init__(self, host: RegistryHost, registry: Registry) -> None:
        self.host = host
        self._registry = registry
        self._tls: ssl.SSLContext | None = None
        self._tls_lock = asyncio.Lock()
        scope = f"repository:{registry.repository}:pull"
        hostname = "docker.io" if host.stands_for("docker.io") else host.host
        self._auth_args = (hostname, scope)
        self._authorizer: Authorizer | None = None

    @property
    def name(self) -> str:
        return self.host.base

    @property
    def authorizer(self) -> Authorizer:
        if self._authorizer is None:
            hostname, scope = self._auth_args
            who = self._registry.who.for_host(hostname)
            self._authorizer = Authorizer(who, scope, self._send_token_request)
        return self._authorizer

    @asynccontextmanager
    async def open(
        self, method: str, path: str, headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The good answer (200 or 206) to a request; _HostError says why there is none."""
        async with self._registry.activity.request():
            answer = await self._persist(method, path, headers or {})
            try:
                yield answer
            finally:
                answer.release()  # a connection with unread bytes is closed

    async def read(self, path: str, offset: int) -> AsyncGenerator[bytes, None]:
        """The bytes of ``path`` from ``offset`` on."""
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        async with self.open("GET", path, headers) as answer:
            skip = 0 if answer.status == 206 or not offset else offset
            try:
                async for piece in answer.content.iter_any():
                    self._registry.activity.moved()
                    if skip:  # a server without Range sends everything again
                        piece, skip = piece[skip:], max(0, skip - len(piece))
                    if piece:
                        yield piece
            except _network_errors() as error:
                raise _HostError(_why(error), Unavailable) from error

    async def _persist(
        self, method: str, path: str, headers: Mapping[str, str]
    ) -> aiohttp.ClientResponse:
        tries: dict[int, int] = {}
        while True:
            used = self.authorizer.value
            answer = await self._send(method, path, {"Authorization": used, **headers})
            if answer.status in (200, 206):
                return answer
            challenge = ", ".join(answer.headers.getall("WWW-Authenticate", []))
            pause = answer.headers.get("Retry-After", "")
            error = await self._refusal(answer)
            if answer.status == 401 and tries.setdefault(401, 0) < 2:
                tries[401] += 1
                if await self._renew(used, challenge):
                    continue
            delay = _delay(answer.status, tries.get(answer.status, 0), pause)
            if delay is None:
                raise error
            tries[answer.status] = tries.get(answer.status, 0) + 1
            await asyncio.sleep(delay)

    async def _renew(self, used: str, challenge: str) -> bool:
        try:
            return await self.authorizer.renew(used, challenge)
        except TokenError as error:
            raise _HostError(self._registry.who.hide(str(error)), Unauthenticated) from error

    async def _send(
        self, method: str, path: str, headers: Mapping[str, str]
    ) -> aiohttp.ClientResponse:
        """One request, whatever it is answered; by plain HTTP where TLS is not spoken."""
        import aiohttp

        url = f"{self.host.base}/{self._registry.repository}/{path}"
        if not self.host.stands_for(self._registry.domain):
            url += "?" + urlencode({"ns": self._registry.domain})
        try:
            return await self._registry.session.request(
                method,
                url,
                headers=self._headers_of({"Accept": _ACCEPT, **headers}),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=self.host.dial_timeout),
                ssl=await self._tls_context(),
                proxy=proxy_for(url, os.environ),
            )
        except _network_errors() as error:
            if self.host.plain_fallback and _is_not_tls(error):
                self.host = replace(self.host, scheme="http", plain_fallback=False)
                return await self._send(method, path, headers)
            raise _HostError(_why(error), Unavailable) from error

    def _headers_of(self, ours: Mapping[str, str]) -> list[tuple[str, str]]:
        """Those of hosts.toml and ours; where both name one, ours is sent if it has a value."""
        sent = {name.lower() for name, value in ours.items() if value}
        configured = [
            (name, value) for name, value in self.host.headers if name.lower() not in sent
        ]
        return configured + [(name, value) for name, value in ours.items() if value]

    async def _send_token_request(self, request: TokenRequest) -> tuple[int, bytes]:
        import aiohttp

        form = request.method == "POST"
        try:
            async with self._registry.session.request(
                request.method,
                request.url,
                params=None if form else request.parameters,
                data=request.parameters if form else None,
                headers={"Authorization": request.basic} if request.basic else None,
                timeout=aiohttp.ClientTimeout(total=60, sock_connect=self.host.dial_timeout),
                ssl=await self._tls_context(),
                proxy=proxy_for(request.url, os.environ),
            ) as answer:
                body = await answer.content.read(DOCUMENT_LIMIT)
                return answer.status, body
        except _network_errors() as error:
            place = urlsplit(request.url).netloc
            raise _HostError(f"token server {place}: {_why(error)}", Unavailable) from error
        except ValueError as error:  # a realm that is no URL
            raise TokenError(f"challenge names {request.url!r} as token server") from error

    async def _refusal(self, answer: aiohttp.ClientResponse) -> _HostError:
        """The error for an answer that is not good, with the registry's own words."""
        try:
            body = await answer.content.read(_ERROR_LIMIT)
        except _network_errors():
            body = b""
        finally:
            answer.close()
        words = self._registry.who.hide(registry_words(body))
        status = f"{answer.status} {answer.reason or ''}".rstrip()
        return _HostError(f"{status}: {words}" if words else status, kind_of_status(answer.status))

    async def _tls_context(self) -> ssl.SSLContext | bool:
        if self.host.scheme != "https":
            return True
        async with self._tls_lock:
            if self._tls is None:
                try:
                    self._tls = await asyncio.to_thread(tls_context, self.host)
                except (OSError, ssl.SSLError) as error:
                    raise FailedPrecondition(
                        f"cannot use the TLS files of {self.host.base} in hosts.toml: {error}"
                    ) from error
            return self._tls


def tls_context(host: RegistryHost) -> ssl.SSLContext:
    """Trust and client certificates for a host; blocks on files."""
    context = ssl.create_default_context()
    for file in host.ca:
        context.load_verify_locations(cafile=file)
    for certificate, key in host.client:
        context.load_cert_chain(certificate, key)
    if host.skip_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def digest_of(data: bytes, like: str = "") -> str:
    """The digest of bytes, by the algorithm of ``like`` (sha256 without one)."""
    algorithm = like.partition(":")[0] or "sha256"
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


def registry_words(body: bytes) -> str:
    """What a registry says of its refusal (``errors`` of the distribution API), one short line."""
    try:
        errors = json.loads(body)["errors"]
        words = "; ".join(
            ": ".join(filter(None, (e.get("code"), e.get("message")))) for e in errors
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return ""
    return " ".join(words.split())[:_MESSAGE_LIMIT]


def proxy_for(url: str, environment: Mapping[str, str]) -> str | None:
    """The proxy that the environment names for a URL, as Go reads it: never for loopback, and
    ``NO_PROXY`` may hold names, suffixes, addresses and networks."""
    parts = urlsplit(url)
    values = {name.lower(): value for name, value in environment.items() if value}
    proxy = values.get(f"{parts.scheme}_proxy")
    host = parts.hostname or ""
    if not proxy or is_localhost(parts.netloc) or _excepted(host, values.get("no_proxy", "")):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def _excepted(host: str, no_proxy: str) -> bool:
    return any(
        _matches(host, entry.strip().lower()) for entry in no_proxy.split(",") if entry.strip()
    )


def _matches(host: str, entry: str) -> bool:
    if entry == "*":
        return True
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(entry, strict=False)
    except ValueError:
        name = urlsplit("//" + entry).hostname or ""
        return host == name.lstrip(".") or host.endswith("." + name.removeprefix("*").lstrip("."))


def _delay(status: int, tried: int, retry_after: str) -> float | None:
    """Seconds to wait before the next try at the same host; None: there is none."""
    delays = _RETRY_DELAYS.get(status, ())
    if tried >= len(delays):
        return None
    asked = float(retry_after) if retry_after.isdigit() else 0.0
    return None if asked > _RETRY_AFTER_LIMIT else max(delays[tried], asked)


def _network_errors() -> tuple[type[BaseException], ...]:
    import aiohttp

    return (aiohttp.ClientError, OSError, TimeoutError)


def _is_not_tls(error: BaseException) -> bool:
    """Whether TLS failed before any certificate was seen: the port does not speak it."""
    import aiohttp

    return isinstance(error, aiohttp.ClientSSLError) and not isinstance(
        error, aiohttp.ClientConnectorCertificateError
    )


def _why(error: BaseException) -> str:
    """A network error in words, without URLs (their queries may hold secrets)."""
    import aiohttp

    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return (
            f"its certificate is not trusted ({error.certificate_error}); name its CA in hosts.toml"
        )
    if isinstance(error, aiohttp.ClientConnectorError):
        return str(error.os_error) or "cannot connect"
    if isinstance(error, aiohttp.ClientResponseError):
        return error.message or f"answered {error.status}"
    if isinstance(error, aiohttp.InvalidURL):
        return "redirected to something that is no URL"
    if isinstance(error, TimeoutError):
        return "timed out"
    return str(error) or type(error).__name__


def _raise(doing: str, refusals: Sequence[Refusal]) -> NoReturn:
    """The error after every host refused: the last host, the registry itself, decides its kind."""
    kind = refusals[-1].kind
    told = "; ".join(dict.fromkeys(map(str, refusals)))
    prefix = "RegistryUnavailable: " if kind is Unavailable else ""
    raise kind(f"{prefix}cannot {doing}: {told}")
