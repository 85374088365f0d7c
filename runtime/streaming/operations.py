"""Exec, Attach and PortForward: each returns a URL, which a client must use within one minute.

`Streaming` issues the URLs; `runtime.streaming.listener` accepts the clients, and
`runtime.streaming.sessions` serves them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from generated.cri import api_pb2
from generated.plans import AttachPlan, ExecPlan, PortForwardPlan
from generated.statuses import attach_response, exec_response, port_forward_response
from runtime import readings
from runtime.config.tables import Config
from runtime.store.objects import Container, Sandbox, Store
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

    async def exec(self, container: Container, plan: ExecPlan) -> api_pb2.ExecResponse:
        """Exec."""
        pending = Exec(container.id, tuple(plan.command), plan.streams)
        return exec_response.read(stream=self._stream(pending))

    async def attach(self, container: Container, plan: AttachPlan) -> api_pb2.AttachResponse:
        """Attach."""
        return attach_response.read(stream=self._stream(Attach(container.id, plan.streams)))

    async def port_forward(
        self, sandbox: Sandbox, plan: PortForwardPlan
    ) -> api_pb2.PortForwardResponse:
        """PortForward."""
        pending = PortForward(sandbox.id, tuple(plan.ports))
        return port_forward_response.read(stream=self._stream(pending))

    def _stream(self, pending: StreamRequest) -> readings.Stream:
        url = f"{self._listener.url}/{pending.kind}/{self._tokens.issue(pending)}"
        return readings.Stream(url)

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
