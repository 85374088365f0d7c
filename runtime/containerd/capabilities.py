"""What the daemon supports, from its introspection service; version strings are never compared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import grpc
from grpc import aio

from generated.containerd import introspection_pb2

AWAY: Final = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED})
"""The codes returned when the daemon is down or does not respond."""

BUILTIN_CRI: Final = (
    "io.containerd.grpc.v1.cri",
    "io.containerd.cri.v1.images",
    "io.containerd.cri.v1.runtime",
)
"""The daemon's own CRI plugin; since 2.0 it has two more parts that are disabled separately."""
BUILTIN_CRI_OFF: Final = (
    "set disabled_plugins = ["
    + ", ".join(f'"{name}"' for name in BUILTIN_CRI)
    + "] in /etc/containerd/config.toml and restart containerd"
)
"""The remedy; containerd 1.x ignores plugin names it does not know."""


_DEFAULT_ROOT: Final = "/var/lib/containerd"


@dataclass(frozen=True, slots=True)
class Snapshotter:
    """A loaded snapshotter of the daemon."""

    name: str
    root: str
    """Its directory on the host, the ``fs_id`` of image and layer usage: as reported, or else the
    default place for plugin data."""
    capabilities: frozenset[str]
    """E.g. ``remap-ids``: the snapshotter can remap owners for user namespaces."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What this daemon supports, from its introspection service."""

    snapshotters: Mapping[str, Snapshotter] = field(default_factory=dict)
    services: frozenset[str] = frozenset()
    """IDs of the loaded gRPC services, e.g. ``transfer`` (since 1.7)."""
    runtime_info: bool = False
    """Whether PluginInfo reports a runtime's features (since 2.0)."""
    builtin_cri: bool = False
    """Whether the daemon's own CRI plugin is enabled: it would conflict with us in ``k8s.io``."""
    builtin_cri_parts: bool = False
    """Whether parts of it run although it is disabled: they watch images and measure snapshots."""


async def probe(introspection: Any) -> Capabilities:
    """Query the daemon's introspection service. Raises AioRpcError."""
    answer = await introspection.Plugins(introspection_pb2.PluginsRequest())
    loaded = [plugin for plugin in answer.plugins if not plugin.HasField("init_err")]
    root = _daemon_root(loaded)
    return Capabilities(
        snapshotters={
            plugin.id: Snapshotter(
                name=plugin.id,
                root=plugin.exports.get("root") or f"{root}/{plugin.type}.{plugin.id}",
                capabilities=frozenset(plugin.capabilities),
            )
            for plugin in loaded
            if plugin.type == "io.containerd.snapshotter.v1"
        },
        services=frozenset(
            plugin.id for plugin in loaded if plugin.type == "io.containerd.grpc.v1"
        ),
        runtime_info=await _tells_runtime_info(introspection),
        builtin_cri=any(
            plugin.type == "io.containerd.grpc.v1" and plugin.id == "cri" for plugin in loaded
        ),
        builtin_cri_parts=any(plugin.type == "io.containerd.cri.v1" for plugin in loaded),
    )


def _daemon_root(plugins: Iterable[introspection_pb2.Plugin]) -> str:
    """The daemon's root directory, which holds a directory for each plugin, named by type and id.
    Derived from any plugin that reports its directory, or else containerd's default."""
    for plugin in plugins:
        root, found, rest = plugin.exports.get("root", "").rpartition(f"/{plugin.type}.{plugin.id}")
        if found and not rest and root:
            return root
    return _DEFAULT_ROOT


async def _tells_runtime_info(introspection: Any) -> bool:
    """Whether PluginInfo is implemented: true unless the call fails with UNIMPLEMENTED."""
    request = introspection_pb2.PluginInfoRequest(type="io.containerd.none", id="none")
    try:
        await introspection.PluginInfo(request)
    except aio.AioRpcError as error:
        if error.code() in AWAY:
            raise
        return error.code() is not grpc.StatusCode.UNIMPLEMENTED
    return True
