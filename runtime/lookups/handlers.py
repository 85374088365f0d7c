"""The runtime handlers: their configuration, and the features of their binaries."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec
import structlog
from google.protobuf.any_pb2 import Any as AnyMessage
from grpc import aio

from generated.containerd import introspection_pb2, types_pb2
from generated.oci import types
from runtime import regular_files, text
from runtime.config.tables import Config, ConfigError, RuncOptions, Runtime
from runtime.containerd.capabilities import Snapshotter
from runtime.containerd.client import Containerd
from runtime.containerd.runtime_options import is_runc, runc_binary, runc_options, shim_options
from runtime.containerd.values import proto_any
from runtime.documents import convert
from runtime.errors import InvalidArgument
from runtime.lookups import user_namespaces
from runtime.steps import threads
from runtime.transforms import base_spec
from runtime.transforms.facts import BaseSpec, Handler, Host

log = structlog.get_logger(__name__)

_RRO_SINCE: Final = (5, 12)
"""The first kernel version with recursive read-only mounts (mount_setattr)."""

_OLDEST_OCI: Final = "1.0.2"
"""The OCI spec's version for runtimes that do not report which they support, such as crun 1.8,
which refuses every later one. A spec has nothing by default that needs a later one."""

_LIMIT: Final = 10.0
"""Time limit for querying the features of a binary, in seconds."""


class Handlers(Mapping[str, Handler]):
    """The configured runtime handlers by name; the empty name is the default one."""

    def __init__(self, default: Handler, *others: Handler) -> None:
        self._by_name = {"": default, **{h.name: h for h in (default, *others)}}

    def __getitem__(self, name: str) -> Handler:
        return self._by_name[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def __len__(self) -> int:
        return len(self._by_name)

    @property
    def default(self) -> Handler:
        """The handler of pods without a handler name."""
        return self._by_name[""]

    def named(self, name: str, *, field: str) -> Handler:
        """The handler that a request names in ``field``.

        Raises InvalidArgument, which lists the configured handlers, if there is no such handler.
        """
        handler = self._by_name.get(name)
        if handler is None:
            known = ", ".join(sorted(filter(None, self._by_name)))
            raise InvalidArgument(
                f'no runtime handler "{name}" is configured; use one of: {known}', field=field
            )
        return handler

    def snapshotter(self, name: str, recorded: str) -> str:
        """The snapshotter of a pod or container whose pod has this handler: the ``recorded`` one,
        because the configuration may have changed.

        Without it, the one that the handler has now; the default one if the handler is no longer
        configured.
        """
        return recorded or self._by_name.get(name, self.default).snapshotter

    @property
    def user_namespaces_on_node_network(self) -> bool:
        """Whether a pod of some handler can have a user namespace on the node's network.

        Its root cannot mount a sysfs, so it sees the node's, recursively read-only.
        """
        return any(
            handler.user_namespaces and handler.recursive_read_only
            for handler in self._by_name.values()
        )

    def must_have_snapshotters(self, containerd: Containerd) -> None:
        """Raise ConfigError for a handler whose snapshotter containerd has not loaded."""
        known = containerd.capabilities.snapshotters
        for handler in self.values():
            if handler.snapshotter not in known:
                raise ConfigError(
                    f"snapshotter {handler.snapshotter!r} of runtime handler {handler.name!r}: "
                    f"containerd at {containerd.address} has not loaded it (`ctr plugins ls` says "
                    f"why); loaded: {', '.join(sorted(known)) or 'none'}"
                )

    async def learn_features(self, containerd: Containerd, host: Host) -> None:
        """Query the features of every handler's binary; none are assumed if the query fails."""
        names = sorted(filter(None, self._by_name))
        handlers = [self._by_name[name] for name in names]
        asked = await asyncio.gather(*(_asked(handler, containerd) for handler in handlers))
        snapshotters = containerd.capabilities.snapshotters
        found = user_namespaces.Kernel()
        if any(user_namespaces.lists_idmapped_mounts(features or {}) for features in asked):
            roots = {s.root for h in handlers if (s := snapshotters.get(h.snapshotter))}
            found = await threads.NETWORK_NAMESPACES.run(user_namespaces.probe, sorted(roots))
        for handler, features in zip(handlers, asked, strict=True):
            self._by_name[handler.name] = (
                _with_features(
                    handler, features, host, found, snapshotters.get(handler.snapshotter)
                )
                if features is not None
                else dataclasses.replace(handler, oci_version=_OLDEST_OCI)
            )
        self._by_name[""] = self._by_name[self.default.name]


