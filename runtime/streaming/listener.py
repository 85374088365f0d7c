"""The listener for exec, attach and port-forward: address, TLS, shutdown."""

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
    from runtime.streaming.client import Client, Decide

log = structlog.get_logger(__name__)

_BACKLOG: Final = 512
_HANDSHAKE_LIMIT: Final = 10.0
"""Seconds that a client has for its TLS handshake, before those for its request."""
_CLOSING: Final = 2.0
"""Seconds for the final messages to clients when the grace period is over."""


class Listener:
    """Accepts clients until it is stopped."""

    def __init__(self, config: StreamingTable, decide: Decide, metrics: Metrics) -> None:
        self._config = config
        self._decide = decide
        self._metrics = metrics
        self._clients: set[Client] = set()
        self._server: asyncio.Server | None = None
        self._hangups: Hangups | None = None
        self._sessions: set[asyncio.Task[None]] = set()
        """The sessions of all clients, including those that have disconnected."""
        self.url = ""
        """The base URL for clients, without a trailing slash."""

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
                ssl_handshake_timeout=_HANDSHAKE_LIMIT if context else None,
                backlog=_BACKLOG,
                reuse_address=True,
            )
        except OSError as error:
            raise ConfigError(_explained(host, config.stream_server_port, error)) from error
        port = self._server.sockets[0].getsockname()[1]
        self.url = f"{'https' if context else 'http'}://{_in_url(host)}:{port}"
        log.info("streaming", url=self.url)

    async def stop(self, grace: float) -> None:
        """Stop accepting. Sessions have ``grace`` seconds to end, then they are closed with a
        message.

        Sessions of disconnected clients are not waited for; their commands continue to run.
        """
        server, self._server = self._server, None
        if server is None:
            return
        server.close()
        connected = {task for client in self._clients if (task := client.serving)}
        if connected:
            log.info(
                "waiting for streaming sessions to end",
                sessions=len(connected),
                within=f"{grace:.0f} s",
            )
            await asyncio.wait(connected, timeout=grace)
        left = set(self._sessions)
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=_CLOSING)
        for client in list(self._clients):
            client.abort()
        await asyncio.sleep(0)  # connection_lost runs in the loop's next iteration
        if self._hangups is not None:
            self._hangups.close()

    def _client(self) -> Client:
        # The protocols take 60 ms to load: delay the first client, not every start of the server.
        from runtime.streaming.client import Client

        assert self._hangups is not None
        return Client(
            self._decide,
            self._clients,
            self._config.stream_idle_timeout,
            self._metrics,
            self._hangups,
            self._sessions,
        )


def default_address() -> str:
    """The source address for packets to other networks; 127.0.0.1 if there is no route."""
    for family, elsewhere in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect((elsewhere, 9))  # a datagram socket: only looks up the route
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
