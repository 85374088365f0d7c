"""What events need of pods and containers: Protocols, which `runtime.sandboxes` and
`runtime.containers` satisfy."""

from __future__ import annotations

from typing import Protocol

from runtime.transforms import facts


class Sandboxes(Protocol):
    """`runtime.sandboxes.operations.Sandboxes`."""

    def reachable(self, sandbox: facts.Sandbox) -> facts.Sandbox:
        """The sandbox without addresses that it does not have any more."""


class Containers(Protocol):
    """`runtime.containers.operations.Containers`."""

    async def shown(self, container: facts.Container) -> facts.ShownContainer:
        """What the status of a container, as it was, shows. Raises Unavailable while containerd is
        away."""
