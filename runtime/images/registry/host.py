"""One host of a registry: its requests, with authorization, retries and TLS."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final
from urllib.parse import urlencode, urlsplit

from runtime.errors import (
    CriError,
    FailedPrecondition,
    NotFound,
    Unauthenticated,
    Unavailable,
    Unknown,
)
from runtime.images.manifest import INDEX_TYPES, MANIFEST_TYPES
from runtime.images.progress import Activity
from runtime.images.reference import DEFAULT_DOMAIN
from runtime.images.registry.auth import Authorizer, Credentials, TokenError, TokenRequest
from runtime.images.registry.hosts import RegistryHost
from runtime.images.registry.network import (
    is_not_tls,
    network_errors,
    proxy_for,
    registry_words,
    tls_context,
    why,
)
from runtime.steps import threads

if TYPE_CHECKING:
    import aiohttp

_ACCEPT: Final = ", ".join((*MANIFEST_TYPES, *INDEX_TYPES, "*/*"))
_BODY_LIMIT: Final = 64 << 10
"""Bytes of an error's or a token server's answer that are read."""
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


class HostError(Exception):
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


@dataclass(frozen=True, slots=True)
class Visit:
    """What all requests of one pull have in common."""

    session: aiohttp.ClientSession
    domain: str
    """The registry as the reference names it; mirrors are told."""
    repository: str
    who: Credentials
    activity: Activity


class HostClient:
    """One host of the registry."""

    def __init__(self, host: RegistryHost, visit: Visit) -> None:
        self.host = host
        self._visit = visit
        self._tls: ssl.SSLContext | None = None
        self._tls_lock = asyncio.Lock()
        name = DEFAULT_DOMAIN if host.stands_for(DEFAULT_DOMAIN) else host.host
        scope = f"repository:{visit.repository}:pull"
        self._authorizer = Authorizer(visit.who.for_host(name), scope, self._send_token_request)

    @property
    def name(self) -> str:
        return self.host.base

    @asynccontextmanager
    async def open(
        self, method: str, path: str, headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The good answer (200 or 206) to a request; HostError says why there is none."""
        async with self._visit.activity.request():
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
                    self._visit.activity.moved()
                    if skip:  # a server without Range sends everything again
                        piece, skip = piece[skip:], max(0, skip - len(piece))
                    if piece:
                        yield piece
            except network_errors() as error:
                raise HostError(why(error), Unavailable) from error

    async def _persist(
        self, method: str, path: str, headers: Mapping[str, str]
    ) -> aiohttp.ClientResponse:
        tries: dict[int, int] = {}
        while True:
            used = self._authorizer.value
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
            return await self._authorizer.renew(used, challenge)
        except TokenError as error:
            raise HostError(self._visit.who.hide(str(error)), Unauthenticated) from error

    async def _send(
        self, method: str, path: str, headers: Mapping[str, str]
    ) -> aiohttp.ClientResponse:
        """One request, whatever it is answered; by plain HTTP where TLS is not spoken."""
        import aiohttp

        url = f"{self.host.base}/{self._visit.repository}/{path}"
        if not self.host.stands_for(self._visit.domain):
            url += "?" + urlencode({"ns": self._visit.domain})
        try:
            return await self._visit.session.request(
                method,
                url,
                headers=self._headers_of({"Accept": _ACCEPT, **headers}),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=self.host.dial_timeout),
                ssl=await self._tls_context(),
                proxy=proxy_for(url, os.environ),
            )
        except network_errors() as error:
            if self.host.plain_fallback and is_not_tls(error):
                self.host = replace(self.host, scheme="http", plain_fallback=False)
                return await self._send(method, path, headers)
            raise HostError(why(error), Unavailable) from error

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
            async with self._visit.session.request(
                request.method,
                request.url,
                params=None if form else request.parameters,
                data=request.parameters if form else None,
                headers={"Authorization": request.basic} if request.basic else None,
                timeout=aiohttp.ClientTimeout(total=60, sock_connect=self.host.dial_timeout),
                ssl=await self._tls_context(),
                proxy=proxy_for(request.url, os.environ),
            ) as answer:
                body = await answer.content.read(_BODY_LIMIT)
                return answer.status, body
        except network_errors() as error:
            place = urlsplit(request.url).netloc
            raise HostError(f"token server {place}: {why(error)}", Unavailable) from error
        except ValueError as error:  # a realm that is no URL
            raise TokenError(f"challenge names {request.url!r} as token server") from error

    async def _refusal(self, answer: aiohttp.ClientResponse) -> HostError:
        """The error for an answer that is not good, with the registry's own words."""
        try:
            body = await answer.content.read(_BODY_LIMIT)
        except network_errors():
            body = b""
        finally:
            answer.close()
        words = self._visit.who.hide(registry_words(body))
        status = f"{answer.status} {answer.reason or ''}".rstrip()
        return HostError(f"{status}: {words}" if words else status, kind_of_status(answer.status))

    async def _tls_context(self) -> ssl.SSLContext | bool:
        if self.host.scheme != "https":
            return True
        async with self._tls_lock:
            if self._tls is None:
                try:
                    self._tls = await threads.STATE_FILES.run(tls_context, self.host)
                except (OSError, ssl.SSLError) as error:
                    raise FailedPrecondition(
                        f"cannot use the TLS files of {self.host.base} in hosts.toml: {error}"
                    ) from error
            return self._tls


def _delay(status: int, tried: int, retry_after: str) -> float | None:
    """Seconds to wait before the next try at the same host; None: there is none."""
    delays = _RETRY_DELAYS.get(status, ())
    if tried >= len(delays):
        return None
    asked = float(retry_after) if retry_after.isdigit() else 0.0
    return None if asked > _RETRY_AFTER_LIMIT else max(delays[tried], asked)
