"""A reverse proxy in front of a registry that misbehaves on demand and records its requests."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Self

import aiohttp
from aiohttp import web

_HOP_BY_HOP = {"host", "connection", "transfer-encoding", "content-length", "content-encoding"}


@dataclasses.dataclass(frozen=True, slots=True)
class ReceivedRequest:
    """One request as received."""

    method: str
    path: str
    query: str
    headers: dict[str, str]

    @property
    def is_blob(self) -> bool:
        return "/blobs/" in self.path


class Proxy:
    """Use as ``async with Proxy(upstream_url) as proxy``; the faults are attributes."""

    def __init__(self, upstream: str):
        self.upstream = upstream
        self.asked: list[ReceivedRequest] = []
        self.cuts = 0
        """How many more blob responses break off after ``cut_after`` bytes."""
        self.cut_after = 1 << 16
        self.drop_range = False
        """Drop ``Range``, like servers that do not support it."""
        self.stall_after: int | None = None
        """Respond to blobs with headers and so many bytes, and then nothing more."""
        self.statuses: list[int] = []
        """Statuses of the next responses, one for each request."""

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"http://{self.host}"

    def blobs(self, method: str = "GET") -> list[ReceivedRequest]:
        return [one for one in self.asked if one.is_blob and one.method == method]

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        asked = ReceivedRequest(
            request.method, request.path, request.query_string, dict(request.headers)
        )
        self.asked.append(asked)
        if self.statuses:
            return web.Response(status=self.statuses.pop(0))
        headers = {k: v for k, v in request.headers.items() if k.lower() not in _HOP_BY_HOP}
        if self.drop_range:
            headers.pop("Range", None)
        async with self._session.request(
            request.method, self.upstream + request.path_qs, headers=headers
        ) as upstream:
            kept = {k: v for k, v in upstream.headers.items() if k.lower() != "transfer-encoding"}
            answer = web.StreamResponse(status=upstream.status, headers=kept)
            await answer.prepare(request)
            await self._copy(asked, upstream, answer, request)
            return answer

    async def _copy(
        self,
        asked: ReceivedRequest,
        upstream: aiohttp.ClientResponse,
        answer: web.StreamResponse,
        request: web.Request,
    ) -> None:
        sent = 0
        async for piece in upstream.content.iter_chunked(1 << 14):
            if asked.is_blob and self.stall_after is not None and sent >= self.stall_after:
                await asyncio.sleep(3600)
            await answer.write(piece)
            sent += len(piece)
            if asked.is_blob and self.cuts and sent >= self.cut_after:
                assert request.transport
                self.cuts -= 1
                request.transport.close()
                return

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(auto_decompress=False)
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(application, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()
        await self._session.close()
