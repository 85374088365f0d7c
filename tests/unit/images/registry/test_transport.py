"""Redirects, encodings and ranges, against a server with configurable responses."""

from __future__ import annotations

import gzip
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web

from runtime.errors import Unavailable, Unknown
from runtime.images.progress import Activity
from runtime.images.registry.transport import (
    HostError,
    Request,
    encodes_a_part,
    read_blob,
    read_body,
    send,
)
from tests.harness.memory_registry import MemoryRegistry


@pytest.fixture
async def first() -> AsyncIterator[MemoryRegistry]:
    async with MemoryRegistry() as server:
        yield server


@pytest.fixture
async def second() -> AsyncIterator[MemoryRegistry]:
    async with MemoryRegistry() as server:
        yield server


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(auto_decompress=False) as session:
        yield session


def always(server: MemoryRegistry, status: int = 200, body: bytes = b"", **headers: str) -> None:
    """Respond to everything like this; underscores in header names stand for dashes."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}

    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=status, body=body, headers=named)

    server.odd = answer


async def test_private_headers_stay_at_the_first_address(
    session: aiohttp.ClientSession, first: MemoryRegistry, second: MemoryRegistry
) -> None:
    always(first, 307, Location=f"{second.url}/there?a=%2F")
    always(second, body=b"here")
    request = Request(
        "GET", f"{first.url}/x", headers=[("Accept", "a/b")], private=[("Authorization", "secret")]
    )
    answer = await send(session, request)
    assert await read_body(answer, 100) == b"here"
    assert first.asked[0].headers["Authorization"] == "secret"
    assert "Authorization" not in second.asked[0].headers
    assert second.asked[0].headers["Accept"] == "a/b"
    assert second.asked[0].query == "a=%2F"


async def test_redirect_within_one_address_keeps_them(
    session: aiohttp.ClientSession, first: MemoryRegistry
) -> None:
    async def answer(request: web.Request) -> web.Response:
        if request.path == "/x":
            return web.Response(status=301, headers={"Location": "y"})
        return web.Response(text=request.headers["Authorization"])

    first.odd = answer
    request = Request("GET", f"{first.url}/x", private=[("Authorization", "secret")])
    assert await read_body(await send(session, request), 100) == b"secret"


@pytest.mark.parametrize("status", [307, 308])
async def test_form_with_credentials_is_not_sent_on(
    session: aiohttp.ClientSession, first: MemoryRegistry, second: MemoryRegistry, status: int
) -> None:
    always(first, status, Location=second.url)
    request = Request("POST", first.url, form=[("password", "secret")])
    with pytest.raises(HostError, match="redirects credentials to"):
        await send(session, request)
    assert second.asked == []


async def test_post_goes_on_as_get_without_its_form(
    session: aiohttp.ClientSession, first: MemoryRegistry, second: MemoryRegistry
) -> None:
    always(first, 302, Location=second.url)
    always(second)
    await send(session, Request("POST", first.url, form=[("password", "secret")]))
    assert second.asked[0].method == "GET"
    assert second.asked[0].headers.get("Content-Length", "0") == "0"


@pytest.mark.parametrize("location", ["file:///etc/passwd", "gopher://a/", "http://[", "//:x"])
async def test_redirect_to_an_unsupported_url(
    session: aiohttp.ClientSession, first: MemoryRegistry, location: str
) -> None:
    always(first, 307, Location=location)
    with pytest.raises(HostError, match="not an http or https URL"):
        await send(session, Request("GET", first.url))


async def test_redirects_end(session: aiohttp.ClientSession, first: MemoryRegistry) -> None:
    always(first, 307, Location="/again")
    with pytest.raises(HostError, match="redirects more than 10 times"):
        await send(session, Request("GET", first.url))
    assert len(first.asked) == 11


@pytest.mark.parametrize("encoding", ["br", "gzip, zstd"])
async def test_unknown_encoding_is_named(
    session: aiohttp.ClientSession, first: MemoryRegistry, encoding: str
) -> None:
    always(first, Content_Encoding=encoding)
    answer = await send(session, Request("GET", first.url))
    with pytest.raises(HostError, match=r"the encoding .(br|zstd)., which was not requested"):
        await read_body(answer, 100)


@pytest.mark.parametrize(
    ("body", "kind"),
    [(b"no gzip at all", Unknown), (gzip.compress(b"x" * 999)[:20], Unavailable)],
    ids=["broken", "cut"],
)
async def test_broken_encoding(
    session: aiohttp.ClientSession, first: MemoryRegistry, body: bytes, kind: type[Exception]
) -> None:
    always(first, body=body, Content_Encoding="gzip")
    answer = await send(session, Request("GET", first.url))
    with pytest.raises(HostError) as failed:
        await read_body(answer, 10_000)
    assert failed.value.kind is kind


async def test_rest_of_a_blob_from_servers_with_and_without_ranges(
    session: aiohttp.ClientSession, first: MemoryRegistry
) -> None:
    async def rest(status: int, body: bytes, **headers: str) -> bytes:
        always(first, status, body, **headers)
        answer = await send(session, Request("GET", first.url))
        assert not encodes_a_part(answer, 7)
        return b"".join([piece async for piece in read_blob(answer, 3, 10, Activity())])

    assert await rest(206, b"3456789") == b"3456789"
    assert await rest(200, b"0123456789") == b"3456789"
    assert await rest(200, gzip.compress(b"0123456789"), Content_Encoding="gzip") == b"3456789"
    # as long as the rest of the blob: storage labels the layer with its own encoding
    assert await rest(206, b"3456789", Content_Encoding="gzip") == b"3456789"


async def test_part_of_encoded_bytes_is_recognised(
    session: aiohttp.ClientSession, first: MemoryRegistry
) -> None:
    always(first, 206, gzip.compress(b"0123456789")[3:], Content_Encoding="gzip")
    assert encodes_a_part(await send(session, Request("GET", first.url)), 7)
