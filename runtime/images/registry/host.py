"""One host of a registry: its requests, with authorization, retries and TLS."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final
from urllib.parse import urlencode

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
from runtime.images.registry.auth import Authorizer, Credentials, Secrets, TokenError, TokenRequest
from runtime.images.registry.hosts import RegistryHost
from runtime.images.registry.network import (
    is_not_tls,
    network_errors,
    registry_words,
    tls_context,
    why,
)
from runtime.images.registry.transport import (
    Headers,
    HostError,
    Request,
    WholeOnly,
    answering,
    encodes_a_part,
    is_another_part,
    range_header,
    read_blob,
    read_body,
    released,
    send,
)
from runtime.steps import threads
from runtime.text import one_line

if TYPE_CHECKING:
    import aiohttp

_ACCEPT: Final = ", ".join((*MANIFEST_TYPES, *INDEX_TYPES, "*/*"))
_BODY_LIMIT: Final = 64 << 10
"""Bytes of an error or of a token server's response that are read."""
_RETRY_DELAYS: Final = {
    408: (0.5, 1.0, 2.0),
    429: (1.0, 2.0, 4.0),
    500: (0.5,),
    502: (0.5, 1.0),
    503: (0.5, 1.0),
    504: (0.5, 1.0),
}
"""Seconds before each retry at the same host, by status."""
_NO_SUCH_RANGE: Final = 416
_WORDS_LIMIT: Final = 400
"""Characters of a registry's error message in our error."""
_DIAL_TIMEOUT: Final = 30.0
"""Seconds for one connection to the last host."""
_MIRROR_DIAL_TIMEOUT: Final = 3.0
_MIRROR_ANSWER_TIMEOUT: Final = 7.0
"""Seconds for a host after which another can be asked: for one connection, and for all the rest
until the headers of the answer, tokens and redirects included."""
_MIRROR_SILENCE: Final = 30.0
"""Seconds without a byte after which the next host is asked for the rest of a blob."""
_TOKEN_TIMEOUT: Final = 60.0
"""Seconds."""
_SECRET_LENGTH: Final = 6
"""A configured header value with at least this many characters is treated as a secret."""
_RETRY_AFTER_LIMIT: Final = 30.0
"""Seconds; if a server asks for a longer pause, the pull fails and the kubelet retries."""


_KIND_OF_STATUS: Final[Mapping[int, type[CriError]]] = {
    401: Unauthenticated,
    403: Unauthenticated,
    404: NotFound,
    408: Unavailable,
    429: Unavailable,
}


def kind_of_status(status: int) -> type[CriError]:
    """The error for an HTTP status, by which the kubelet tells failures apart."""
    return Unavailable if status >= 500 else _KIND_OF_STATUS.get(status, Unknown)


@dataclass(frozen=True, slots=True)
class Visit:
    """What all requests of one pull share."""

    session: aiohttp.ClientSession
    domain: str
    """The registry as named in the reference; mirrors are told."""
    repository: str
    who: Credentials
    activity: Activity
    secrets: Secrets


