"""Who we are to a registry: credentials of a pull request, and the tokens got for them.

A registry that wants to know answers 401 with a challenge. ``Basic`` is answered with name and
password; for ``Bearer`` a token is fetched from the server that the challenge names: by POST as
OAuth 2 where there is a secret, else (and where the server refuses that form of request) by GET.

Secrets live in fields that no ``repr`` shows, and ``Secrets.hide`` takes them, in each form in
which they are sent, out of any text that came from outside before it reaches an error or a log.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol
from urllib.parse import quote, quote_plus, urlsplit

import msgspec

from runtime.documents import DocumentError, decode
from runtime.errors import CriError, InvalidArgument, Unauthenticated, Unavailable

if TYPE_CHECKING:
    from generated.cri import api_pb2

_ANSWERED: Final = frozenset({"basic", "bearer"})
_CHALLENGE_FIELDS: Final = frozenset({"realm", "service", "scope", "error"})
_CLIENT_ID: Final = "cri-containerd"
_DOCKER_HUB_NAMES: Final = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io"})
_BUSY: Final = frozenset({408, 429})
"""Refusals that speak of the moment and not of the request; so do those of 500 and more."""
_NOT_IMPLEMENTED: Final = 501

_NO_BREAKS: Final = dict.fromkeys(map(ord, "\r\n"))

_WORD: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_GAP: Final = re.compile(r"[ \t,]*")
_EQUALS: Final = re.compile(r"[ \t]*=[ \t]*")
_BARE: Final = re.compile(r"[^\s,]*")
_QUOTED_PART: Final = re.compile(r'[^"\\]+')


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a pull request says of the one who pulls; all empty for nobody."""

    username: str = ""
    secret: str = field(default="", repr=False)
    """The password of ``username``; without a name, an identity token to refresh with."""
    bearer: str = field(default="", repr=False)
    """A token that the registry itself takes."""
    server: str = ""
    """The only host that may see them; "": every host asked."""

    def for_host(self, host: str) -> Credentials:
        """These credentials, or anonymous ones if these belong to another host."""
        if not self.server or host == self.server:
            return self
        if {host, self.server} <= _DOCKER_HUB_NAMES:
            return self
        return ANONYMOUS


ANONYMOUS: Final = Credentials()


class Secrets:
    """What no text may repeat: the credentials of a pull, and the tokens that it was given."""

    def __init__(self, who: Credentials = ANONYMOUS) -> None:
        self._forms: set[str] = set()
        self.add(who.secret, who.bearer)
        if who.username and who.secret:
            self.add(basic(who).removeprefix("Basic "))

    def add(self, *secrets: str) -> None:
        """Hide these from now on, as they are and as URLs, JSON and Basic would write them."""
        for secret in filter(None, secrets):
            in_base64 = base64.b64encode(secret.encode()).decode()
            in_json = json.dumps(secret)[1:-1]
            self._forms |= {secret, quote(secret, safe=""), quote_plus(secret), in_json, in_base64}

    def hide(self, text: str) -> str:
        """The text without the secrets."""
        for form in sorted(self._forms, key=len, reverse=True):
            text = text.replace(form, "[hidden]")
        return text


def credentials(auth: api_pb2.AuthConfig) -> Credentials:
    """What an ``AuthConfig`` means; a registry token is used as it is, then the first of user name
    with password, identity token and ``auth`` that is set."""
    server = _server_host(auth.server_address)
    if auth.registry_token:
        return Credentials(bearer=auth.registry_token, server=server)
    if auth.username:
        return Credentials(auth.username, auth.password, server=server)
    if auth.identity_token:
        return Credentials(secret=auth.identity_token, server=server)
    if auth.auth:
        username, password = _decode(auth.auth)
        return Credentials(username, password, server=server)
    return ANONYMOUS


def _server_host(address: str) -> str:
    """Host and port of a server address, which may be a URL (``https://index.docker.io/v1/``)."""
    try:
        return urlsplit(address if "://" in address else "//" + address).netloc
    except ValueError as error:
        raise InvalidArgument(
            f"must be a host, HOST:PORT or a URL: {error}", field="auth.server_address"
        ) from error


def _decode(auth: str) -> tuple[str, str]:
    """Name and password; line breaks are no part of base64, and encoders insert them."""
    try:
        text = base64.b64decode(auth.translate(_NO_BREAKS), validate=True).decode()
    except ValueError:  # of base64, of ASCII or of UTF-8
        text = ""  # the error must not repeat what was sent
    username, colon, password = text.partition(":")
    if not colon:
        raise InvalidArgument('must be the base64 of "username:password"', field="auth.auth")
    return username, password.rstrip("\x00")


@dataclass(frozen=True, slots=True)
class Challenge:
    """One way that a 401 answer offers."""

    scheme: str
    """``basic`` or ``bearer``."""
    realm: str = ""
    service: str = ""
    scope: str = ""
    error: str = ""


def challenges(header: str) -> list[Challenge]:
    """The challenges of ``WWW-Authenticate`` that we can answer, in its order."""
    found: list[tuple[str, dict[str, str]]] = []
    for word, value in _parts(header):
        if value is None:
            found.append((word.lower(), {}))
        elif found and word.lower() in _CHALLENGE_FIELDS:
            found[-1][1][word.lower()] = value
    return [Challenge(scheme, **fields) for scheme, fields in found if scheme in _ANSWERED]


