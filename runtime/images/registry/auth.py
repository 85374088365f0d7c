"""Authentication to a registry: the credentials of a pull request, and tokens obtained with them.

A registry that requires authentication responds 401 with a challenge. ``Basic`` is answered with
user name and password. For ``Bearer`` a token is requested from the server named in the challenge:
by POST (OAuth 2) if there is a secret, else, or if the server refuses POST, by GET.

Secrets are in fields excluded from ``repr``. ``Secrets.hide`` removes them, in every encoding in
which they are sent, from external text before it reaches an error or a log.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol
from urllib.parse import quote, quote_plus

import msgspec

from runtime.documents import DocumentError, decode
from runtime.errors import CriError, Unauthenticated, Unavailable

if TYPE_CHECKING:
    from generated.plans import PullImagePlan

_ANSWERED: Final = frozenset({"basic", "bearer"})
_CHALLENGE_FIELDS: Final = frozenset({"realm", "service", "scope", "error"})
_CLIENT_ID: Final = "cri-containerd"
_DOCKER_HUB_NAMES: Final = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io"})
_BUSY: Final = frozenset({408, 429})
"""Temporary refusals, which say nothing about the request; 500 and above are temporary too."""
_NOT_IMPLEMENTED: Final = 501

_WORD: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_GAP: Final = re.compile(r"[ \t,]*")
_EQUALS: Final = re.compile(r"[ \t]*=[ \t]*")
_BARE: Final = re.compile(r"[^\s,]*")
_QUOTED_PART: Final = re.compile(r'[^"\\]+')


@dataclass(frozen=True, slots=True)
class Credentials:
    """The credentials of a pull request; all empty if anonymous."""

    username: str = ""
    secret: str = field(default="", repr=False)
    """The password of ``username``; without a user name, an identity token for refreshing."""
    bearer: str = field(default="", repr=False)
    """A token to be sent to the registry itself."""
    server: str = ""
    """The only host that may receive the credentials; "" means every host."""

    def for_host(self, host: str) -> Credentials:
        """These credentials, or anonymous ones if these belong to another host."""
        if not self.server or host == self.server:
            return self
        if {host, self.server} <= _DOCKER_HUB_NAMES:
            return self
        return ANONYMOUS


ANONYMOUS: Final = Credentials()


class Secrets:
    """Texts that must not be repeated: the credentials of a pull, and its tokens."""

    def __init__(self, who: Credentials = ANONYMOUS) -> None:
        self._forms: set[str] = set()
        self.add(who.secret, who.bearer)
        if who.username and who.secret:
            self.add(basic(who).removeprefix("Basic "))

    def add(self, *secrets: str) -> None:
        """Hide these from now on, as they are and as encoded in URLs, JSON and Basic."""
        for secret in filter(None, secrets):
            in_base64 = base64.b64encode(secret.encode()).decode()
            in_json = json.dumps(secret)[1:-1]
            self._forms |= {secret, quote(secret, safe=""), quote_plus(secret), in_json, in_base64}

    def hide(self, text: str) -> str:
        """The text without the secrets."""
        for form in sorted(self._forms, key=len, reverse=True):
            text = text.replace(form, "[hidden]")
        return text


def credentials(plan: PullImagePlan) -> Credentials:
    """The credentials of a pull request."""
    return Credentials(
        plan.registry_user, plan.registry_secret, plan.registry_token, plan.registry_host
    )


@dataclass(frozen=True, slots=True)
class Challenge:
    """One authentication method offered by a 401 response."""

    scheme: str
    """``basic`` or ``bearer``."""
    realm: str = ""
    service: str = ""
    scope: str = ""
    error: str = ""


def challenges(header: str) -> list[Challenge]:
    """The challenges of ``WWW-Authenticate`` that are supported, in its order."""
    found: list[tuple[str, dict[str, str]]] = []
    for word, value in _parts(header):
        if value is None:
            found.append((word.lower(), {}))
        elif found and word.lower() in _CHALLENGE_FIELDS:
            found[-1][1][word.lower()] = value
    return [Challenge(scheme, **fields) for scheme, fields in found if scheme in _ANSWERED]


def _parts(header: str) -> Iterator[tuple[str, str | None]]:
    """The words of the header, each with the value after its ``=``; None marks the start of a
    challenge.

    Every step advances, so the time is linear in the length, whatever a server sends.
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
    """The text up to the closing quote, and the position after it."""
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
    """Form fields of a POST, query of a GET; a name may occur more than once."""
    basic: str = field(default="", repr=False)
    """Value of the header ``Authorization``; empty means no header."""


