"""Exec, Attach and PortForward: each returns a URL, which a client must use within one minute.

`Streaming` issues the URLs; `runtime.streaming.listener` accepts the clients, and
`runtime.streaming.sessions` serves them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from generated.cri import api_pb2
from runtime.config.tables import Config
from runtime.errors import InvalidArgument
from runtime.store.objects import Container, Sandbox, Store
from runtime.streaming.channels import Streams
from runtime.streaming.listener import Listener
from runtime.streaming.metrics import Metrics
from runtime.streaming.requests import Attach, Exec, PortForward, StreamRequest
from runtime.streaming.services import Containers
from runtime.streaming.tokens import Tokens

if TYPE_CHECKING:
    from runtime.streaming.client import Client, StartedSession
    from runtime.streaming.http import Request, Upgrade


class Streaming:
    """Satisfies the generated ``StreamingOperations``."""

    def __init__(
        self, *, config: Config, store: Store, containers: Containers, metrics: Metrics
    ) -> None:
        self._config = config
        self._store = store
        self._containers = containers
        self._metrics = metrics
        self._tokens: Tokens[StreamRequest] = Tokens()
        self._listener = Listener(config.streaming, self._decide, metrics)

    async def start(self) -> None:
        """Listen; raises ConfigError with the remedy if that fails."""
        await self._listener.start()

    async def stop(self, grace: float) -> None:
        """Stop accepting clients; running sessions have ``grace`` seconds to end."""
        await self._listener.stop(grace)

    # The RPCs

    async def exec(
        self, container: Container, request: api_pb2.ExecRequest
    ) -> api_pb2.ExecResponse:
        """Exec."""
        streams = Streams(request.stdin, request.stdout, request.stderr, request.tty)
        _must_have_a_stream(streams)
        pending = Exec(container.id, tuple(request.cmd), streams)
        return api_pb2.ExecResponse(url=self._url(pending))

    async def attach(
        self, container: Container, request: api_pb2.AttachRequest
    ) -> api_pb2.AttachResponse:
        """Attach."""
        streams = Streams(request.stdin, request.stdout, request.stderr, request.tty)
        _must_have_a_stream(streams)
        return api_pb2.AttachResponse(url=self._url(Attach(container.id, streams)))

    async def port_forward(
        self, sandbox: Sandbox, request: api_pb2.PortForwardRequest
    ) -> api_pb2.PortForwardResponse:
        """PortForward."""
        for index, port in enumerate(request.port):
            if not 0 < port < 1 << 16:
                raise InvalidArgument(f"must be 1 to 65535, not {port}", field=f"port[{index}]")
        pending = PortForward(sandbox.id, tuple(request.port))
        return api_pb2.PortForwardResponse(url=self._url(pending))

    def _url(self, pending: StreamRequest) -> str:
        return f"{self._listener.url}/{pending.kind}/{self._tokens.issue(pending)}"

    def _decide(
        self, client: Client, request: Request
    ) -> tuple[Upgrade, Callable[[], StartedSession]]:
        # loaded with the first client, as in the listener
        from runtime.streaming.sessions import Sessions

        sessions = Sessions(
            config=self._config,
            store=self._store,
            containers=self._containers,
            metrics=self._metrics,
            tokens=self._tokens,
        )
        return sessions.decide(client, request)


def _must_have_a_stream(streams: Streams) -> None:
    if not (streams.stdin or streams.stdout or streams.stderr):
        raise InvalidArgument("one of stdin, stdout and stderr must be set", field="stdin")
