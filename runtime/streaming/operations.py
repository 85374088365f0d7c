"""Exec, Attach and PortForward: each answers a URL, which a client then has one minute to use.

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
from runtime.streaming.asked import Asked, Attach, Exec, PortForward
from runtime.streaming.channels import Wanted
from runtime.streaming.listener import Listener
from runtime.streaming.metrics import Metrics
from runtime.streaming.services import Containers
from runtime.streaming.tokens import Tokens

if TYPE_CHECKING:
    from runtime.streaming.client import Begun, Client
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
        self._tokens: Tokens[Asked] = Tokens()
        self._listener = Listener(config.streaming, self._answer, metrics)

    async def start(self) -> None:
        """Listen; raises ConfigError with the remedy when that cannot be."""
        await self._listener.start()

    async def stop(self, grace: float) -> None:
        """Take no more clients; those that are served have ``grace`` seconds to end."""
        await self._listener.stop(grace)

    # The RPCs

    async def exec(
        self, container: Container, request: api_pb2.ExecRequest
    ) -> api_pb2.ExecResponse:
        """Exec."""
        wanted = Wanted(request.stdin, request.stdout, request.stderr, request.tty)
        _must_have_a_stream(wanted)
        asked = Exec(container.id, tuple(request.cmd), wanted)
        return api_pb2.ExecResponse(url=self._url(asked))

    async def attach(
        self, container: Container, request: api_pb2.AttachRequest
    ) -> api_pb2.AttachResponse:
        """Attach."""
        wanted = Wanted(request.stdin, request.stdout, request.stderr, request.tty)
        _must_have_a_stream(wanted)
        return api_pb2.AttachResponse(url=self._url(Attach(container.id, wanted)))

    async def port_forward(
        self, sandbox: Sandbox, request: api_pb2.PortForwardRequest
    ) -> api_pb2.PortForwardResponse:
        """PortForward."""
        for index, port in enumerate(request.port):
            if not 0 < port < 1 << 16:
                raise InvalidArgument(f"must be 1 to 65535, not {port}", field=f"port[{index}]")
        asked = PortForward(sandbox.id, tuple(request.port))
        return api_pb2.PortForwardResponse(url=self._url(asked))

    def _url(self, asked: Asked) -> str:
        return f"{self._listener.url}/{asked.kind}/{self._tokens.issue(asked)}"

    def _answer(self, client: Client, request: Request) -> tuple[Upgrade, Callable[[], Begun]]:
        # with the first client, as in the listener
        from runtime.streaming.sessions import Sessions

        sessions = Sessions(
            config=self._config,
            store=self._store,
            containers=self._containers,
            metrics=self._metrics,
            tokens=self._tokens,
        )
        return sessions.answer(client, request)


def _must_have_a_stream(wanted: Wanted) -> None:
    if not (wanted.stdin or wanted.stdout or wanted.stderr):
        raise InvalidArgument("one of stdin, stdout and stderr must be set", field="stdin")