def configured(config: Config) -> Handlers:
    """Every configured handler, without querying the binaries.

    Raises ConfigError for a ``base_runtime_spec`` that cannot be used.
    """
    handlers = {
        name: _handler(name, runtime, _snapshotter(config, name))
        for name, runtime in config.containerd.runtimes.items()
    }
    return Handlers(handlers.pop(config.containerd.default_runtime_name), *handlers.values())


def _base(name: str, path: str) -> BaseSpec:
    """What containers of a handler start from; raises ConfigError for a file that is no OCI
    spec."""
    if not path:
        return BaseSpec()
    key = f"containerd.runtimes.{name}.base_runtime_spec"
    try:
        document = json.loads(regular_files.read(path))
        convert(document, types.Spec)  # are the types right
        spec = types.Spec.from_json(document)
    except OSError as error:
        raise ConfigError(f"{key}: {path}: {error.strerror}") from error
    except (ValueError, RecursionError, TypeError, AttributeError) as error:
        reason = text.one_line(str(error), 200)
        raise ConfigError(
            f"{key}: {path} is no OCI spec: {reason}; `ctr oci spec` prints one"
        ) from error
    return base_spec.prepared(spec)


def _snapshotter(config: Config, name: str) -> str:
    platform = config.images.runtime_platforms.get(name)
    of_pulls = platform.snapshotter if platform is not None else ""
    return config.containerd.runtimes[name].snapshotter or of_pulls or config.containerd.snapshotter


def _handler(name: str, runtime: Runtime, snapshotter: str) -> Handler:
    options = dict(runtime.options)
    if runtime.is_runc:
        defaults = msgspec.to_builtins(RuncOptions())
        given = msgspec.to_builtins(runtime.runc)
        options = {key: value for key, value in given.items() if value != defaults[key]}
    return Handler(
        name=name,
        runtime_type=runtime.runtime_type,
        runtime_path=runtime.runtime_path,
        options=options,
        snapshotter=snapshotter,
        systemd_cgroup=options.get("SystemdCgroup") is True,
        pod_annotations=runtime.pod_annotations,
        container_annotations=runtime.container_annotations,
        privileged_without_host_devices=runtime.privileged_without_host_devices,
        privileged_without_host_devices_all_devices_allowed=(
            runtime.privileged_without_host_devices_all_devices_allowed
        ),
        cgroup_writable=runtime.cgroup_writable,
        base=_base(name, runtime.base_runtime_spec),
    )


async def _asked(handler: Handler, containerd: Containerd) -> Mapping[str, Any] | None:
    """The features of a handler's binary; None if it does not tell."""
    if not (is_runc(handler.runtime_type) or containerd.capabilities.runtime_info):
        return None  # only the daemon can ask another shim
    try:
        return await (
            _features_by_daemon(handler, containerd)
            if containerd.capabilities.runtime_info
            else _features_by_binary(handler)
        )
    except (OSError, ValueError, TimeoutError, aio.AioRpcError) as error:
        log.warning(
            "cannot query the runtime's features; none are offered",
            handler=handler.name,
            error=error.details() if isinstance(error, aio.AioRpcError) else str(error),
        )
        return None


def _with_features(
    handler: Handler,
    features: Mapping[str, Any],
    host: Host,
    found: user_namespaces.Kernel,
    snapshotter: Snapshotter | None,
) -> Handler:
    support = user_namespaces.support(features, found, snapshotter)
    return dataclasses.replace(
        handler,
        oci_version=oci_version(handler.oci_version, features.get("ociVersionMax")),
        recursive_read_only="rro" in (features.get("mountOptions") or ())
        and host.kernel >= _RRO_SINCE,
        user_namespaces_problem=support.problem,
        owners_by_copy=support.owners_by_copy,
    )


def oci_version(ours: str, latest: object) -> str:
    """The earlier one of our version and of the ``latest`` that a runtime reports to support, such
    as 1.0.2-dev; the oldest if it reports none."""
    found = re.match(r"(\d+)\.(\d+)\.(\d+)", latest) if isinstance(latest, str) else None
    if found is None:
        return _OLDEST_OCI
    theirs = tuple(map(int, found.groups()))
    return ours if tuple(map(int, ours.split("."))) <= theirs else found[0]


async def _features_by_daemon(handler: Handler, containerd: Containerd) -> Mapping[str, Any]:
    """``PluginInfo``: the shim queries the binary that it will run."""
    options = shim_options(handler)
    request = types_pb2.RuntimeRequest(
        runtime_path=handler.runtime_path or handler.runtime_type,
        options=proto_any(options) if options is not None else None,
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
    """``runc features``, for a containerd without PluginInfo."""
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
        raise ValueError("the features are not a JSON object")
    return value
