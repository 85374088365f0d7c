"""A registry in memory that holds what no push would accept and responds as a test requires."""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable
from typing import Any, Self
from urllib.parse import urlsplit

from aiohttp import web

from tests.harness import images as build
from tests.harness.proxy import ReceivedRequest

Odd = Callable[[web.Request], Awaitable[web.StreamResponse | None]]


@dataclasses.dataclass(slots=True)
class MemoryRegistry:
    """Use as ``async with MemoryRegistry() as registry``; every repository has the same content.

    It is a forward proxy as well: a request for another address is served as if it were for this
    one.
    """

    manifests: dict[str, build.Blob] = dataclasses.field(default_factory=dict)
    """By tag and by digest."""
    blobs: dict[str, bytes] = dataclasses.field(default_factory=dict)
    odd: Odd | None = None
    """Called first; if it returns None, the registry responds normally."""
    asked: list[ReceivedRequest] = dataclasses.field(default_factory=list)
    addresses: list[str] = dataclasses.field(default_factory=list)
    """The host of each request."""
    active: int = 0
    most_active: int = 0
    """Concurrent blob requests."""
    port: int = 0
    _runner: Any = None

    def put(self, tag: str, image: build.Image) -> build.Image:
        self.add(tag, image.manifest)
        self.blobs |= {blob.digest: blob.data for blob in (image.config, *image.layers)}
        return image

    def add(self, tag: str, document: build.Blob) -> build.Blob:
        self.manifests |= {tag: document, document.digest: document}
        return document

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"http://{self.host}"

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        headers = dict(request.headers)
        as_sent = urlsplit(request.raw_path)
        self.asked.append(ReceivedRequest(request.method, request.path, as_sent.query, headers))
        self.addresses.append(as_sent.netloc or request.host)
        odd = await self.odd(request) if self.odd else None
        if odd is not None:
            return odd
        name = request.path.rpartition("/")[2]
        if "/manifests/" in request.path and name in self.manifests:
            document = self.manifests[name]
            headers = {
                "Content-Type": document.media_type,
                "Docker-Content-Digest": document.digest,
            }
            return web.Response(body=document.data, headers=headers)
        if "/blobs/" in request.path and name in self.blobs:
            return await self._blob(request, self.blobs[name])
        return web.Response(status=404)

    async def _blob(self, request: web.Request, data: bytes) -> web.StreamResponse:
        self.active += 1
        self.most_active = max(self.most_active, self.active)
        try:
            answer = web.Response(body=data)
            await answer.prepare(request)
            await answer.write_eof()
            return answer
        finally:
            self.active -= 1

    async def __aenter__(self) -> Self:
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(application, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()
