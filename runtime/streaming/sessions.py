"""Serves the client of a streaming URL: upgrades its connection, then runs its session."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Final

import structlog

from generated.lifecycle import ContainerState, SandboxState
from runtime.config.tables import Config
from runtime.store.objects import Store
from runtime.streaming import attach, exec, port_forward
from runtime.streaming.channels import CommandSession, Gone, PortSession
from runtime.streaming.client import Client, Session, StartedSession
from runtime.streaming.http import TUNNEL, Refusal, Request, Upgrade, accepted
from runtime.streaming.metrics import Metrics
from runtime.streaming.outcome import Failed
from runtime.streaming.requests import Attach, Exec, PortForward, StreamRequest
from runtime.streaming.services import Containers
from runtime.streaming.spdy_link import SpdyCommand, SpdyLink, SpdyPorts, StreamsMissing
from runtime.streaming.tokens import Tokens
from runtime.streaming.websocket_link import (
    Tunnel,
    WebSocketCommand,
    WebSocketLink,
    WebSocketPorts,
)
from runtime.transforms.facts import Streams

log = structlog.get_logger(__name__)

_MAX_WEBSOCKET_PORTS: Final = {False: 127, True: 5}
"""The most ports whose channel numbers fit: two channels per port, and a number is one byte or, in
the base64 protocols, one digit."""


class Sessions:
    """Serves the clients of URLs that `runtime.streaming.operations` issued."""

    def __init__(
        self,
        *,
        config: Config,
        store: Store,
        containers: Containers,
        metrics: Metrics,
        tokens: Tokens[StreamRequest],
    ) -> None:
        self._config = config
        self._store = store
        self._containers = containers
        self._metrics = metrics
        self._tokens = tokens

    def decide(
        self, client: Client, request: Request
    ) -> tuple[Upgrade, Callable[[], StartedSession]]:
        """The response to a request: an upgrade, and a function that starts the session. Raises
        Refusal."""
        kind, _, token = request.path.removeprefix("/").partition("/")
        pending = self._tokens.look(token)
        if pending is None or pending.kind != kind:
            raise Refusal(
                HTTPStatus.NOT_FOUND,
                "unknown URL: each one is valid for one client and one minute",
            )
        upgrade = accepted(request, pending.kind)
        if isinstance(pending, PortForward) and upgrade.protocol != TUNNEL:
            most = _MAX_WEBSOCKET_PORTS["base64" in upgrade.protocol]
            if upgrade.transport == "websocket" and not 0 < len(pending.ports) <= most:
                raise Refusal(
                    HTTPStatus.BAD_REQUEST,
                    f"this subprotocol needs the ports in the PortForward call, at most {most}; "
                    f"{TUNNEL} needs none",
                )
        # A client whose upgrade was refused may try another protocol with the same URL.
        self._tokens.take(token)
        return upgrade, lambda: self._start(client, pending, upgrade)

    def _start(self, client: Client, pending: StreamRequest, upgrade: Upgrade) -> StartedSession:
        session: Session
        if isinstance(pending, PortForward):
            session, ports = _port_session(client, upgrade, pending.ports)
            work = self._forward(pending, ports)
        else:
            session, opening = _command_session(client, upgrade, pending.streams)
            work = self._command(pending, opening)
        return session, self._observed(pending.kind, upgrade.transport, client, work)

    async def _observed(
        self, kind: str, transport: str, client: Client, work: Awaitable[None]
    ) -> None:
        """Serve one client; any failure affects this client only."""
        began = time.monotonic()
        self._metrics.stream_began(kind, transport)
        try:
            await work
        except StreamsMissing as error:
            client.report(str(error))
        except Exception as error:
            log.error("streaming session failed with an internal error", kind=kind, exc_info=error)
            client.report(f"internal error: {error!r}")
        finally:
            self._metrics.stream_ended(kind, transport, time.monotonic() - began)
            client.close()

    async def _command(self, pending: Exec | Attach, opening: Awaitable[CommandSession]) -> None:
        container = self._store.containers.get(pending.container_id)
        if container is None or container.state is not ContainerState.RUNNING:
            state = "gone" if container is None else container.state.name
            session = await opening
            await session.end(Failed(f"container {pending.container_id} is {state}"))
        elif isinstance(pending, Exec):
            await exec.serve(
                opening,
                self._containers,
                container,
                list(pending.cmd),
                pending.streams,
                self._config.drain_exec_sync_io_timeout,
            )
        else:
            await attach.serve(
                await opening, self._containers.attachment(container), pending.streams
            )

    async def _forward(self, pending: PortForward, session: PortSession) -> None:
        sandbox = self._store.sandboxes.get(pending.sandbox_id)
        if sandbox is None or sandbox.state is not SandboxState.READY:
            await session.end()
            return
        serving = asyncio.create_task(port_forward.serve(session, sandbox.metadata.netns_path))
        stopped = asyncio.create_task(_set(sandbox.exited))
        try:
            await asyncio.wait({serving, stopped}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (stopped, serving):
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Gone):
                await serving


async def _set(event: asyncio.Event) -> None:
    await event.wait()


def _command_session(
    client: Client, upgrade: Upgrade, streams: Streams
) -> tuple[Session, Awaitable[CommandSession]]:
    """The receiver of the client's bytes, and the channels once they are open."""
    if upgrade.transport == "spdy":
        link = SpdyLink(client)
        # the streams' headers may arrive with the next read, so declare the expected streams now
        return link, SpdyCommand.expected(link, upgrade.protocol, streams)
    socket = WebSocketLink(client, upgrade.protocol, WebSocketCommand.names(streams))
    return socket, _at_once(WebSocketCommand(socket, upgrade.protocol))


def _port_session(
    client: Client, upgrade: Upgrade, ports: tuple[int, ...]
) -> tuple[Session, PortSession]:
    if upgrade.transport == "spdy":
        link = SpdyLink(client)
        return link, SpdyPorts(link)
    if upgrade.protocol == TUNNEL:
        tunnel = Tunnel(client)
        link = SpdyLink(tunnel)
        tunnel.carried = link.receive
        tunnel.on_lost = link.lost
        return tunnel, SpdyPorts(link)
    socket = WebSocketLink(client, upgrade.protocol, WebSocketPorts.names(ports))
    return socket, WebSocketPorts(socket, ports)


async def _at_once(session: CommandSession) -> CommandSession:
    return session
