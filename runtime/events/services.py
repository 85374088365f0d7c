"""What events need from pods and containers, as Protocols that `runtime.sandboxes` and
`runtime.containers` implement."""

from __future__ import annotations

from typing import Protocol

from runtime.transforms import facts


class Sandboxes(Protocol):
    """`runtime.sandboxes.operations.Sandboxes`."""

    def reachable(self, sandbox: facts.Sandbox) -> facts.Sandbox:
        """The sandbox, without addresses that it no longer has."""


class Containers(Protocol):
    """`runtime.containers.operations.Containers`."""

    async def shown(self, container: facts.Container) -> facts.ShownContainer:
        """The data for the status of a container as it was. Raises Unavailable while containerd is
        down."""
