"""The configuration file: TOML, with keys named as in containerd's CRI plugin.

An unknown key, a value of the wrong type or a missing file stops the start: ``ConfigError`` gives
the file, line and key, and what is allowed there.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from runtime import regular_files
from runtime.config import faults, foreign, old_registry
from runtime.config.tables import (
    DEFAULT_PAUSE,
    PLUGIN_DIR,
    RUNC_SHIM,
    Config,
    ConfigError,
    Duration,
    RuncOptions,
    Runtime,
)

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

_DEFAULT_ENTRIES: Final[Mapping[str, Any]] = {
    "containerd": {"runtimes": {"runc": {}}},
    "images": {"pinned_images": {"sandbox": DEFAULT_PAUSE}},
}
"""Tables with free names: the file adds entries to the defaults instead of replacing them."""


def load(path: Path | None, overrides: Mapping[str, Any] | None = None) -> Config:
    """The configuration in ``path`` (None: all defaults), with ``overrides`` on top.

    ``overrides`` comes from the command line and is nested like the file. Raises ConfigError.
    """
    text = _read(path) if path else ""
    name = str(path) if path else "the command line"
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{name}: invalid TOML: {error}") from error
    for key, problem in foreign.refused(values):
        raise ConfigError(f"{faults.place(name, text, key)}: {'.'.join(key)}: {problem}")
    values = foreign.without(values)
    merged = _merged(_merged(_DEFAULT_ENTRIES, values), overrides or {})
    try:
        config = msgspec.convert(merged, Config, dec_hook=_decode)
    except msgspec.ValidationError as error:
        raise ConfigError(faults.explained(error, name, text)) from error
    config = _with_runc_options(config, name, text)
    for key, problem in _contradictions(config):
        raise ConfigError(f"{faults.place(name, text, key)}: {'.'.join(key)}: {problem}")
    return config


def _read(path: Path) -> str:
    try:
        return regular_files.read(path).decode()
    except FileNotFoundError as error:
        raise ConfigError(
            f"{path}: file not found; create it, or omit --config to use the defaults"
        ) from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    both = dict(base)
    for key, value in over.items():
        below = both.get(key)
        both[key] = (
            _merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
        )
    return both


def _decode(kind: type, value: Any) -> Any:
    if kind is Duration:
        return Duration.parse(value)
    raise NotImplementedError(kind)


def _with_runc_options(config: Config, name: str, text: str) -> Config:
    """The configuration with all options of runc's shim; raises ConfigError for an unknown one."""
    runtimes: dict[str, Runtime] = {}
    for handler, runtime in config.containerd.runtimes.items():
        try:
            options = msgspec.to_builtins(runtime.runc) if runtime.is_runc else runtime.options
        except msgspec.ValidationError as error:
            table = ("containerd", "runtimes", handler, "options")
            raise ConfigError(
                faults.explained(error, name, text, table=table, kind=RuncOptions)
            ) from error
        runtimes[handler] = msgspec.structs.replace(runtime, options=options)
    containerd = msgspec.structs.replace(config.containerd, runtimes=runtimes)
    return msgspec.structs.replace(config, containerd=containerd)


def _runtime_faults(name: str, runtime: Runtime) -> Iterator[tuple[tuple[str, ...], str]]:
    """Every key of a runtime handler that cannot be used."""
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


