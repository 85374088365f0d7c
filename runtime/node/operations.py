"""The calls that speak of the node itself: Version, Status, RuntimeConfig, UpdateRuntimeConfig."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import platform
from importlib import metadata
from typing import Any, Final, Protocol

from google.protobuf.empty_pb2 import Empty

from generated.cri import api_pb2
from runtime.cni import template as cni_template
from runtime.cni.config import CniList
from runtime.config.tables import Config
from runtime.config.writer import as_builtins
from runtime.containerd.client import Containerd, daemon_version
from runtime.errors import InvalidArgument, Unknown
from runtime.lookups.handlers import Handlers
from runtime.node import info
from runtime.steps import threads
from runtime.transforms.facts import Handler

_KUBELET_API: Final = "0.1.0"
"""The version of the kubelet's runtime interface, the same since there is a CRI."""


class Network(Protocol):
    """What this module needs of runtime.cni.network.Network."""

    @property
    def networks(self) -> tuple[CniList, ...]: ...

    def problem(self) -> str | None: ...

    async def status(self) -> str | None: ...


class Node:
    """Answers for the node; satisfies the generated NodeOperations."""

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
        """Name and version of the daemon that runs the containers, which tools key on."""
        return api_pb2.VersionResponse(
            version=_KUBELET_API,
            runtime_name="containerd",
            runtime_version=await daemon_version(self._containerd),
            runtime_api_version="v1",
        )

    async def status(self, request: api_pb2.StatusRequest) -> api_pb2.StatusResponse:
        """Conditions, handlers and features; ``verbose`` adds the configurations as JSON."""
        problem, deprecations = await asyncio.gather(self._network.status(), self._deprecations())
        return api_pb2.StatusResponse(
            status=api_pb2.RuntimeStatus(
                conditions=[
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
                ]
            ),
            info=self._info(problem) if request.verbose else {},
            runtime_handlers=[
                runtime_handler(name, handler) for name, handler in sorted(self._handlers.items())
            ],
            features=runtime_features(),
        )

    async def runtime_config(
        self, request: api_pb2.RuntimeConfigRequest
    ) -> api_pb2.RuntimeConfigResponse:
        """The cgroup driver of the default handler, which the kubelet must share."""
        driver = api_pb2.SYSTEMD if self._handlers.default.systemd_cgroup else api_pb2.CGROUPFS
        return api_pb2.RuntimeConfigResponse(
            linux=api_pb2.LinuxRuntimeConfiguration(cgroup_driver=driver)
        )

    async def update_runtime_config(
        self, request: api_pb2.UpdateRuntimeConfigRequest
    ) -> api_pb2.UpdateRuntimeConfigResponse:
        """Write the network configuration from the template, when there is one and it is needed.

        A node whose network is ready keeps what it has: somebody else takes care of it.
        """
        pod_cidrs = _pod_cidrs(request.runtime_config.network_config.pod_cidr)
        template = self._config.cni.conf_template
        if pod_cidrs and template and self._network.problem():
            try:
                await threads.CONFIGURATION.run(
                    cni_template.write, template, self._config.cni.conf_dir, pod_cidrs
                )
            except (OSError, ValueError) as error:
                raise Unknown(f"cannot fill in the CNI template {template}: {error}") from error
        return api_pb2.UpdateRuntimeConfigResponse()

    async def _deprecations(self) -> dict[str, str]:
        """What the daemon says is outdated in its own configuration; none before 2.0."""
        answer = await self._containerd.introspection.Server(Empty())
        return {warning.id: warning.message for warning in answer.deprecations}

    def _info(self, network_problem: str | None) -> dict[str, str]:
        """The keys of the built-in plugin, objects as JSON text, and two of this server."""
        objects: dict[str, Any] = {
            "config": info.builtin_config(self._config),
            "cniconfig": info.cni_config(self._config, self._network.networks),
            "server": {"name": "cri-containerd", "version": metadata.version("cri-containerd")},
            "serverConfig": as_builtins(self._config),
        }
        return {
            **{key: json.dumps(value) for key, value in objects.items()},
            "golang": f"none: Python {platform.python_version()}",
            "lastCNILoadStatus": network_problem or "OK",
            "lastCNILoadStatus.default": network_problem or "OK",
        }


def _pod_cidrs(text: str) -> list[str]:
    """The pod CIDRs of a comma list, with or without spaces; raises InvalidArgument."""
    cidrs = [cidr.strip() for cidr in text.split(",")] if text.strip() else []
    for cidr in cidrs:
        try:
            ipaddress.ip_network(cidr, strict=False)
        except ValueError as error:
            raise InvalidArgument(
                f"{cidr!r} is not a CIDR such as 10.244.1.0/24: {error}",
                field="runtime_config.network_config.pod_cidr",
            ) from error
        if "/" not in cidr:
            raise InvalidArgument(
                f"{cidr!r} has no prefix length, as 10.244.1.0/24 has",
                field="runtime_config.network_config.pod_cidr",
            )
    return cidrs


def condition(
    kind: str, *, reason: str = "", problem: str | None = None
) -> api_pb2.RuntimeCondition:
    """A condition that is true unless there is a problem, which then says why."""
    return api_pb2.RuntimeCondition(
        type=kind,
        status=not problem,
        reason=reason if problem else "",
        message=problem or "",
    )


def runtime_handler(name: str, handler: Handler) -> api_pb2.RuntimeHandler:
    """What the kubelet may ask of a handler; "" is the default one."""
    return api_pb2.RuntimeHandler(
        name=name,
        features=api_pb2.RuntimeHandlerFeatures(
            recursive_read_only_mounts=handler.recursive_read_only,
            user_namespaces=handler.user_namespaces,
        ),
    )


def runtime_features() -> api_pb2.RuntimeFeatures:
    """What this server does whichever the handler."""
    return api_pb2.RuntimeFeatures(
        supplemental_groups_policy=True,
        # Becomes true together with user namespaces of any handler.
        user_namespaces_host_network=False,
    )
