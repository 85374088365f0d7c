"""HTTP/1.1 for the streaming server: reads one upgrade request; does no I/O.

`Http` reads the only request of a connection (with h11, which is strict about everything that
request smuggling relies on) and writes the only response. `accepted` decides from the request alone
which protocol the connection is upgraded to, or why not.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final, Literal

import h11
from wsproto.utilities import generate_accept_token

from runtime.streaming.requests import Kind

MAX_HEAD_BYTES: Final = 64 << 10
"""Request line and headers together. The kubelet passes on what a proxy of its users adds."""

SPDY: Final = "spdy/3.1"

_QUOTATION: Final = re.compile(r":? *(bytearray\()?b['\"].*", re.DOTALL)
"""How h11 ends a message with the bytes that it refuses."""


_CHANNELS: Final = ("v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io")
_FIRST_CHANNELS: Final = ("channel.k8s.io", "v1.channel.k8s.io")

SPDY_PROTOCOLS: Final[Mapping[Kind, tuple[str, ...]]] = {
    "exec": _CHANNELS + _FIRST_CHANNELS,
    "attach": _CHANNELS + _FIRST_CHANNELS,
    "portforward": ("portforward.k8s.io",),
}
"""The subprotocols spoken over SPDY, for each path."""

TUNNEL: Final = "SPDY/3.1+portforward.k8s.io"
"""SPDY tunnelled through WebSocket messages."""

_WEBSOCKET_CHANNELS: Final = (
    "v4.channel.k8s.io",
    "v4.base64.channel.k8s.io",
    "channel.k8s.io",
    "base64.channel.k8s.io",
)

WEBSOCKET_PROTOCOLS: Final[Mapping[Kind, tuple[str, ...]]] = {
    "exec": ("v5.channel.k8s.io", *_WEBSOCKET_CHANNELS),
    "attach": ("v5.channel.k8s.io", *_WEBSOCKET_CHANNELS),
    "portforward": (TUNNEL, "v4.channel.k8s.io", "v4.base64.channel.k8s.io"),
}
"""The subprotocols spoken over WebSocket, for each path; the oldest is used if none is offered."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request without a body."""

    method: str
    path: str
    """The path without the query."""
    headers: Sequence[tuple[str, str]]
    """With lower-case names."""

    def values(self, name: str) -> list[str]:
        """All elements of a header that may be a list, in order."""
        joined = ",".join(value for header, value in self.headers if header == name)
        return [element for part in joined.split(",") if (element := part.strip())]

    def tokens(self, name: str) -> set[str]:
        """The elements in lower case, for headers that ignore case."""
        return {element.lower() for element in self.values(name)}


@dataclass(frozen=True, slots=True)
class Upgrade:
    """What a connection is upgraded to."""

    transport: Literal["spdy", "websocket"]
    protocol: str
    """The subprotocol; "" if a WebSocket client offered none."""
    headers: tuple[tuple[str, str], ...]
    """Headers of the 101 response."""


@dataclass(frozen=True, slots=True)
class Refusal(Exception):
    """A response that ends the connection."""

    status: HTTPStatus
    reason: str
    headers: tuple[tuple[str, str], ...] = field(default=())

    def __str__(self) -> str:
        return f"{self.status.value}: {self.reason}"


class Http:
    """The only request of a connection, and its response."""

    def __init__(self) -> None:
        self._connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
        self._wants_body = True

    def receive(self, data: bytes) -> Request | None:
        """The request once it is complete, until then None.

        Raises Refusal if it is not an HTTP/1.1 request or has a body.
        """
        try:
            self._connection.receive_data(data)
            event = self._connection.next_event()
            if isinstance(event, h11.Request):
                self._wants_body = event.method != b"HEAD"
                return self._request(event)
        except h11.RemoteProtocolError as error:
            status = HTTPStatus(error.error_status_hint or HTTPStatus.BAD_REQUEST)
            raise Refusal(status, _without_quotation(str(error))) from error
        return None

    def _request(self, event: h11.Request) -> Request:
        if event.http_version != b"1.1":
            raise Refusal(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, "only HTTP/1.1 is supported")
        framed = any(name == b"transfer-encoding" for name, _ in event.headers)
        if framed or not isinstance(self._connection.next_event(), h11.EndOfMessage):
            raise Refusal(HTTPStatus.BAD_REQUEST, "an upgrade request must not have a body")
        return Request(
            method=event.method.decode(),
            path=_path(event.target.decode("latin-1")),
            headers=[(n.decode(), v.decode("latin-1")) for n, v in event.headers],
        )

    def switched(self, upgrade: Upgrade) -> tuple[bytes, bytes]:
        """The 101 response, and the bytes the client has already sent after its request."""
        response = h11.InformationalResponse(
            status_code=HTTPStatus.SWITCHING_PROTOCOLS,
            reason=HTTPStatus.SWITCHING_PROTOCOLS.phrase,
            headers=list(upgrade.headers),
        )
        sent = self._connection.send(response) or b""
        return sent, self._connection.trailing_data[0]

    def refused(self, refusal: Refusal) -> bytes:
        """The response that refuses; b"" if the connection is already past its response."""
        body = f"{refusal.reason}\n".encode()
        headers = [
            ("Content-Type", "text/plain; charset=utf-8"),
            ("Content-Length", str(len(body))),
            ("Connection", "close"),
            *refusal.headers,
        ]
        response = h11.Response(
            status_code=refusal.status, reason=refusal.status.phrase, headers=headers
        )
        parts = [response, h11.Data(data=body if self._wants_body else b""), h11.EndOfMessage()]
        try:
            return b"".join(self._connection.send(part) or b"" for part in parts)
        except h11.LocalProtocolError:
            return b""