def _parts(header: str) -> Iterator[tuple[str, str | None]]:
    """The words of the header, each with the value after its ``=``; None: it begins a challenge.

    Every step moves on, so the time grows with the length alone, whatever a server sends.
    """
    place = 0
    while place < len(header):
        place = _end(_GAP, header, place)
        word = _WORD.match(header, place)
        if not word:
            place += 1
            continue
        equals = _EQUALS.match(header, word.end())
        if not equals:
            place = word.end()
            yield word[0], None
        elif header[equals.end() : equals.end() + 1] == '"':
            value, place = _quoted(header, equals.end() + 1)
            yield word[0], value
        else:
            place = _end(_BARE, header, equals.end())
            yield word[0], header[equals.end() : place]


def _end(pattern: re.Pattern[str], header: str, place: int) -> int:
    found = pattern.match(header, place)
    return found.end() if found else place


def _quoted(header: str, place: int) -> tuple[str, int]:
    """The text up to the closing quote, and the place after it."""
    parts = []
    while place < len(header) and header[place] != '"':
        if header[place] == "\\":
            parts.append(header[place + 1 : place + 2])
            place += 2
        else:
            end = _end(_QUOTED_PART, header, place)
            parts.append(header[place:end])
            place = end
    return "".join(parts), place + 1


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """One request to a token server."""

    method: str
    url: str
    parameters: tuple[tuple[str, str], ...] = field(repr=False)
    """Form of a POST, query of a GET; a name may come more than once."""
    basic: str = field(default="", repr=False)
    """Value of the header ``Authorization``; empty: none."""


class SendTokenRequest(Protocol):
    """Sends a token request; gives the status and, of a good answer, the body."""

    async def __call__(self, request: TokenRequest) -> tuple[int, bytes]: ...


class TokenError(Exception):
    """A token server did not give a token; the text says why, without secrets."""

    def __init__(self, why: str, kind: type[CriError] = Unauthenticated) -> None:
        super().__init__(why)
        self.kind = kind


def basic(credentials: Credentials) -> str:
    """The header value for name and password."""
    pair = f"{credentials.username}:{credentials.secret}"
    return "Basic " + base64.b64encode(pair.encode()).decode()


async def fetch_token(
    challenge: Challenge, scope: str, who: Credentials, send: SendTokenRequest
) -> str:
    """A bearer token for the challenge; TokenError says why there is none."""
    scopes = tuple(dict.fromkeys([*challenge.scope.split(), *scope.split()]))
    status = 0
    for request in token_requests(challenge, scopes, who):
        status, body = await send(request)
        if status == 200:
            return _token_of(body, challenge.realm)
        if status in _BUSY or (status >= 500 and status != _NOT_IMPLEMENTED):
            kind: type[CriError] = Unavailable
            break
        # many servers know only GET, and refuse a POST with 400, 401, 403, 404 or 405
        kind = Unauthenticated
    raise TokenError(f"token server {_place(challenge.realm)} answered {status}", kind)


def token_requests(
    challenge: Challenge, scopes: Sequence[str], who: Credentials
) -> list[TokenRequest]:
    """The requests to try, in order: OAuth with a secret first, then the older GET."""
    service = (("service", challenge.service),) if challenge.service else ()
    query = (*service, *(("scope", scope) for scope in scopes))
    if not who.secret:
        return [TokenRequest("GET", challenge.realm, query)]
    scoped = (("scope", " ".join(scopes)),) if scopes else ()
    common = (("client_id", _CLIENT_ID), *service, *scoped)
    if not who.username:
        form = (("grant_type", "refresh_token"), ("refresh_token", who.secret), *common)
        return [TokenRequest("POST", challenge.realm, form)]
    name, password = ("username", who.username), ("password", who.secret)
    form = (("grant_type", "password"), name, password, *common)
    return [
        TokenRequest("POST", challenge.realm, form),
        TokenRequest("GET", challenge.realm, query, basic(who)),
    ]


class _TokenJson(msgspec.Struct):
    access_token: str | None = None
    token: str | None = None


def _token_of(body: bytes, realm: str) -> str:
    try:
        answer = decode(body, _TokenJson)
    except DocumentError:
        answer = _TokenJson()
    token = answer.access_token or answer.token or ""
    if not (token.isascii() and token.isprintable() and token):
        raise TokenError(f"token server {_place(realm)} answered without a token")
    return token


def _place(url: str) -> str:
    """The URL without its query, which may hold secrets."""
    return url.partition("?")[0].partition("#")[0]


class Authorizer:
    """The ``Authorization`` of requests to one host, renewed when the host refuses it."""

    def __init__(
        self, who: Credentials, scope: str, send: SendTokenRequest, secrets: Secrets
    ) -> None:
        """``secrets`` is told of the tokens that are got."""
        self._who = who
        self._secrets = secrets
        self._scope = scope
        self._send = send
        self._lock = asyncio.Lock()
        self.value = f"Bearer {who.bearer}" if who.bearer else ""

    async def renew(self, refused: str, www_authenticate: str) -> bool:
        """After a 401 to a request that carried ``refused``: whether trying again makes sense.

        TokenError says why a token could not be had.
        """
        async with self._lock:
            if self.value != refused:  # a request beside this one has renewed it already
                return True
            for challenge in challenges(www_authenticate):
                value = await self._answer(challenge)
                if value and value != refused:
                    self.value = value
                    return True
            return False

    async def _answer(self, challenge: Challenge) -> str:
        if self._who.bearer:
            return ""  # the caller's own token was refused; there is nothing to renew it with
        if challenge.scheme == "basic":
            return basic(self._who) if self._who.username else ""
        if not challenge.realm:
            return ""
        token = await fetch_token(challenge, self._scope, self._who, self._send)
        self._secrets.add(token)
        return f"Bearer {token}"