class HostClient:
    """One host of the registry."""

    def __init__(self, host: RegistryHost, visit: Visit) -> None:
        self.host = host
        self._visit = visit
        self._tls: ssl.SSLContext | None = None
        self._tls_lock = asyncio.Lock()
        name = DEFAULT_DOMAIN if host.stands_for(DEFAULT_DOMAIN) else host.host
        scope = f"repository:{visit.repository}:pull"
        visit.secrets.add(*(value for _, value in host.headers if len(value) >= _SECRET_LENGTH))
        self._authorizer = Authorizer(
            visit.who.for_host(name), scope, self._send_token_request, visit.secrets
        )

    @property
    def name(self) -> str:
        return self.host.base

    @asynccontextmanager
    async def open(
        self, method: str, path: str, headers: Headers = (), *, patient: bool = True
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The successful response (200 or 206) to a request; raises HostError otherwise.

        A ``patient`` request waits for a busy host, because no other host can be tried instead.
        """
        async with self._visit.activity.request():
            if patient:
                answer = await self._persist(method, path, headers, patient)
            else:
                limit = self._dial_timeout(patient) + _MIRROR_ANSWER_TIMEOUT
                async with answering(limit):
                    answer = await self._persist(method, path, headers, patient)
            async with released(answer):
                yield answer

    async def read(
        self, path: str, offset: int, end: int, size: int, *, patient: bool = True
    ) -> AsyncGenerator[bytes, None]:
        """The bytes of the blob at ``path``, which has ``size``, from ``offset`` to ``end``.

        Raises WholeOnly if the host cannot return a part that ends before the blob does.
        """
        ranges = range_header(offset, end, size)
        try:
            async with self.open("GET", path, ranges, patient=patient) as answer:
                unusable = encodes_a_part(answer, end - offset) or is_another_part(answer, offset)
                if end < size and (unusable or answer.status != 206):
                    raise WholeOnly
                if not unusable:
                    async for piece in read_blob(answer, offset, end, self._visit.activity):
                        yield piece
        except HostError as error:
            if not ranges or error.status != _NO_SUCH_RANGE:
                raise
            if end < size:
                raise WholeOnly from error
            unusable = True
        if unusable:  # ask for the whole, and skip what is there already
            async with self.open("GET", path, patient=patient) as answer:
                async for piece in read_blob(answer, offset, size, self._visit.activity):
                    yield piece

    async def _persist(
        self, method: str, path: str, headers: Headers, patient: bool
    ) -> aiohttp.ClientResponse:
        tries: dict[int, int] = {}
        while True:
            used = self._authorizer.value
            answer = await self._send(method, path, headers, used, patient)
            if answer.status in (200, 206):
                return answer
            challenge = ", ".join(answer.headers.getall("WWW-Authenticate", []))
            pause = answer.headers.get("Retry-After", "")
            error = await self._refusal(answer)
            if answer.status == 401 and tries.setdefault(401, 0) < 2:
                tries[401] += 1
                if await self._renew(used, challenge):
                    continue
                error.why += one_line(self._authorizer.why_not(challenge), _WORDS_LIMIT)
            delay = _delay(answer.status, tries.get(answer.status, 0), pause)
            if delay is None or not patient:
                raise error
            tries[answer.status] = tries.get(answer.status, 0) + 1
            await asyncio.sleep(delay)

    async def _renew(self, used: str, challenge: str) -> bool:
        try:
            return await self._authorizer.renew(used, challenge)
        except TokenError as error:
            raise HostError(self._visit.secrets.hide(str(error)), error.kind) from error

    async def _send(
        self, method: str, path: str, headers: Headers, authorization: str, patient: bool
    ) -> aiohttp.ClientResponse:
        """One request with any response; uses plain HTTP if the port does not speak TLS."""
        url = f"{self.host.base}/{self._visit.repository}/{path}"
        if not self.host.stands_for(self._visit.domain):
            url += "?" + urlencode({"ns": self._visit.domain})
        request = Request(
            method,
            url,
            headers=[("Accept", _ACCEPT), *headers],
            private=self._private(authorization),
            tls=await self._tls_context(),
            dial_timeout=self._dial_timeout(patient),
            silence_timeout=None if patient else _MIRROR_SILENCE,
        )
        try:
            return await send(self._visit.session, request)
        except network_errors() as error:
            if self.host.plain_fallback and is_not_tls(error):
                self.host = replace(self.host, scheme="http", plain_fallback=False)
                return await self._send(method, path, headers, authorization, patient)
            raise HostError(self._visit.secrets.hide(why(error)), Unavailable) from error
        except ValueError as error:
            why_not = self._visit.secrets.hide(f"cannot be reached: {error}")
            raise HostError(one_line(why_not, _WORDS_LIMIT), Unknown) from error

    def _dial_timeout(self, patient: bool) -> float:
        if self.host.dial_timeout is not None:
            return self.host.dial_timeout
        return _DIAL_TIMEOUT if patient else _MIRROR_DIAL_TIMEOUT

    def _private(self, authorization: str) -> list[tuple[str, str]]:
        """Headers for this host only: those in hosts.toml, and the credentials.

        ``Authorization`` from hosts.toml is used as long as we have none of our own.
        """
        replaced = {"accept", "range"} | ({"authorization"} if authorization else set())
        configured = [(k, v) for k, v in self.host.headers if k.lower() not in replaced]
        return configured + ([("Authorization", authorization)] if authorization else [])

    async def _send_token_request(self, request: TokenRequest) -> tuple[int, bytes]:
        form = request.method == "POST"
        query = "" if form else urlencode(request.parameters)
        mark = "&" if "?" in request.url else "?"
        sent = Request(
            request.method,
            f"{request.url}{mark}{query}" if query else request.url,
            private=self._private(request.basic),
            form=request.parameters if form else None,
            tls=await self._tls_context(),
            dial_timeout=self._dial_timeout(patient=True),
            total_timeout=_TOKEN_TIMEOUT,
        )
        try:
            async with released(await send(self._visit.session, sent)) as answer:
                return answer.status, await read_body(answer, _BODY_LIMIT)
        except network_errors() as error:
            place = request.url.partition("?")[0]
            raise HostError(f"token server {place}: {why(error)}", Unavailable) from error
        except HostError as error:
            kind = Unavailable if error.kind is Unavailable else Unauthenticated
            place = request.url.partition("?")[0]
            raise TokenError(f"token server {place} {error.why}", kind) from error
        except ValueError as error:  # a realm that is not a URL
            raise TokenError(f"invalid token server {request.url!r} in the challenge") from error

    async def _refusal(self, answer: aiohttp.ClientResponse) -> HostError:
        """The error for an unsuccessful response, with the registry's own message."""
        try:
            words = registry_words(await read_body(answer, _BODY_LIMIT))
        except HostError:
            words = ""
        except network_errors():
            words = ""
        finally:
            answer.close()
        status = f"{answer.status} {answer.reason or ''}".rstrip()
        # hide secrets before truncating: the beginning of a secret is secret, too
        said = self._visit.secrets.hide(f"{status}: {words}" if words else status)
        kind = kind_of_status(answer.status)
        return HostError(one_line(said, _WORDS_LIMIT), kind, status=answer.status)

    async def _tls_context(self) -> ssl.SSLContext | bool:
        if self.host.scheme != "https":
            return True
        async with self._tls_lock:
            if self._tls is None:
                try:
                    self._tls = await threads.CONFIGURATION.run(tls_context, self.host)
                except (OSError, ssl.SSLError) as error:
                    raise FailedPrecondition(
                        f"cannot use the TLS files of {self.host.base} in hosts.toml: {error}"
                    ) from error
            return self._tls


async def read_outside(
    visit: Visit, url: str, size: int, offset: int, end: int
) -> AsyncGenerator[bytes, None]:
    """The bytes of a blob from ``offset`` to ``end``, from a URL in its descriptor.

    The image's author chose the URL: it gets neither credentials nor configured headers, and its
    content is only accepted if the digest matches.
    """
    ranges = range_header(offset, end, size)
    async with visit.activity.request():
        try:
            if not url.startswith(("http://", "https://")):
                raise ValueError(url)
            answer = await send(visit.session, Request("GET", url, headers=ranges))
        except network_errors() as error:
            raise HostError(why(error), Unavailable) from error
        except ValueError as error:
            raise HostError("is not an http or https URL", Unknown) from error
        async with released(answer):
            if end < size and answer.status == 200:
                raise WholeOnly
            if answer.status not in (200, 206) or encodes_a_part(answer, end - offset):
                status = one_line(f"{answer.status} {answer.reason or ''}".rstrip(), _WORDS_LIMIT)
                raise HostError(status, kind_of_status(answer.status))
            async for piece in read_blob(answer, offset, end, visit.activity):
                yield piece


def _delay(status: int, tried: int, retry_after: str) -> float | None:
    """Seconds to wait before the next attempt at the same host; None: no further attempt."""
    delays = _RETRY_DELAYS.get(status, ())
    if tried >= len(delays):
        return None
    known = retry_after.isascii() and retry_after.isdigit() and len(retry_after) < 10
    asked = float(retry_after) if known else 0.0
    return None if asked > _RETRY_AFTER_LIMIT else max(delays[tried], asked)
