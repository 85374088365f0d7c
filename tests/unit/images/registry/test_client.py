"""Manifests and blobs from hosts that respond with something else, and from the next host."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from aiohttp import web

from runtime.errors import CriError, InvalidArgument, Unauthenticated
from runtime.images import reference
from runtime.images.manifest import Descriptor
from runtime.images.progress import Activity
from runtime.images.registry.auth import ANONYMOUS, Credentials
from runtime.images.registry.client import Registry, open_registry
from runtime.images.registry.hosts import RegistryHost
from runtime.images.registry.ranges import Ranges
from tests.harness import images as build
from tests.harness.memory_registry import MemoryRegistry

_IMAGE = build.image([build.layer_tar({"file": b"x" * 100_000})], compression="none")
_LAYER = _IMAGE.layers[0]
_PAGE = b"<html>Please log in</html>"


@pytest.fixture
async def mirror() -> AsyncIterator[MemoryRegistry]:
    async with MemoryRegistry() as server:
        server.put("1", _IMAGE)
        yield server


@pytest.fixture
async def origin() -> AsyncIterator[MemoryRegistry]:
    async with MemoryRegistry() as server:
        server.put("1", _IMAGE)
        yield server


async def _with(
    servers: list[MemoryRegistry],
    work: Callable[[Registry], Awaitable[bytes]],
    who: Credentials = ANONYMOUS,
) -> bytes:
    """What ``work`` gets from a registry with these hosts."""
    wanted = reference.parse(f"{servers[-1].host}/x:1")
    hosts = [RegistryHost("http", server.host) for server in servers]
    async with open_registry(wanted, hosts, who, Activity(), Ranges()) as registry:
        return await work(registry)


async def _manifest(registry: Registry) -> bytes:
    return (await registry.manifest())[1]


async def _rest(registry: Registry, offset: int = 0) -> bytes:
    blob = Descriptor(_LAYER.media_type, _LAYER.digest, len(_LAYER.data))
    return b"".join([piece async for piece in registry.blob(blob, offset)])


def _says(server: MemoryRegistry, response: Callable[[], web.Response]) -> None:
    async def odd(_request: web.Request) -> web.StreamResponse:
        return response()

    server.odd = odd


@pytest.mark.parametrize("body", [_PAGE, b""], ids=["page", "empty"])
async def test_a_page_instead_of_a_manifest_is_not_taken_for_one(
    mirror: MemoryRegistry, origin: MemoryRegistry, body: bytes
) -> None:
    _says(mirror, lambda: web.Response(body=body, content_type="text/html"))
    assert await _with([mirror, origin], _manifest) == _IMAGE.manifest.data
    with pytest.raises(CriError, match=f"sent {len(body)} bytes of text/html instead of a"):
        await _with([mirror], _manifest)


@pytest.mark.parametrize("body", [_PAGE, _LAYER.data + b"more"], ids=["page", "longer"])
async def test_the_bytes_of_a_page_are_no_part_of_a_blob(
    mirror: MemoryRegistry, origin: MemoryRegistry, body: bytes
) -> None:
    """The next host would continue after them, and the digest of the whole would be wrong."""
    _says(mirror, lambda: web.Response(body=body))
    assert await _with([mirror, origin], _rest) == _LAYER.data


@pytest.mark.parametrize(
    "answer",
    [
        lambda: web.Response(status=416),
        lambda: web.Response(
            status=206, body=_LAYER.data, headers={"Content-Range": f"bytes 0-1/{len(_LAYER.data)}"}
        ),
    ],
    ids=["416", "another range"],
)
async def test_a_host_that_cannot_resume_is_asked_for_the_whole(
    origin: MemoryRegistry, answer: Callable[[], web.Response]
) -> None:
    async def odd(request: web.Request) -> web.StreamResponse | None:
        return answer() if "Range" in request.headers else None

    origin.odd = odd
    assert await _with([origin], lambda registry: _rest(registry, 5000)) == _LAYER.data[5000:]


@pytest.mark.parametrize(
    ("challenge", "says"),
    [
        ("Negotiate", "it asks for authentication by Negotiate, and only Basic and Bearer are"),
        ("", "it asks for authentication by no known method"),
        ('Basic realm="x"', "the pull has no credentials for it: add an image pull secret"),
        ('Bearer realm="/token"', "the token server '/token', which is not an http or https URL"),
        ('Bearer realm="ftp://x/"', "the token server 'ftp://x/', which is not an http or https"),
    ],
)
async def test_a_challenge_that_cannot_be_answered_says_why(
    origin: MemoryRegistry, challenge: str, says: str
) -> None:
    _says(origin, lambda: web.Response(status=401, headers={"WWW-Authenticate": challenge}))
    with pytest.raises(Unauthenticated, match=says):
        await _with([origin], _manifest)


async def test_refused_credentials_are_not_called_missing(origin: MemoryRegistry) -> None:
    headers = {"WWW-Authenticate": 'Basic realm="x"'}
    _says(origin, lambda: web.Response(status=401, headers=headers))
    with pytest.raises(Unauthenticated, match=r"401 Unauthorized$"):
        await _with([origin], _manifest, Credentials("user", "secret"))


@pytest.mark.parametrize("name", ["localhost:65536/x", "[::1]:99999/x", "[:::::]/x"])
def test_an_impossible_address_is_no_reference(name: str) -> None:
    with pytest.raises(InvalidArgument, match="is not a registry's host and port"):
        reference.parse(name)