def accepted(request: Request, kind: Kind) -> Upgrade:
    """What to upgrade the connection to; raises Refusal with what the client must change."""
    if request.method not in ("GET", "POST"):
        raise Refusal(
            HTTPStatus.METHOD_NOT_ALLOWED, "use GET or POST", headers=(("Allow", "GET, POST"),)
        )
    upgrades = request.tokens("upgrade")
    if "upgrade" not in request.tokens("connection") or not upgrades & {SPDY, "websocket"}:
        raise Refusal(
            HTTPStatus.BAD_REQUEST,
            "unable to upgrade: the request needs Connection: Upgrade, and Upgrade: websocket or "
            "SPDY/3.1",
        )
    if "websocket" in upgrades:
        return _websocket(request, WEBSOCKET_PROTOCOLS[kind])
    return _spdy(request, SPDY_PROTOCOLS[kind])


def _spdy(request: Request, spoken: tuple[str, ...]) -> Upgrade:
    offered = request.values("x-stream-protocol-version")
    if not offered:
        raise Refusal(
            HTTPStatus.BAD_REQUEST,
            "unable to upgrade: the header X-Stream-Protocol-Version is required",
        )
    protocol = _first_spoken(offered, spoken)
    headers = (
        ("Connection", "Upgrade"),
        ("Upgrade", "SPDY/3.1"),
        ("X-Stream-Protocol-Version", protocol),
    )
    return Upgrade("spdy", protocol, headers)


def _websocket(request: Request, spoken: tuple[str, ...]) -> Upgrade:
    if request.method != "GET":
        raise Refusal(
            HTTPStatus.METHOD_NOT_ALLOWED,
            "a WebSocket handshake must use GET",
            headers=(("Allow", "GET"),),
        )
    if request.values("sec-websocket-version") != ["13"]:
        raise Refusal(
            HTTPStatus.UPGRADE_REQUIRED,
            "the WebSocket version must be 13",
            headers=(("Sec-WebSocket-Version", "13"),),
        )
    keys = request.values("sec-websocket-key")
    if len(keys) != 1 or not _is_websocket_key(keys[0]):
        raise Refusal(
            HTTPStatus.BAD_REQUEST, "Sec-WebSocket-Key must be one value of 16 bytes in base64"
        )
    offered = request.values("sec-websocket-protocol")
    protocol = _first_spoken(offered, spoken) if offered else ""
    accept = generate_accept_token(keys[0].encode()).decode()
    headers = (
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Accept", accept),
        *((("Sec-WebSocket-Protocol", protocol),) if protocol else ()),
    )
    return Upgrade("websocket", protocol, headers)


def _path(target: str) -> str:
    """The path of a request target, which may be a whole URL (RFC 9112, section 3.2.2)."""
    if not target.startswith("/"):
        target = "/" + target.partition("://")[2].partition("/")[2]
    return target.partition("?")[0]


def _without_quotation(message: str) -> str:
    """What is wrong, without what the client sent: the request line may contain a valid token."""
    return _QUOTATION.sub("", message)


def _first_spoken(offered: list[str], spoken: tuple[str, ...]) -> str:
    """The first of the client's protocols that is supported: the client's order decides."""
    for protocol in offered:
        if protocol in spoken:
            return protocol
    raise Refusal(
        HTTPStatus.FORBIDDEN,
        f"unable to upgrade: none of {', '.join(offered)} is supported; "
        f"supported: {', '.join(spoken)}",
        headers=tuple(("X-Accepted-Stream-Protocol-Versions", name) for name in spoken),
    )


def _is_websocket_key(text: str) -> bool:
    try:
        return len(base64.b64decode(text, validate=True)) == 16
    except ValueError:  # not ASCII, or not base64
        return False
