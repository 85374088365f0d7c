"""What statistics need from containers and images, as Protocols that `runtime.containers` and
`runtime.images` implement."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from generated.oci import types
from runtime.readings import LayerUsage

if TYPE_CHECKING:
    from runtime.store.objects import Container


class Images(Protocol):
    """`runtime.images.operations.Images`."""

    def layer_usage(self, snapshotter: str, key: str) -> LayerUsage | None:
        """The size of a writable layer as last measured; None if not measured yet."""

    async def measure_layer(self, snapshotter: str, key: str) -> None:
        """Measure it now; ignores failures."""


class Containers(Protocol):
    """`runtime.containers.operations.Containers`."""

    async def spec(self, container: Container) -> types.Spec:
        """User and resources in its OCI spec. Raises CriError if containerd does not return
        them."""
