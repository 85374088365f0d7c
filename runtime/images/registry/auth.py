"""Who we are to a registry: credentials of a pull request, and the tokens got for them.

A registry that wants to know answers 401 with a challenge. ``Basic`` is answered with name and
password; for ``Bearer`` a token is fetched from the server that the challenge names: by POST as
OAuth 2 where there is a secret, else (and where the server knows no POST) by GET.

Secrets live in fields that no ``repr`` shows, and ``Credentials.hide`` takes them out of any text
that came from outside before it reaches an error or a log.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol
from urllib.parse import urlsplit

from runtime.errors import InvalidArgument

if TYPE_CHECKING:
    from generated.cri import api_pb2

_ANSWERED: Final = frozenset({"basic", "bearer"})
_CHALLENGE_FIELDS: Final = frozenset({"realm", "service", "scope", "error"})
_CLIENT_ID: Final = "cri-containerd"
_DOCKER_HUB_NAMES: Final = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io"})
_NO_POST: Final = frozenset({401, 404, 405})
"""Token servers that know only GET: 405 by the specification, 404 (GCR), 401 (Artifactory)."""

_CHALLENGE_PART: Final = re.compile(
    r'(\w+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,]+))|([A-Za-z][\w-]*)(?=[\s,]|$)'
)
"""A parameter (name, quoted or bare value) or the word that begins a challenge."""


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

    def hide(self, text: str) -> str:
        """The text without the secrets."""
        for secret in filter(None, (self.secret, self.bearer)):
            text = text.replace(secret, "[hidden]")
        return text


ANONYMOUS: Final = Credentials()


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
    return urlsplit(address if "://" in address else "//" + address).netloc


def _decode(auth: str) -> tuple[str, str]:
    try:
        text = base64.b64decode(auth, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
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
    for name, quoted, bare, scheme in _CHALLENGE_PART.findall(header):
        if scheme:
            found.append((scheme.lower(), {}))
        elif found and name.lower() in _CHALLENGE_FIELDS:
            found[-1][1][name.lower()] = re.sub(r"\\(.)", r"\1", quoted) or bare
    return [Challenge(scheme, **fields) for scheme, fields in found if scheme in _ANSWERED]


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """One request to a token server."""

    method: str
    url: str
    parameters: dict[str, str] = field(repr=False)
    """Form of a POST, query of a GET."""
    basic: str = field(default="", repr=False)
    """Value of the header ``Authorization``; empty: none."""


class SendTokenRequest(Protocol):
    """Sends a token request; gives the status and, of a good answer, the body."""

    async def __call__(self, request: TokenRequest) -> tuple[int, bytes]: ...


class TokenError(Exception):
    """A token server did not give a token; the text says why, without secrets."""


def basic(credentials: Credentials) -> str:
    """The header value for name and password."""
    pair = f"{credentials.username}:{credentials.secret}"
    return "Basic " + base64.b64encode(pair.encode()).decode()


async def fetch_token(
    challenge: Challenge, scope: str, who: Credentials, send: SendTokenRequest
) -> str:
    """A bearer token for the challenge; TokenError says why there is none."""
    scopes = " ".join(dict.fromkeys(filter(None, [challenge.scope, scope])))
    status = 0
    for request in token_requests(challenge, scopes, who):
        status, body = await send(request)
        if status == 200:
            return _token_of(body, challenge.realm)
        if status not in _NO_POST:
            break
    raise TokenError(f"token server {_place(challenge.realm)} answered {status}")


def token_requests(challenge: Challenge, scopes: str, who: Credentials) -> list[TokenRequest]:
    """The requests to try, in order: OAuth with a secret first, then the older GET."""
    named = {"service": challenge.service} if challenge.service else {}
    scoped = {"scope": scopes} if scopes else {}
    query = named | scoped
    if not who.secret:
        return [TokenRequest("GET", challenge.realm, query)]
    if not who.username:
        form = {"grant_type": "refresh_token", "refresh_token": who.secret}
        return [TokenRequest("POST", challenge.realm, form | {"client_id": _CLIENT_ID} | query)]
    form = {"grant_type": "password", "username": who.username, "password": who.secret}
    return [
        TokenRequest("POST", challenge.realm, form | {"client_id": _CLIENT_ID} | query),
        TokenRequest("GET", challenge.realm, query, basic(who)),
    ]


def _token_of(body: bytes, realm: str) -> str:
    try:
        answer = json.loads(body)
    except ValueError:
        answer = {}
    token = answer.get("access_token") or answer.get("token") if isinstance(answer, dict) else ""
    if not isinstance(token, str) or not token:
        raise TokenError(f"token server {_place(realm)} answered without a token")
    return token


def _place(url: str) -> str:
    """The URL without its query, which may hold secrets."""
    return urlsplit(url)._replace(query="", fragment="").geturl()


class Authorizer:
    """The ``Authorization`` of requests to one host, renewed when the host refuses it."""

    def __init__(self, who: Credentials, scope: str, send: SendTokenRequest) -> None:
        self._who = who
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
        return "Bearer " + await fetch_token(challenge, self._scope, self._who, self._send)
