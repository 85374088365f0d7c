"""The HTTP/1.1 of the streaming server: one request that asks for an upgrade; it does no I/O.

`Http` reads the one request of a connection (by h11, which is strict about everything that
smuggling lives on) and writes the one answer. `accepted` decides, from the request alone, which
protocol it becomes, or why not.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final, Literal

import h11
from wsproto.utilities import generate_accept_token

from runtime.streaming.asked import Kind

MAX_HEAD_BYTES: Final = 16 << 10
"""Request line and headers together."""

SPDY: Final = "spdy/3.1"


_CHANNELS: Final = ("v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io")
_FIRST_CHANNELS: Final = ("channel.k8s.io", "v1.channel.k8s.io")

SPDY_PROTOCOLS: Final[Mapping[Kind, tuple[str, ...]]] = {
    "exec": _CHANNELS + _FIRST_CHANNELS,
    "attach": _CHANNELS + _FIRST_CHANNELS,
    "portforward": ("portforward.k8s.io",),
}
"""What is spoken over SPDY, for each path."""

TUNNEL: Final = "SPDY/3.1+portforward.k8s.io"
"""SPDY in the messages of a WebSocket."""

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
"""What is spoken over WebSocket, for each path; a client that offers none gets the oldest form."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request without a body."""

    method: str
    path: str
    """Without the query."""
    headers: Sequence[tuple[str, str]]
    """Names in lower case."""

    def values(self, name: str) -> list[str]:
        """Every element of a header that may be a list, in order."""
        joined = ",".join(value for header, value in self.headers if header == name)
        return [element for part in joined.split(",") if (element := part.strip())]

    def tokens(self, name: str) -> set[str]:
        """The elements in lower case, where case does not matter."""
        return {element.lower() for element in self.values(name)}


@dataclass(frozen=True, slots=True)
class Upgrade:
    """What a connection becomes."""

    transport: Literal["spdy", "websocket"]
    protocol: str
    """The subprotocol; "" for a WebSocket client that named none."""
    headers: tuple[tuple[str, str], ...]
    """Of the 101 answer."""


@dataclass(frozen=True, slots=True)
class Refusal(Exception):
    """An answer that ends the connection."""

    status: HTTPStatus
    reason: str
    headers: tuple[tuple[str, str], ...] = field(default=())

    def __str__(self) -> str:
        return f"{self.status.value}: {self.reason}"


class Http:
    """The one request of a connection and its answer."""

    def __init__(self) -> None:
        self._connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)

    def receive(self, data: bytes) -> Request | None:
        """The request once all of it came, None before.

        Raises Refusal for what is no HTTP/1.1 request, or has a body.
        """
        try:
            self._connection.receive_data(data)
            event = self._connection.next_event()
            if isinstance(event, h11.Request):
                return self._request(event)
        except h11.RemoteProtocolError as error:
            status = HTTPStatus(error.error_status_hint or HTTPStatus.BAD_REQUEST)
            raise Refusal(status, str(error)) from error
        return None

    def _request(self, event: h11.Request) -> Request:
        if event.http_version != b"1.1":
            raise Refusal(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, "HTTP/1.1 is spoken here")
        framed = any(name == b"transfer-encoding" for name, _ in event.headers)
        if framed or not isinstance(self._connection.next_event(), h11.EndOfMessage):
            raise Refusal(HTTPStatus.BAD_REQUEST, "a request to upgrade has no body")
        return Request(
            method=event.method.decode(),
            path=event.target.decode("latin-1").partition("?")[0],
            headers=[(n.decode(), v.decode("latin-1")) for n, v in event.headers],
        )

    def switched(self, upgrade: Upgrade) -> tuple[bytes, bytes]:
        """The 101 answer, and what the client sent after its request already."""
        answer = h11.InformationalResponse(
            status_code=HTTPStatus.SWITCHING_PROTOCOLS, headers=list(upgrade.headers)
        )
        sent = self._connection.send(answer) or b""
        return sent, self._connection.trailing_data[0]

    def refused(self, refusal: Refusal) -> bytes:
        """The answer that says no; nothing where the connection is past answering."""
        body = f"{refusal.reason}\n".encode()
        headers = [
            ("Content-Type", "text/plain; charset=utf-8"),
            ("Content-Length", str(len(body))),
            ("Connection", "close"),
            *refusal.headers,
        ]
        answer = h11.Response(status_code=refusal.status, headers=headers)
        try:
            parts = (answer, h11.Data(data=body), h11.EndOfMessage())
            return b"".join(self._connection.send(part) or b"" for part in parts)
        except h11.LocalProtocolError:
            return b""


def accepted(request: Request, kind: Kind) -> Upgrade:
    """What the connection becomes; raises Refusal with what a client has to change."""
    if request.method not in ("GET", "POST"):
        raise Refusal(
            HTTPStatus.METHOD_NOT_ALLOWED, "use GET or POST", headers=(("Allow", "GET, POST"),)
        )
    wanted = request.tokens("upgrade")
    if "upgrade" not in request.tokens("connection") or not wanted & {SPDY, "websocket"}:
        raise Refusal(
            HTTPStatus.BAD_REQUEST,
            "unable to upgrade: the request needs Connection: Upgrade, and Upgrade: websocket or "
            "SPDY/3.1",
        )
    if "websocket" in wanted:
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
            "a WebSocket begins with GET",
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


def _first_spoken(offered: list[str], spoken: tuple[str, ...]) -> str:
    """The first of the client's protocols that is spoken here: the order is the client's."""
    for protocol in offered:
        if protocol in spoken:
            return protocol
    raise Refusal(
        HTTPStatus.FORBIDDEN,
        f"unable to upgrade: none of {', '.join(offered)} is spoken here; "
        f"spoken are {', '.join(spoken)}",
        headers=tuple(("X-Accepted-Stream-Protocol-Versions", name) for name in spoken),
    )


def _is_websocket_key(text: str) -> bool:
    try:
        return len(base64.b64decode(text, validate=True)) == 16
    except ValueError:  # not ASCII, or not base64
        return False
