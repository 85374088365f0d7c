"""Values of the configuration that have the right type but cannot be used."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from runtime.config import old_registry
from runtime.config.tables import (
    PLUGIN_DIR,
    RUNC_SHIM,
    Config,
    ContainerdTable,
    MetricsTable,
    RegistryTable,
    Runtime,
    StreamingTable,
)

Unusable = tuple[tuple[str, ...], str]
"""A key's path, and what its value must be."""

_MAX_SOCKET_PATH: Final = 107
"""Maximum bytes in the path of a unix socket."""

_HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")

_NAMESPACE: Final = re.compile(r"[A-Za-z0-9]+([._-][A-Za-z0-9]+)*")
"""containerd's rule for identifiers, which have at most 76 characters."""
_NAMESPACE_LIMIT: Final = 76
_SECCOMP_NAME: Final = re.compile(r"|unconfined|(runtime|docker)/default|localhost/.+")
_LARGEST_ID: Final = (1 << 32) - 1

_SHIM: Final = re.compile(r"/.+|[a-z0-9_-]+(\.[A-Za-z0-9_-]+){2,}")
_SHIM_OPTIONS: Final = frozenset({"TypeUrl", "ConfigPath", "ConfigBody"})
_SHIM_KEYS: Final = ", ".join(sorted(_SHIM_OPTIONS))

_Keys = tuple[tuple[str, ...], ...]
_SOCKETS: Final[_Keys] = (("listen",), ("containerd", "address"))
_ABSOLUTE: Final[_Keys] = (
    ("root",),
    ("state",),
    ("cni", "conf_dir"),
    ("images", "image_verifier", "bin_dir"),
)
_LISTS_OF_ABSOLUTE: Final[_Keys] = (("cdi_spec_dirs",), ("cni", "bin_dirs"))
_LEAST: Final[Mapping[tuple[str, ...], int]] = {
    ("cni", "max_conf_num"): 0,
    ("images", "max_concurrent_downloads"): 0,
    ("images", "max_concurrent_unpacks"): 0,
    ("images", "concurrent_layer_fetch_buffer"): 0,
    ("images", "stats_collect_period"): 1,
}


def unusable(config: Config) -> Iterator[Unusable]:
    """Every key whose value cannot be used, with what is allowed."""
    yield from _addresses_and_paths(config)
    yield from _numbers(config)
    yield from _directories(config)
    if not _SECCOMP_NAME.fullmatch(config.unset_seccomp_profile):
        yield (
            ("unset_seccomp_profile",),
            'must be "runtime/default", "unconfined", "localhost/" and the path of a profile, '
            f'or "" for none, not "{config.unset_seccomp_profile}"',
        )
    yield from _containerd(config.containerd)
    for name, runtime in config.containerd.runtimes.items():
        yield from _runtime(name, runtime)
    if not config.cni.bin_dirs:
        yield ("cni", "bin_dirs"), "must name at least one directory"
    if not config.images.pinned_images["sandbox"]:
        yield ("images", "pinned_images", "sandbox"), "must name the pause image"
    yield from _registry(config.images.registry)
    yield from _platforms(config)
    yield from _streaming(config.streaming)
    yield from _metrics(config.metrics)


def _value(config: Config, key: tuple[str, ...]) -> Any:
    value: Any = config
    for name in key:
        value = getattr(value, name)
    return value


def _addresses_and_paths(config: Config) -> Iterator[Unusable]:
    for key in _SOCKETS:
        address = _value(config, key)
        socket = address.removeprefix("unix://")
        if not address.startswith("unix://") or not socket.startswith("/"):
            yield key, f'must be a unix socket such as "unix:///run/x.sock", not "{address}"'
        if len(socket.encode()) > _MAX_SOCKET_PATH:
            problem = f"its path may have at most {_MAX_SOCKET_PATH} bytes, not {len(socket)}"
            yield key, problem
    for key in _ABSOLUTE:
        path = _value(config, key)
        if not path.startswith("/"):
            yield key, f'must be an absolute path, not "{path}"'
    for key in _LISTS_OF_ABSOLUTE:
        for path in _value(config, key):
            if not path.startswith("/"):
                yield key, f'must be absolute paths, not "{path}"'


def _numbers(config: Config) -> Iterator[Unusable]:
    for key, least in _LEAST.items():
        if _value(config, key) < least:
            yield key, "is too small"
    if config.images.image_verifier.per_verifier_timeout <= 0:
        yield ("images", "image_verifier", "per_verifier_timeout"), "must be above 0"
    if config.stats_retention_period < 2 * config.stats_collect_period:
        yield (
            ("stats_retention_period",),
            "must be at least twice stats_collect_period, because a rate needs two readings",
        )
    if config.selinux_category_range and not 2 <= config.selinux_category_range <= 1024:
        yield ("selinux_category_range",), "must be 2 to 1024, or 0 for the default"


def _directories(config: Config) -> Iterator[Unusable]:
    if os.path.realpath(config.root) == os.path.realpath(config.state):
        yield (
            ("state",),
            "must not be the same directory as root: what must survive a reboot would be deleted "
            "with what must not",
        )
    room = _MAX_SOCKET_PATH - len(f"/{PLUGIN_DIR}/log-keeper.sock")
    if len(config.state.encode()) > room:
        yield ("state",), f"may have at most {room} bytes, because it holds sockets"


