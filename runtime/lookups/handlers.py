"""The runtime handlers: what the configuration says of each, and what its binary can do."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Mapping
from typing import Any, Final

import msgspec
import structlog
from google.protobuf.any_pb2 import Any as AnyMessage
from grpc import aio

from generated.containerd import introspection_pb2, types_pb2
from runtime.config.file import Config, Runtime
from runtime.containerd.client import Containerd
from runtime.containerd.runtime_options import runc_binary, runc_options
from runtime.containerd.values import proto_any
from runtime.transforms.facts import Handler, Host

log = structlog.get_logger(__name__)

_RRO_SINCE: Final = (5, 12)
"""The kernel that first had recursive read-only mounts (mount_setattr)."""

_LIMIT: Final = 10.0
"""Seconds that a binary may take to tell its features."""


def configured(config: Config) -> dict[str, Handler]:
    """Every handler by name, and the default one also by ""; nothing asked of the binaries yet."""
    default = config.containerd.default_runtime_name
    handlers = {
        name: _handler(name, runtime, config.containerd.snapshotter)
        for name, runtime in config.containerd.runtimes.items()
    }
    return {"": handlers[default], **handlers}


async def with_features(
    handlers: Mapping[str, Handler], containerd: Containerd, host: Host
) -> dict[str, Handler]:
    """The same handlers with what their binaries can do; of one that cannot be asked, nothing."""
    names = sorted(name for name in handlers if name)
    asked = await asyncio.gather(*(_asked(handlers[name], containerd, host) for name in names))
    known = dict(zip(names, asked, strict=True))
    return {"": known[handlers[""].name], **known}


def _handler(name: str, runtime: Runtime, snapshotter: str) -> Handler:
    options = msgspec.to_builtins(runtime.options)
    defaults = msgspec.to_builtins(type(runtime.options)())
    return Handler(
        name=name,
        runtime_type=runtime.runtime_type,
        runtime_path=runtime.runtime_path,
        options={key: value for key, value in options.items() if value != defaults[key]},
        snapshotter=runtime.snapshotter or snapshotter,
        systemd_cgroup=runtime.options.SystemdCgroup,
        pod_annotations=runtime.pod_annotations,
        container_annotations=runtime.container_annotations,
        privileged_without_host_devices=runtime.privileged_without_host_devices,
        privileged_without_host_devices_all_devices_allowed=(
            runtime.privileged_without_host_devices_all_devices_allowed
        ),
        cgroup_writable=runtime.cgroup_writable,
    )


async def _asked(handler: Handler, containerd: Containerd, host: Host) -> Handler:
    try:
        features = await (
            _features_by_daemon(handler, containerd)
            if containerd.capabilities.runtime_info
            else _features_by_binary(handler)
        )
    except (OSError, ValueError, TimeoutError, aio.AioRpcError) as error:
        log.warning(
            "the runtime does not tell its features; none is offered",
            handler=handler.name,
            error=error.details() if isinstance(error, aio.AioRpcError) else str(error),
        )
        return handler
    return dataclasses.replace(
        handler,
        recursive_read_only="rro" in (features.get("mountOptions") or ())
        and host.kernel >= _RRO_SINCE,
    )


async def _features_by_daemon(handler: Handler, containerd: Containerd) -> Mapping[str, Any]:
    """``PluginInfo``: the shim asks the very binary that it will run."""
    request = types_pb2.RuntimeRequest(
        runtime_path=handler.runtime_path or handler.runtime_type,
        options=proto_any(runc_options(handler)),
    )
    answer = await containerd.introspection.PluginInfo(
        introspection_pb2.PluginInfoRequest(
            type="io.containerd.runtime.v2", id="task", options=proto_any(request)
        )
    )
    info = types_pb2.RuntimeInfo.FromString(answer.extra.value)
    features: AnyMessage = info.features
    return _object(features.value)


async def _features_by_binary(handler: Handler) -> Mapping[str, Any]:
    """``runc features``, for a daemon without PluginInfo."""
    binary = runc_binary(runc_options(handler))
    process = await asyncio.create_subprocess_exec(
        binary,
        "features",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(_LIMIT):
            out, err = await process.communicate()
    except TimeoutError:
        process.kill()
        raise
    if process.returncode:
        raise OSError(f"{binary} features: {err.decode(errors='replace').strip()}")
    return _object(out)


def _object(text: bytes) -> Mapping[str, Any]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError("the features are no JSON object")
    return value
