"""The one listener of exec, attach and port-forward: its address, its TLS, its end."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import os
import socket
from typing import TYPE_CHECKING, Final

import structlog

from runtime.config.tables import ConfigError, StreamingTable
from runtime.streaming import tls
from runtime.streaming.hangups import Hangups
from runtime.streaming.metrics import Metrics

if TYPE_CHECKING:
    from runtime.streaming.client import Answer, Client

log = structlog.get_logger(__name__)

_BACKLOG: Final = 512
_CLOSING: Final = 2.0
"""Seconds for the last words to clients whose time is over."""


class Listener:
    """Accepts clients, until it is stopped."""

    def __init__(self, config: StreamingTable, answer: Answer, metrics: Metrics) -> None:
        self._config = config
        self._answer = answer
        self._metrics = metrics
        self._clients: set[Client] = set()
        self._server: asyncio.Server | None = None
        self._hangups: Hangups | None = None
        self._sessions: set[asyncio.Task[None]] = set()
        """Of all clients, those that have left included."""
        self.url = ""
        """Where clients find it, without a slash at the end."""

    async def start(self) -> None:
        """Listen; raises ConfigError with the remedy."""
        config = self._config
        host = config.stream_server_address or default_address()
        context = await tls.context(config, host) if config.enable_tls_streaming else None
        loop = asyncio.get_running_loop()
        self._hangups = Hangups()
        try:
            self._server = await loop.create_server(
                self._client,
                host,
                config.stream_server_port,
                ssl=context,
                backlog=_BACKLOG,
                reuse_address=True,
            )
        except OSError as error:
            raise ConfigError(_explained(host, config.stream_server_port, error)) from error
        port = self._server.sockets[0].getsockname()[1]
        self.url = f"{'https' if context else 'http'}://{_in_url(host)}:{port}"
        log.info("streaming", url=self.url)

    async def stop(self, grace: float) -> None:
        """Accept no more; sessions have ``grace`` seconds, then they are closed with a word.

        Sessions whose client has left are not waited for: their commands go on by themselves.
        """
        server, self._server = self._server, None
        if server is None:
            return
        server.close()
        attended = {task for client in self._clients if (task := client.serving)}
        if attended:
            log.info("streams may end", sessions=len(attended), within=f"{grace:.0f} s")
            await asyncio.wait(attended, timeout=grace)
        left = set(self._sessions)
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=_CLOSING)
        for client in list(self._clients):
            client.abort()
        await asyncio.sleep(0)  # connections are lost in the loop's next turn
        if self._hangups is not None:
            self._hangups.close()

    def _client(self) -> Client:
        # The protocols take 60 ms to load: the first client waits for them, not every start.
        from runtime.streaming.client import Client

        assert self._hangups is not None
        return Client(
            self._answer,
            self._clients,
            self._config.stream_idle_timeout,
            self._metrics,
            self._hangups,
            self._sessions,
        )


def default_address() -> str:
    """The address that packets to other networks leave from; 127.0.0.1 where there is no route."""
    for family, elsewhere in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect((elsewhere, 9))  # of a datagram socket: only looks the route up
            except OSError:
                continue
            return str(probe.getsockname()[0])
    return "127.0.0.1"


def _explained(host: str, port: int, error: OSError) -> str:
    place = f"streaming.stream_server_address {host}, stream_server_port {port}"
    if error.errno == errno.EADDRINUSE:
        return (
            f"{place}: another process listens there; stop it, choose another port, or 0 for a "
            "free one"
        )
    reason = os.strerror(error.errno) if error.errno else str(error)
    return f"{place}: cannot listen there: {reason}; choose an address of this node"


def _in_url(host: str) -> str:
    try:
        return f"[{host}]" if ipaddress.ip_address(host).version == 6 else host
    except ValueError:
        return host