def _containerd(table: ContainerdTable) -> Iterator[Unusable]:
    if not _NAMESPACE.fullmatch(table.namespace) or len(table.namespace) > _NAMESPACE_LIMIT:
        yield (
            ("containerd", "namespace"),
            f"must be letters and digits, with single . _ - between them, at most "
            f'{_NAMESPACE_LIMIT} characters, such as "k8s.io", not "{table.namespace}"',
        )
    if table.default_runtime_name not in table.runtimes:
        known = ", ".join(table.runtimes) or "none"
        yield (
            ("containerd", "default_runtime_name"),
            f"names no table [containerd.runtimes.NAME]; known: {known}",
        )


def _runtime(name: str, runtime: Runtime) -> Iterator[Unusable]:
    table = ("containerd", "runtimes", name)
    if not name:
        yield table, "must have a name; requests without a handler get default_runtime_name"
    kind = runtime.runtime_type
    if kind in ("io.containerd.runc.v1", "io.containerd.runtime.v1.linux"):
        yield (*table, "runtime_type"), f'was removed from containerd; use "{RUNC_SHIM}"'
    elif not _SHIM.fullmatch(kind):
        yield (
            (*table, "runtime_type"),
            f'must be a shim such as "{RUNC_SHIM}" or "io.containerd.runsc.v1", or an absolute'
            f' path, not "{kind}"',
        )
    for key, number in (("IoUid", runtime.runc.IoUid), ("IoGid", runtime.runc.IoGid)):
        if not 0 <= number <= _LARGEST_ID:
            yield (*table, "options", key), f"must be 0 to {_LARGEST_ID}"
    if runtime.runc.CriuPath:
        yield (*table, "options", "CriuPath"), "must be empty: runc finds criu on its PATH"
    if not runtime.is_runc:
        for key in _SHIM_OPTIONS:
            if not isinstance(runtime.options.get(key, ""), str):
                yield (*table, "options", key), "must be a string"
        if runtime.options.get("ConfigPath"):
            for key in runtime.options.keys() - _SHIM_OPTIONS:
                yield (
                    (*table, "options", key),
                    f"is not passed to the shim beside ConfigPath; allowed: {_SHIM_KEYS}",
                )
    for key in ("base_runtime_spec", "cni_conf_dir", "runtime_path"):
        path = getattr(runtime, key)
        if path and not path.startswith("/"):
            yield (*table, key), f'must be an absolute path, not "{path}"'
    if runtime.cni_max_conf_num < 0:
        yield (*table, "cni_max_conf_num"), "is too small"
    if (
        runtime.privileged_without_host_devices_all_devices_allowed
        and not runtime.privileged_without_host_devices
    ):
        yield (
            (*table, "privileged_without_host_devices_all_devices_allowed"),
            "needs privileged_without_host_devices = true",
        )


def _registry(registry: RegistryTable) -> Iterator[Unusable]:
    table = ("images", "registry")
    for directory in filter(None, registry.config_path.split(":")):
        if not directory.startswith("/"):
            yield (
                (*table, "config_path"),
                f'must be absolute paths with ":" between them, not "{directory}"',
            )
    for name, values in registry.headers.items():
        if not _HEADER_NAME.fullmatch(name):
            yield (*table, "headers", name), "is not a name of an HTTP header"
        if any(not value.isprintable() for value in values):
            yield (*table, "headers", name), "has a value with a control character"
    old = {"mirrors": registry.mirrors, "configs": registry.configs, "auths": registry.auths}
    for key in (key for key, value in old.items() if value):
        directory = registry.config_path.partition(":")[0] or "/etc/containerd/certs.d"
        yield (
            (*table, key),
            "is not supported, because containerd deprecated it; remove mirrors, configs and auths,"
            f" and write instead:\n\n{old_registry.instead(old, directory)}",
        )


def _platforms(config: Config) -> Iterator[Unusable]:
    for name, wanted in config.images.runtime_platforms.items():
        place = ("images", "runtime_platforms", name)
        runtime = config.containerd.runtimes.get(name)
        if runtime is None:
            known = ", ".join(config.containerd.runtimes)
            yield place, f"names no table [containerd.runtimes.NAME]; known: {known}"
        elif runtime.snapshotter and wanted.snapshotter not in ("", runtime.snapshotter):
            yield (
                (*place, "snapshotter"),
                f'must be "{runtime.snapshotter}", as in containerd.runtimes.{name}.snapshotter',
            )


def _streaming(table: StreamingTable) -> Iterator[Unusable]:
    if not 0 <= table.stream_server_port < 1 << 16:
        yield ("streaming", "stream_server_port"), "must be 0 to 65535"
    pair = table.x509_key_pair_streaming
    if bool(pair.tls_cert_file) != bool(pair.tls_key_file):
        yield (
            ("streaming", "x509_key_pair_streaming"),
            "must name both tls_cert_file and tls_key_file, or neither",
        )
    if not table.disable_tcp_service:
        yield (
            ("streaming", "disable_tcp_service"),
            "must be true: CRI is served on a unix socket only",
        )


def _metrics(table: MetricsTable) -> Iterator[Unusable]:
    host, _, port = table.address.rpartition(":")
    valid = host and re.fullmatch(r"[0-9]{1,5}", port) and int(port) < 1 << 16
    if table.address and not valid:
        yield ("metrics", "address"), f'must be "host:port", not "{table.address}"'
