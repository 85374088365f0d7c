"""What the daemon can do, as its introspection service tells; its version is never looked at."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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


_DEFAULT_ROOT: Final = "/var/lib/containerd"


@dataclass(frozen=True, slots=True)
class Snapshotter:
    """A snapshotter that the daemon has loaded."""

    name: str
    root: str
    """Its directory on the host, the ``fs_id`` of image and layer usage: as it tells, or else where
    plugins of the daemon have theirs."""
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
    """The daemon's own directory, below which every plugin has one named by its type and id: as
    told by any plugin that says where its directory is, or else containerd's default."""
    for plugin in plugins:
        root, found, rest = plugin.exports.get("root", "").rpartition(f"/{plugin.type}.{plugin.id}")
        if found and not rest and root:
            return root
    return _DEFAULT_ROOT


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
