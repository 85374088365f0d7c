"""The request of a streaming client: what is accepted, and the response to each fault."""

from __future__ import annotations

import pytest
from hypothesis import given

from runtime.streaming.http import Http, Refusal, Request, Upgrade, accepted
from runtime.streaming.requests import Kind

from .splits import cuts, pieces

SPDY = {"Connection": "Upgrade", "Upgrade": "SPDY/3.1"}
WS = {
    "Connection": "keep-alive, Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


def raw(
    headers: dict[str, str], method: str = "GET", path: str = "/exec/t", more: str = ""
) -> bytes:
    lines = "".join(f"{name}: {value}\r\n" for name, value in {"Host": "h", **headers}.items())
    return f"{method} {path} HTTP/1.1\r\n{lines}{more}\r\n".encode()


def request(headers: dict[str, str], method: str = "GET") -> Request:
    found = Http().receive(raw(headers, method))
    assert found is not None
    return found


def offering(base: dict[str, str], protocols: str) -> dict[str, str]:
    name = "X-Stream-Protocol-Version" if base is SPDY else "Sec-WebSocket-Protocol"
    return {**base, name: protocols}


ACCEPTED: list[tuple[dict[str, str], Kind, str, str]] = [
    (offering(SPDY, "v5.channel.k8s.io, v4.channel.k8s.io"), "exec", "spdy", "v4.channel.k8s.io"),
    (offering(SPDY, "v2.channel.k8s.io,v3.channel.k8s.io"), "attach", "spdy", "v2.channel.k8s.io"),
    (offering(SPDY, "channel.k8s.io"), "exec", "spdy", "channel.k8s.io"),
    (offering(SPDY, "portforward.k8s.io"), "portforward", "spdy", "portforward.k8s.io"),
    (offering(WS, "v5.channel.k8s.io"), "exec", "websocket", "v5.channel.k8s.io"),
    (
        offering(WS, "x, v4.base64.channel.k8s.io"),
        "attach",
        "websocket",
        "v4.base64.channel.k8s.io",
    ),
    (
        offering(WS, "SPDY/3.1+portforward.k8s.io"),
        "portforward",
        "websocket",
        "SPDY/3.1+portforward.k8s.io",
    ),
    (WS, "exec", "websocket", ""),
]


@pytest.mark.parametrize(("headers", "kind", "transport", "protocol"), ACCEPTED)
def test_the_clients_first_supported_protocol_is_used(
    headers: dict[str, str], kind: Kind, transport: str, protocol: str
) -> None:
    upgrade = accepted(request(headers), kind)
    assert (upgrade.transport, upgrade.protocol) == (transport, protocol)


def test_the_answer_to_spdy() -> None:
    http = Http()
    found = http.receive(raw(offering(SPDY, "v4.channel.k8s.io"), "POST", more="") + b"early")
    assert found is not None and found.method == "POST"
    answer, early = http.switched(accepted(found, "exec"))
    assert answer.startswith(b"HTTP/1.1 101 ")
    assert b"X-Stream-Protocol-Version: v4.channel.k8s.io\r\n" in answer
    assert early == b"early"


def test_the_answer_to_a_websocket_is_that_of_the_rfc() -> None:
    http = Http()
    found = http.receive(raw(offering(WS, "v5.channel.k8s.io")))
    assert found is not None
    answer, _ = http.switched(accepted(found, "exec"))
    assert b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in answer
    assert b"Sec-WebSocket-Protocol: v5.channel.k8s.io\r\n" in answer


REFUSED: list[tuple[str, dict[str, str], str, Kind, int]] = [
    ("no upgrade", {}, "GET", "exec", 400),
    ("no Connection", {"Upgrade": "SPDY/3.1"}, "GET", "exec", 400),
    ("another upgrade", {"Connection": "Upgrade", "Upgrade": "h2c"}, "GET", "exec", 400),
    ("no protocol", SPDY, "POST", "exec", 400),
    ("an unknown protocol", offering(SPDY, "v9.channel.k8s.io"), "POST", "exec", 403),
    ("another path's protocol", offering(SPDY, "portforward.k8s.io"), "POST", "exec", 403),
    ("v5 over SPDY", offering(SPDY, "v5.channel.k8s.io"), "POST", "exec", 403),
    ("an unknown subprotocol", offering(WS, "v9.channel.k8s.io"), "GET", "exec", 403),
    ("PUT", offering(SPDY, "v4.channel.k8s.io"), "PUT", "exec", 405),
    ("POST for a WebSocket", offering(WS, "v5.channel.k8s.io"), "POST", "exec", 405),
    ("an old WebSocket", {**WS, "Sec-WebSocket-Version": "8"}, "GET", "exec", 426),
    ("no key", {**WS, "Sec-WebSocket-Key": ""}, "GET", "exec", 400),
    ("a short key", {**WS, "Sec-WebSocket-Key": "YQ=="}, "GET", "exec", 400),
    ("a key that is no base64", {**WS, "Sec-WebSocket-Key": "\u00e4"}, "GET", "exec", 400),
]


@pytest.mark.parametrize(
    ("headers", "method", "kind", "status"), [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED]
)
def test_a_fault_is_refused(headers: dict[str, str], method: str, kind: Kind, status: int) -> None:
    with pytest.raises(Refusal) as refused:
        accepted(request(headers, method), kind)
    assert refused.value.status == status


def test_a_client_is_told_the_supported_protocols() -> None:
    http = Http()
    found = http.receive(raw(offering(SPDY, "v9.channel.k8s.io"), "POST"))
    assert found is not None
    with pytest.raises(Refusal) as refused:
        accepted(found, "attach")
    answer = http.refused(refused.value)
    assert answer.startswith(b"HTTP/1.1 403 ")
    for version in (
        "v4.channel.k8s.io",
        "v3.channel.k8s.io",
        "v2.channel.k8s.io",
        "channel.k8s.io",
    ):
        assert f"X-Accepted-Stream-Protocol-Versions: {version}\r\n".encode() in answer
    assert b"Connection: close\r\n" in answer


UPGRADE = offering(SPDY, "v4.channel.k8s.io")
SMUGGLED: list[tuple[str, bytes, int]] = [
    ("a body", raw({**UPGRADE, "Content-Length": "3"}, "POST") + b"abc", 400),
    (
        "a chunked body",
        raw({**UPGRADE, "Transfer-Encoding": "chunked"}, "POST") + b"0\r\n\r\n",
        400,
    ),
    (
        "two lengths",
        raw(UPGRADE, "POST", more="Content-Length: 0\r\nContent-Length: 1\r\n") + b"a",
        400,
    ),
    ("two hosts", raw(UPGRADE, more="Host: other\r\n"), 400),
    ("a folded name", raw(UPGRADE, more=" Upgrade : x\r\n: y\r\n"), 400),
    ("a space before the colon", raw(UPGRADE, more="Evil : x\r\n"), 400),
    ("a bare line", b"GET\r\n\r\n", 400),
    ("not HTTP", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    ("HTTP/1.0", b"GET /exec/t HTTP/1.0\r\nHost: h\r\n\r\n", 505),
    ("endless headers", b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 20_000, 431),
]


@pytest.mark.parametrize(
    ("data", "status"), [r[1:] for r in SMUGGLED], ids=[r[0] for r in SMUGGLED]
)
def test_a_malformed_request_is_refused(data: bytes, status: int) -> None:
    http = Http()
    with pytest.raises(Refusal) as refused:
        http.receive(data)
    assert refused.value.status == status
    assert http.refused(refused.value).startswith(f"HTTP/1.1 {status} ".encode())


@pytest.mark.parametrize(
    "data",
    [
        b"GET /exec/SECRET HTTP/1.1 more\r\n\r\n",
        b'GET /exec/"SECRET HTTP/1.1 more\r\n\r\n',
        b"GET /exec/t HTTP/1.1\r\nHost: h\r\nAuthorization : SECRET\r\n\r\n",
        b"GET /exec/t HTTP/1.1\r\nHost: h\r\nAuthorization: SECRET\0\r\n\r\n",
    ],
)
def test_a_refusal_does_not_repeat_what_the_client_sent(data: bytes) -> None:
    http = Http()
    with pytest.raises(Refusal) as refused:
        http.receive(data)
    assert refused.value.reason in ("illegal request line", "illegal header line")
    assert b"SECRET" not in http.refused(refused.value)


def test_the_answer_to_head_has_no_body() -> None:
    http = Http()
    found = http.receive(raw({}, "HEAD"))
    assert found is not None
    with pytest.raises(Refusal) as refused:
        accepted(found, "exec")
    assert http.refused(refused.value) == (
        b"HTTP/1.1 405 Method Not Allowed\r\n"
        b"Content-Type: text/plain; charset=utf-8\r\nContent-Length: 16\r\n"
        b"Connection: close\r\nAllow: GET, POST\r\n\r\n"
    )


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("/exec/t", "/exec/t"),
        ("/exec/t?x=/y", "/exec/t"),
        ("http://127.0.0.1:1234/exec/t?x=y", "/exec/t"),
        ("/exec/http://h/t", "/exec/http://h/t"),
        ("http://127.0.0.1:1234", "/"),
        ("*", "/"),
        ("h:80", "/"),
    ],
)
def test_the_path_of_a_request_target(target: str, path: str) -> None:
    found = Http().receive(raw(SPDY, "OPTIONS", target))
    assert found is not None and found.path == path


def test_headers_that_a_proxy_added_are_accepted() -> None:
    whole = raw({**UPGRADE, "Cookie": "c" * 60_000}, "POST")
    http = Http()
    assert http.receive(whole[:-1]) is None
    assert http.receive(whole[-1:]) is not None


@given(cuts())
def test_any_split_gives_the_same_request(at: list[int]) -> None:
    whole = raw(UPGRADE, "POST", "/exec/token?x=y", more="Content-Length: 0\r\n")
    http = Http()
    found = [http.receive(piece) for piece in pieces(whole, at) if piece]
    assert found[:-1] == [None] * (len(found) - 1)
    assert found[-1] == Http().receive(whole)
    assert found[-1] is not None and found[-1].path == "/exec/token"


def test_an_upgrade_response_has_only_our_headers() -> None:
    """Nothing a client sends is repeated in the response, except a protocol that we support."""
    evil = {**WS, "Sec-WebSocket-Protocol": "v5.channel.k8s.io, evil"}
    upgrade = accepted(request(evil), "exec")
    assert isinstance(upgrade, Upgrade)
    assert "evil" not in str(upgrade.headers)
