"""What a client of a URL gets: the upgrade of its connection, and the work that begins after it."""

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
from runtime.streaming.asked import Asked, Attach, Exec, PortForward
from runtime.streaming.channels import CommandSession, Gone, PortSession, Wanted
from runtime.streaming.client import Begun, Client, Session
from runtime.streaming.http import TUNNEL, Refusal, Request, Upgrade, accepted
from runtime.streaming.metrics import Metrics
from runtime.streaming.outcome import Failed
from runtime.streaming.services import Containers
from runtime.streaming.spdy_link import SpdyCommand, SpdyLink, SpdyPorts, StreamsMissing
from runtime.streaming.tokens import Tokens
from runtime.streaming.websocket_link import (
    Tunnel,
    WebSocketCommand,
    WebSocketLink,
    WebSocketPorts,
)

log = structlog.get_logger(__name__)

_MAX_WEBSOCKET_PORTS: Final = {False: 127, True: 5}
"""Ports whose channel numbers fit: one byte, or (base64 forms) one digit, for two channels each."""


class Sessions:
    """Serves the clients of URLs that `runtime.streaming.operations` issued."""

    def __init__(
        self,
        *,
        config: Config,
        store: Store,
        containers: Containers,
        metrics: Metrics,
        tokens: Tokens[Asked],
    ) -> None:
        self._config = config
        self._store = store
        self._containers = containers
        self._metrics = metrics
        self._tokens = tokens

    def answer(self, client: Client, request: Request) -> tuple[Upgrade, Callable[[], Begun]]:
        """What a request gets: an upgrade, and what begins after it. Raises Refusal."""
        kind, _, token = request.path.removeprefix("/").partition("/")
        asked = self._tokens.look(token)
        if asked is None or asked.kind != kind:
            raise Refusal(
                HTTPStatus.NOT_FOUND,
                "there is no such URL: each serves one client, within one minute",
            )
        upgrade = accepted(request, asked.kind)
        if isinstance(asked, PortForward) and upgrade.protocol != TUNNEL:
            most = _MAX_WEBSOCKET_PORTS["base64" in upgrade.protocol]
            if upgrade.transport == "websocket" and not 0 < len(asked.ports) <= most:
                raise Refusal(
                    HTTPStatus.BAD_REQUEST,
                    f"this subprotocol needs the ports in the PortForward call, at most {most}; "
                    f"{TUNNEL} needs none",
                )
        # A client whose upgrade was refused may try another with the same URL.
        self._tokens.take(token)
        return upgrade, lambda: self._begun(client, asked, upgrade)

    def _begun(self, client: Client, asked: Asked, upgrade: Upgrade) -> Begun:
        session: Session
        if isinstance(asked, PortForward):
            session, ports = _port_session(client, upgrade, asked.ports)
            work = self._forward(asked, ports)
        else:
            session, opening = _command_session(client, upgrade, asked.wanted)
            work = self._command(asked, opening)
        return session, self._observed(asked.kind, upgrade.transport, client, work)

    async def _observed(
        self, kind: str, transport: str, client: Client, work: Awaitable[None]
    ) -> None:
        """Serve one client; whatever comes of it, it costs this client only."""
        began = time.monotonic()
        self._metrics.stream_began(kind, transport)
        try:
            await work
        except StreamsMissing as error:
            client.report(str(error))
        except Exception as error:
            log.error("a stream failed inside the server", kind=kind, exc_info=error)
            client.report(f"failed inside the server: {error!r}")
        finally:
            self._metrics.stream_ended(kind, transport, time.monotonic() - began)
            client.close()

    async def _command(self, asked: Exec | Attach, opening: Awaitable[CommandSession]) -> None:
        session = await opening
        container = self._store.containers.get(asked.container_id)
        if container is None or container.state is not ContainerState.RUNNING:
            state = "gone" if container is None else container.state.name
            await session.end(Failed(f"container {asked.container_id} is {state}"))
        elif isinstance(asked, Exec):
            await exec.serve(
                session,
                self._containers,
                container,
                list(asked.cmd),
                asked.wanted,
                self._config.drain_exec_sync_io_timeout,
            )
        else:
            await attach.serve(session, self._containers.attachment(container), asked.wanted)

    async def _forward(self, asked: PortForward, session: PortSession) -> None:
        sandbox = self._store.sandboxes.get(asked.sandbox_id)
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
    client: Client, upgrade: Upgrade, wanted: Wanted
) -> tuple[Session, Awaitable[CommandSession]]:
    """The receiver of the client's bytes, and its channels once they are open."""
    if upgrade.transport == "spdy":
        link = SpdyLink(client)
        # the streams' headers may come with the next read, so what they are for is known now
        return link, SpdyCommand.expected(link, upgrade.protocol, wanted)
    socket = WebSocketLink(client, upgrade.protocol, WebSocketCommand.names(wanted))
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
