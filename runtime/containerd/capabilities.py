"""What the daemon can do, as its introspection service tells; its version is never looked at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import grpc
from grpc import aio

from generated.containerd import introspection_pb2

AWAY: Final = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED})
"""The codes of a daemon that is not there, or does not answer."""

BUILTIN_CRI: Final = (
    "io.containerd.grpc.v1.cri",
    "io.containerd.cri.v1.images",
    "io.containerd.cri.v1.runtime",
)
"""The daemon's own CRI plugin; since 2.0 it has two parts that are switched off on their own."""
BUILTIN_CRI_OFF: Final = (
    "set disabled_plugins = ["
    + ", ".join(f'"{name}"' for name in BUILTIN_CRI)
    + "] in /etc/containerd/config.toml and restart containerd"
)
"""The remedy; containerd 1.x ignores the names that it does not know."""


@dataclass(frozen=True, slots=True)
class Snapshotter:
    """A snapshotter that the daemon has loaded."""

    name: str
    root: str
    """Its directory on the host, the ``fs_id`` of image and layer usage; "" when not told."""
    capabilities: frozenset[str]
    """E.g. ``remap-ids``: the snapshotter can shift owners for user namespaces."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What this daemon can do, as its introspection service tells."""

    snapshotters: Mapping[str, Snapshotter] = field(default_factory=dict)
    services: frozenset[str] = frozenset()
    """Ids of the loaded gRPC services, e.g. ``transfer`` (from 1.7 on)."""
    runtime_info: bool = False
    """Whether PluginInfo tells the features of a runtime (from 2.0 on)."""
    builtin_cri: bool = False
    """Whether the daemon's own CRI plugin runs: it would fight with us over ``k8s.io``."""
    builtin_cri_parts: bool = False
    """Whether parts of it run though it is off: they watch images and measure snapshots."""


async def probe(introspection: Any) -> Capabilities:
    """Ask the daemon through its introspection service. Raises AioRpcError."""
    answer = await introspection.Plugins(introspection_pb2.PluginsRequest())
    loaded = [plugin for plugin in answer.plugins if not plugin.HasField("init_err")]
    return Capabilities(
        snapshotters={
            plugin.id: Snapshotter(
                name=plugin.id,
                root=plugin.exports.get("root", ""),
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


async def _tells_runtime_info(introspection: Any) -> bool:
    """Whether PluginInfo is served; any other answer than UNIMPLEMENTED says that it is."""
    request = introspection_pb2.PluginInfoRequest(type="io.containerd.none", id="none")
    try:
        await introspection.PluginInfo(request)
    except aio.AioRpcError as error:
        if error.code() in AWAY:
            raise
        return error.code() is not grpc.StatusCode.UNIMPLEMENTED
    return True
