"""The RPCs about the node: Version, Status, RuntimeConfig, UpdateRuntimeConfig."""

from __future__ import annotations

import asyncio
import json
import platform
from importlib import metadata
from typing import Any, Protocol

from google.protobuf.empty_pb2 import Empty

from generated.cri import api_pb2
from generated.plans import NodeStatusPlan, UpdateRuntimeConfigPlan
from generated.statuses import runtime_config_response, status_response, version_response
from runtime import readings
from runtime.cni import template as cni_template
from runtime.cni.config import CniList
from runtime.config.tables import Config
from runtime.config.writer import shown
from runtime.containerd.client import Containerd, daemon_version
from runtime.errors import Unknown
from runtime.lookups.handlers import Handlers
from runtime.node import info
from runtime.steps import threads


class Network(Protocol):
    """What this module needs from runtime.cni.network.Network."""

    @property
    def networks(self) -> tuple[CniList, ...]: ...

    @property
    def handlers(self) -> tuple[str, ...]: ...

    def problem(self, handler: str = "") -> str | None: ...

    async def status(self) -> str | None: ...


class Node:
    """The node operations; satisfies the generated NodeOperations."""

    def __init__(
        self,
        *,
        containerd: Containerd,
        network: Network,
        handlers: Handlers,
        config: Config,
    ) -> None:
        self._containerd = containerd
        self._network = network
        self._handlers = handlers
        self._config = config

    async def version(self, request: api_pb2.VersionRequest) -> api_pb2.VersionResponse:
        """Name and version of the underlying daemon, which tools rely on."""
        versions = readings.Versions(await daemon_version(self._containerd))
        return version_response.read(versions=versions)

    async def status(self, plan: NodeStatusPlan) -> api_pb2.StatusResponse:
        """Conditions, handlers and features; ``verbose`` adds the configurations as JSON."""
        problem, deprecations = await asyncio.gather(self._network.status(), self._deprecations())
        node = readings.Node(
            conditions=(
                condition("RuntimeReady"),
                condition(
                    "NetworkReady",
                    reason="NetworkPluginNotReady",
                    problem=f"Network plugin returns error: {problem}" if problem else None,
                ),
                condition(
                    "ContainerdHasNoDeprecationWarnings",
                    reason="ContainerdHasDeprecationWarnings",
                    problem=json.dumps(deprecations) if deprecations else None,
                ),
            ),
            handlers=tuple(
                readings.HandlerStatus(name, handler.recursive_read_only, handler.user_namespaces)
                for name, handler in sorted(self._handlers.items())
            ),
            info=self._info(problem) if plan.verbose else {},
        )
        return status_response.read(
            node=node,
            server_features=readings.ServerFeatures(
                user_namespaces_host_network=self._handlers.user_namespaces_on_node_network
            ),
        )

    async def runtime_config(
        self, request: api_pb2.RuntimeConfigRequest
    ) -> api_pb2.RuntimeConfigResponse:
        """The cgroup driver of the default handler, which the kubelet must use too."""
        return runtime_config_response.read(handler=self._handlers.default)

    async def update_runtime_config(
        self, plan: UpdateRuntimeConfigPlan
    ) -> api_pb2.UpdateRuntimeConfigResponse:
        """Write the network configuration from the template, if there is one and it is needed.

        If the network is already ready, nothing is written: something else configures it.
        """
        template = self._config.cni.conf_template
        if plan.pod_cidrs and template and self._network.problem():
            try:
                await threads.CONFIGURATION.run(
                    cni_template.write, template, self._config.cni.conf_dir, plan.pod_cidrs
                )
            except (OSError, ValueError) as error:
                raise Unknown(f"cannot fill in the CNI template {template}: {error}") from error
        return api_pb2.UpdateRuntimeConfigResponse()

    async def _deprecations(self) -> dict[str, str]:
        """The deprecations in the daemon's own configuration, as it reports them; none before
        2.0."""
        answer = await self._containerd.introspection.Server(Empty())
        ignored = self._config.ignore_deprecation_warnings
        return {
            warning.id: warning.message
            for warning in answer.deprecations
            if warning.id not in ignored
        }

    def _info(self, network_problem: str | None) -> dict[str, str]:
        """The keys of the built-in plugin, with objects as JSON text, and two of this server."""
        objects: dict[str, Any] = {
            "config": info.builtin_config(self._config),
            "cniconfig": info.cni_config(self._config, self._network.networks),
            "server": {"name": "cri-containerd", "version": metadata.version("cri-containerd")},
            "serverConfig": shown(self._config),
        }
        return {
            **{key: json.dumps(value) for key, value in objects.items()},
            "golang": f"none: Python {platform.python_version()}",
            "lastCNILoadStatus": network_problem or "OK",
            "lastCNILoadStatus.default": network_problem or "OK",
            **{
                f"lastCNILoadStatus.{handler}": self._network.problem(handler) or "OK"
                for handler in self._network.handlers
            },
        }


def condition(kind: str, *, reason: str = "", problem: str | None = None) -> readings.Condition:
    """A condition that is true unless there is a problem, which is its reason."""
    if not problem:
        return readings.Condition(kind)
    return readings.Condition(kind, status=False, reason=reason, message=problem)