def _contradictions(config: Config) -> Iterator[tuple[tuple[str, ...], str]]:
    """Check values that have the right type but cannot be used."""
    for key, address in (
        (("listen",), config.listen),
        (("containerd", "address"), config.containerd.address),
    ):
        socket = address.removeprefix("unix://")
        if not address.startswith("unix://") or not socket.startswith("/"):
            yield key, f'must be a unix socket such as "unix:///run/x.sock", not "{address}"'
        if len(socket.encode()) > _MAX_SOCKET_PATH:
            problem = f"its path may have at most {_MAX_SOCKET_PATH} bytes, not {len(socket)}"
            yield key, problem
    for key, path in (
        (("root",), config.root),
        (("state",), config.state),
        (("cni", "conf_dir"), config.cni.conf_dir),
    ):
        if not path.startswith("/"):
            yield key, f'must be an absolute path, not "{path}"'
    if os.path.realpath(config.root) == os.path.realpath(config.state):
        yield (
            ("state",),
            "must not be the same directory as root: what must survive a reboot would be deleted "
            "with what must not",
        )
    namespace = config.containerd.namespace
    if not _NAMESPACE.fullmatch(namespace) or len(namespace) > _NAMESPACE_LIMIT:
        yield (
            ("containerd", "namespace"),
            f"must be letters and digits, with single . _ - between them, at most "
            f'{_NAMESPACE_LIMIT} characters, such as "k8s.io", not "{namespace}"',
        )
    if not _SECCOMP_NAME.fullmatch(config.unset_seccomp_profile):
        yield (
            ("unset_seccomp_profile",),
            'must be "runtime/default", "unconfined", "localhost/" and the path of a profile, '
            f'or "" for none, not "{config.unset_seccomp_profile}"',
        )
    for directory in config.cdi_spec_dirs:
        if not directory.startswith("/"):
            yield ("cdi_spec_dirs",), f'must be absolute paths, not "{directory}"'
    room = _MAX_SOCKET_PATH - len(f"/{PLUGIN_DIR}/log-keeper.sock")
    if len(config.state.encode()) > room:
        yield ("state",), f"may have at most {room} bytes, because it holds sockets"
    runtimes = config.containerd.runtimes
    if config.containerd.default_runtime_name not in runtimes:
        yield (
            ("containerd", "default_runtime_name"),
            f"names no table [containerd.runtimes.NAME]; known: {', '.join(runtimes) or 'none'}",
        )
    if not config.cni.bin_dirs:
        yield ("cni", "bin_dirs"), "must name at least one directory"
    for directory in config.cni.bin_dirs:
        if not directory.startswith("/"):
            yield ("cni", "bin_dirs"), f'must be absolute paths, not "{directory}"'
    for directory in filter(None, config.images.registry.config_path.split(":")):
        if not directory.startswith("/"):
            yield (
                ("images", "registry", "config_path"),
                f'must be absolute paths with ":" between them, not "{directory}"',
            )
    if not config.images.pinned_images["sandbox"]:
        yield ("images", "pinned_images", "sandbox"), "must name the pause image"
    if config.stats_retention_period < 2 * config.stats_collect_period:
        yield (
            ("stats_retention_period",),
            "must be at least twice stats_collect_period, because a rate needs two readings",
        )
    yield from _image_faults(config)
    for name, runtime in runtimes.items():
        yield from _runtime_faults(name, runtime)
    for key, number in (
        (("cni", "max_conf_num"), config.cni.max_conf_num),
        (("images", "max_concurrent_downloads"), config.images.max_concurrent_downloads),
        (("images", "max_concurrent_unpacks"), config.images.max_concurrent_unpacks),
        (
            ("images", "concurrent_layer_fetch_buffer"),
            config.images.concurrent_layer_fetch_buffer,
        ),
        (("images", "stats_collect_period"), config.images.stats_collect_period - 1),
    ):
        if number < 0:
            yield key, "is too small"
    if config.selinux_category_range and not 2 <= config.selinux_category_range <= 1024:
        yield ("selinux_category_range",), "must be 2 to 1024, or 0 for the default"
    if not 0 <= config.streaming.stream_server_port < 1 << 16:
        yield ("streaming", "stream_server_port"), "must be 0 to 65535"
    pair = config.streaming.x509_key_pair_streaming
    if bool(pair.tls_cert_file) != bool(pair.tls_key_file):
        yield (
            ("streaming", "x509_key_pair_streaming"),
            "must name both tls_cert_file and tls_key_file, or neither",
        )
    if not config.streaming.disable_tcp_service:
        yield (
            "streaming",
            "disable_tcp_service",
        ), "must be true: CRI is served on a unix socket only"
    address = config.metrics.address
    host, _, port = address.rpartition(":")
    if address and not (host and re.fullmatch(r"[0-9]{1,5}", port) and int(port) < 1 << 16):
        yield ("metrics", "address"), f'must be "host:port", not "{address}"'


def _image_faults(config: Config) -> Iterator[tuple[tuple[str, ...], str]]:
    registry, table = config.images.registry, ("images", "registry")
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
    verifier = config.images.image_verifier
    if not verifier.bin_dir.startswith("/"):
        yield ("images", "image_verifier", "bin_dir"), "must be an absolute path"
    if verifier.per_verifier_timeout <= 0:
        yield ("images", "image_verifier", "per_verifier_timeout"), "must be above 0"