class SendTokenRequest(Protocol):
    """Sends a token request; returns the status and, on success, the body."""

    async def __call__(self, request: TokenRequest) -> tuple[int, bytes]: ...


class TokenError(Exception):
    """A token server returned no token; the text says why, without secrets."""

    def __init__(self, why: str, kind: type[CriError] = Unauthenticated) -> None:
        super().__init__(why)
        self.kind = kind


def basic(credentials: Credentials) -> str:
    """The header value for user name and password."""
    pair = f"{credentials.username}:{credentials.secret}"
    return "Basic " + base64.b64encode(pair.encode()).decode()


async def fetch_token(
    challenge: Challenge, scope: str, who: Credentials, send: SendTokenRequest
) -> str:
    """A bearer token for the challenge; raises TokenError if there is none."""
    scopes = tuple(dict.fromkeys([*challenge.scope.split(), *scope.split()]))
    status = 0
    for request in token_requests(challenge, scopes, who):
        status, body = await send(request)
        if status == 200:
            return _token_of(body, challenge.realm)
        if status in _BUSY or (status >= 500 and status != _NOT_IMPLEMENTED):
            kind: type[CriError] = Unavailable
            break
        # many servers support only GET, and refuse a POST with 400, 401, 403, 404 or 405
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
    """The URL without its query, which may contain secrets."""
    return url.partition("?")[0].partition("#")[0]


class Authorizer:
    """The ``Authorization`` header for one host, renewed when the host refuses it."""

    def __init__(
        self, who: Credentials, scope: str, send: SendTokenRequest, secrets: Secrets
    ) -> None:
        """``secrets`` is extended by the tokens obtained."""
        self._who = who
        self._secrets = secrets
        self._scope = scope
        self._send = send
        self._lock = asyncio.Lock()
        self.value = f"Bearer {who.bearer}" if who.bearer else ""

    async def renew(self, refused: str, www_authenticate: str) -> bool:
        """After a 401 to a request that carried ``refused``: whether a retry makes sense.

        Raises TokenError with the reason if no token could be obtained.
        """
        async with self._lock:
            if self.value != refused:  # a concurrent request has renewed it already
                return True
            for challenge in challenges(www_authenticate):
                value = await self._answer(challenge)
                if value and value != refused:
                    self.value = value
                    return True
            return False

    def why_not(self, www_authenticate: str) -> str:
        """Why a challenge was not answered, as the end of a sentence; "" if it was answered and
        the credentials were refused."""
        offered = challenges(www_authenticate)
        if not offered:
            schemes = [word for word, value in _parts(www_authenticate) if value is None]
            return (
                f"; it asks for authentication by {', '.join(schemes) or 'no known method'}, and "
                "only Basic and Bearer are supported"
            )
        if not (self._who.username or self._who.secret or self._who.bearer):
            return "; the pull has no credentials for it: add an image pull secret"
        return ""

    async def _answer(self, challenge: Challenge) -> str:
        if self._who.bearer:
            return ""  # the client's own token was refused and cannot be renewed
        if challenge.scheme == "basic":
            return basic(self._who) if self._who.username else ""
        if not challenge.realm:
            return ""
        if not challenge.realm.lower().startswith(("http://", "https://")):
            raise TokenError(
                f"the challenge names the token server {challenge.realm!r}, which is not an http "
                "or https URL"
            )
        token = await fetch_token(challenge, self._scope, self._who, self._send)
        self._secrets.add(token)
        return f"Bearer {token}"
