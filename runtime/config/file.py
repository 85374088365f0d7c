"""The configuration file: TOML, its keys named as in containerd's CRI plugin.

A key that nobody reads, a value of the wrong type or a missing file stops the start:
``ConfigError`` says which file, line and key, and what is allowed there.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

_GO_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)")
_SECONDS_OF: Final = {
    "ns": 1e-9,
    "us": 1e-6,
    "µs": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "m": 60.0,
    "h": 3600.0,
}
_MAX_SOCKET_PATH: Final = 107
"""Bytes that a unix socket's path may have."""

PLUGIN_DIR: Final = "io.containerd.grpc.v1.cri"
"""The built-in plugin's directory, so that a node can be moved from one to the other."""

DEFAULT_PAUSE: Final = "registry.k8s.io/pause:3.10.2"


class ConfigError(Exception):
    """The configuration cannot be used; the message is for the person who wrote it."""


class Duration(float):
    """Seconds, written as Go does: ``"1m30s"``, ``"500ms"``, ``"0s"``."""

    @classmethod
    def parse(cls, text: object) -> Duration:
        """Raises ValueError when ``text`` is no duration; "" is 0, as for the built-in plugin."""
        parts = _GO_DURATION.findall(text) if isinstance(text, str) else []
        if isinstance(text, str) and text in ("", "0"):
            return cls(0)
        if not parts or "".join(number + unit for number, unit in parts) != text:
            raise ValueError('must be a duration such as "1m30s" or "500ms"')
        return cls(sum(float(number) * _SECONDS_OF[unit] for number, unit in parts))


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One TOML table; unknown keys are refused."""


class RuncOptions(_Table, frozen=True):
    """Options of the shim ``io.containerd.runc.v2`` (``containerd.runc.v1.Options``)."""

    BinaryName: str = ""
    """The OCI runtime; "" finds ``runc`` on containerd's PATH."""
    Root: str = ""
    SystemdCgroup: bool = False
    NoPivotRoot: bool = False
    NoNewKeyring: bool = False
    ShimCgroup: str = ""
    IoUid: int = 0
    IoGid: int = 0
    CriuImagePath: str = ""
    CriuPath: str = ""
    """Accepted while it is empty: containerd 1.x writes it into every config that it generates."""
    CriuWorkPath: str = ""


class Runtime(_Table, frozen=True):
    """``[containerd.runtimes.NAME]``: a runtime handler."""

    runtime_type: Literal["io.containerd.runc.v2"] = "io.containerd.runc.v2"
    runtime_path: str = ""
    options: RuncOptions = RuncOptions()
    snapshotter: str = ""
    """"" takes that of ``[containerd]``."""
    pod_annotations: tuple[str, ...] = ()
    container_annotations: tuple[str, ...] = ()
    privileged_without_host_devices: bool = False
    privileged_without_host_devices_all_devices_allowed: bool = False
    cgroup_writable: bool = False


class ContainerdTable(_Table, frozen=True):
    """``[containerd]``: the daemon and the runtime handlers."""

    address: str = "unix:///run/containerd/containerd.sock"
    namespace: str = "k8s.io"
    snapshotter: str = "overlayfs"
    default_runtime_name: str = "runc"
    runtimes: Mapping[str, Runtime] = msgspec.field(default_factory=lambda: {"runc": Runtime()})
    """By name; those of the file are added to ``runc``."""


class CniTable(_Table, frozen=True):
    """``[cni]``: network plugins."""

    bin_dirs: tuple[str, ...] = ("/opt/cni/bin", "/usr/lib/cni")
    conf_dir: str = "/etc/cni/net.d"
    max_conf_num: int = 1
    """How many configurations of the directory, in name order, make networks; 0: all."""
    setup_serially: bool = False
    conf_template: str = ""
    """A Go-template style file that UpdateRuntimeConfig fills with the pod CIDR; "": none."""
    ip_pref: Literal["", "ipv4", "ipv6", "cni"] = ""


class RegistryTable(_Table, frozen=True):
    """``[images.registry]``."""

    config_path: str = "/etc/containerd/certs.d:/etc/docker/certs.d"
    """Directories with a ``hosts.toml`` for each registry, separated by colons."""


class ImagesTable(_Table, frozen=True):
    """``[images]``."""

    pinned_images: Mapping[str, str] = msgspec.field(
        default_factory=lambda: {"sandbox": DEFAULT_PAUSE}
    )
    """Images that the kubelet must not collect, by use; ``sandbox`` is the pause image, which has a
    default."""
    registry: RegistryTable = RegistryTable()
    max_concurrent_downloads: int = 3
    image_pull_progress_timeout: Duration = Duration(300)
    """A pull is given up when no byte came for this long; 0: never."""
    stats_collect_period: int = 10
    """Seconds between two looks at the layers' sizes."""


class KeyPair(_Table, frozen=True):
    """``[streaming.x509_key_pair_streaming]``: files in PEM; both or none."""

    tls_cert_file: str = ""
    tls_key_file: str = ""


class StreamingTable(_Table, frozen=True):
    """``[streaming]``: where exec, attach and port-forward streams are served."""

    stream_server_address: str = "127.0.0.1"
    """"" takes the address of the default route."""
    stream_server_port: int = 0
    """0 takes a free one."""
    stream_idle_timeout: Duration = Duration(4 * 3600)
    """How long a stream may carry nothing; 0: for ever."""
    enable_tls_streaming: bool = False
    x509_key_pair_streaming: KeyPair = KeyPair()
    """With TLS and no key pair, a self-signed one is made at each start."""
    disable_tcp_service: bool = True
    """Read for the built-in plugin's files; CRI itself is served on a unix socket alone."""


class MetricsTable(_Table, frozen=True):
    """``[metrics]``: the server's own Prometheus metrics."""

    address: str = ""
    """``host:port`` of an HTTP server with ``/metrics``; "": none."""


class Config(_Table, frozen=True):
    """The whole file; every key may be left out."""

    listen: str = "unix:///run/cri-containerd/cri-containerd.sock"
    root: str = "/var/lib/cri-containerd"
    """What must survive a reboot."""
    state: str = "/run/cri-containerd"
    """What must not."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    max_container_log_line_size: int = 16384
    """Bytes at which a log line is cut into pieces; 0 or less: lines are kept whole in memory."""
    disable_apparmor: bool = False
    restrict_oom_score_adj: bool = False
    """Never ask for an oom_score_adj below the server's own, even where that is allowed."""
    unset_seccomp_profile: str = ""
    disable_hugetlb_controller: bool = True
    """Leave hugepage limits of containers out; the kubelet sets those of pods."""
    tolerate_missing_hugetlb_controller: bool = True
    """Leave them out on a node without the controller, instead of refusing the container."""
    device_ownership_from_security_context: bool = False
    ignore_image_defined_volumes: bool = False
    netns_mounts_under_state_dir: bool = False
    enable_unprivileged_ports: bool = True
    enable_unprivileged_icmp: bool = True
    drain_exec_sync_io_timeout: Duration = Duration(0)
    """How long ExecSync waits for output after its process ended; 0: until all of it came."""
    containerd: ContainerdTable = ContainerdTable()
    cni: CniTable = CniTable()
    images: ImagesTable = ImagesTable()
    streaming: StreamingTable = StreamingTable()
    metrics: MetricsTable = MetricsTable()

    @property
    def root_dir(self) -> Path:
        """Where records of objects live."""
        return Path(self.root, PLUGIN_DIR)

    @property
    def state_dir(self) -> Path:
        """Where files of running objects live."""
        return Path(self.state, PLUGIN_DIR)

    @property
    def socket(self) -> Path:
        """The path of ``listen``."""
        return Path(self.listen.removeprefix("unix://"))

    @property
    def pause_image(self) -> str:
        """The reference of the pause image."""
        return self.images.pinned_images["sandbox"]


def load(path: Path | None, overrides: Mapping[str, Any] | None = None) -> Config:
    """The configuration in ``path`` (None: all defaults), with ``overrides`` on top.

    ``overrides`` is a nested mapping like the file's, from the command line. Raises ConfigError.
    """
    text = _read(path) if path else ""
    name = str(path) if path else "the command line"
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{name}: this is not TOML: {error}") from error
    merged = _merged(_merged(_DEFAULT_ENTRIES, values), overrides or {})
    try:
        config = msgspec.convert(merged, Config, dec_hook=_decode)
    except msgspec.ValidationError as error:
        raise ConfigError(_explained(error, name, text)) from error
    for key, problem in _contradictions(config):
        raise ConfigError(f"{_place(name, text, key)}: {'.'.join(key)}: {problem}")
    return config


_DEFAULT_ENTRIES: Final[Mapping[str, Any]] = {
    "containerd": {"runtimes": {"runc": {}}},
    "images": {"pinned_images": {"sandbox": DEFAULT_PAUSE}},
}
"""Entries of tables with free names, which a file adds to and does not replace."""


def as_builtins(config: Config) -> dict[str, Any]:
    """The effective configuration as plain tables, every default written out."""
    tables: dict[str, Any] = msgspec.to_builtins(config, enc_hook=_encode)
    return tables


def as_toml(config: Config) -> str:
    """The effective configuration as a file that ``load`` reads."""
    return "\n".join(_toml_lines(as_builtins(config), ())) + "\n"


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError as error:
        raise ConfigError(
            f"{path}: there is no such file; write one, or leave --config out for the defaults"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
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


def _encode(value: Any) -> Any:
    if isinstance(value, Duration):
        return f"{float(value):g}s"
    raise NotImplementedError(type(value))


def _contradictions(config: Config) -> Iterator[tuple[tuple[str, ...], str]]:
    """Every value that fits its type and still cannot be used."""
    for key, address in (
        (("listen",), config.listen),
        (("containerd", "address"), config.containerd.address),
    ):
        socket = address.removeprefix("unix://")
        if not address.startswith("unix://") or not socket.startswith("/"):
            yield key, f'must be a unix socket such as "unix:///run/x.sock", not "{address}"'
        if len(socket.encode()) > _MAX_SOCKET_PATH:
            yield key, f"a socket's path may have {_MAX_SOCKET_PATH} bytes, not {len(socket)}"
    for key, path in (
        (("root",), config.root),
        (("state",), config.state),
        (("cni", "conf_dir"), config.cni.conf_dir),
    ):
        if not path.startswith("/"):
            yield key, f'must be an absolute path, not "{path}"'
    room = _MAX_SOCKET_PATH - len(f"/{PLUGIN_DIR}/log-keeper.sock")
    if len(config.state.encode()) > room:
        yield ("state",), f"may have {room} bytes, as sockets lie below it"
    runtimes = config.containerd.runtimes
    if config.containerd.default_runtime_name not in runtimes:
        yield (
            ("containerd", "default_runtime_name"),
            f"names no table [containerd.runtimes.NAME]; known: {', '.join(runtimes) or 'none'}",
        )
    if not config.cni.bin_dirs:
        yield ("cni", "bin_dirs"), "must name at least one directory"
    if not config.images.pinned_images["sandbox"]:
        yield ("images", "pinned_images", "sandbox"), "must name the pause image"
    for name, runtime in runtimes.items():
        table = ("containerd", "runtimes", name)
        if runtime.options.CriuPath:
            yield (*table, "options", "CriuPath"), "must be empty: runc finds criu on its PATH"
        if (
            runtime.privileged_without_host_devices_all_devices_allowed
            and not runtime.privileged_without_host_devices
        ):
            yield (
                (*table, "privileged_without_host_devices_all_devices_allowed"),
                "needs privileged_without_host_devices = true",
            )
    for key, number in (
        (("cni", "max_conf_num"), config.cni.max_conf_num),
        (("images", "max_concurrent_downloads"), config.images.max_concurrent_downloads - 1),
        (("images", "stats_collect_period"), config.images.stats_collect_period - 1),
    ):
        if number < 0:
            yield key, "is too small"
    if not 0 <= config.streaming.stream_server_port < 1 << 16:
        yield ("streaming", "stream_server_port"), "must be 0 to 65535"
    pair = config.streaming.x509_key_pair_streaming
    if bool(pair.tls_cert_file) != bool(pair.tls_key_file):
        yield (
            ("streaming", "x509_key_pair_streaming"),
            "must name both tls_cert_file and tls_key_file, or neither",
        )
    if not config.streaming.disable_tcp_service:
        yield ("streaming", "disable_tcp_service"), "must be true: CRI is served on a socket alone"
    address = config.metrics.address
    if address and not re.fullmatch(r".+:\d{1,5}", address):
        yield ("metrics", "address"), f'must be "host:port", not "{address}"'


_AT: Final = re.compile(r" - at `\$(?P<path>.*)`$")
_UNKNOWN: Final = re.compile(r"Object contains unknown field `(?P<key>.+?)`")
_TYPE_WORDS: Final = {
    "str": "a string",
    "int": "an integer",
    "bool": "true or false",
    "object": "a table",
    "array": "a list",
    "float": "a number",
}


def _explained(error: msgspec.ValidationError, name: str, text: str) -> str:
    """msgspec's words as a sentence with file, line, key and what is allowed."""
    message = str(error)
    at = _AT.search(message)
    path = _path(at["path"]) if at else ()
    message = _AT.sub("", message)
    unknown = _UNKNOWN.match(message)
    if unknown:
        key = (*path, unknown["key"])
        allowed = _keys_at(path)
        near = difflib.get_close_matches(unknown["key"], allowed, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        return (
            f"{_place(name, text, key)}: {_dotted(key)}: unknown key; {hint}"
            f"allowed here: {', '.join(allowed)}"
        )
    wrong = re.fullmatch(r"Expected `(.+?)`, got `(.+?)`", message)
    if wrong:
        expected, got = (_TYPE_WORDS.get(word, word) for word in wrong.groups())
        message = f"must be {expected}, not {got}"
    choices = _choices_at(path) if "enum value" in message else ()
    if choices:
        message = f"must be one of {', '.join(repr(choice) for choice in choices)}"
    return f"{_place(name, text, path)}: {_dotted(path) or 'the file'}: {message}"


def _path(text: str) -> tuple[str, ...]:
    """``.containerd.runtimes[...].options`` as keys; msgspec hides the name of a map's key."""
    return tuple(step for step in re.split(r"\.|(\[\.\.\.\]|\[\d+\])", text) if step)


def _dotted(path: tuple[str, ...]) -> str:
    return ".".join(path).replace("[...]", "NAME").replace(".[", "[")


def _type_at(path: tuple[str, ...]) -> Any:
    kind = msgspec.inspect.type_info(Config)
    for step in path:
        if isinstance(kind, msgspec.inspect.StructType):
            kind = next((f.type for f in kind.fields if f.encode_name == step), kind)
        elif isinstance(kind, msgspec.inspect.DictType):
            kind = kind.value_type
    return kind


def _keys_at(path: tuple[str, ...]) -> list[str]:
    kind = _type_at(path)
    fields = kind.fields if isinstance(kind, msgspec.inspect.StructType) else ()
    return [field.encode_name for field in fields]


def _choices_at(path: tuple[str, ...]) -> tuple[Any, ...]:
    kind = _type_at(path)
    return tuple(kind.values) if isinstance(kind, msgspec.inspect.LiteralType) else ()


_HEADER: Final = re.compile(r"\s*\[+\s*([^\]]+?)\s*\]+")
_ASSIGNED: Final = re.compile(r"""\s*([\w"'.\- ]+?)\s*=""")


def _place(name: str, text: str, key: tuple[str, ...]) -> str:
    """``file:line`` of the line that comes nearest to ``key``; ``file`` when none does."""
    table: tuple[str, ...] = ()
    best, line_of_best = 0, 0
    for number, line in enumerate(text.splitlines(), 1):
        header = _HEADER.match(line)
        assigned = _ASSIGNED.match(line)
        if header:
            table = _steps(header[1])
            here = table
        elif assigned:
            here = (*table, *_steps(assigned[1]))
        else:
            continue
        common = _common(here, key)
        if common > best and common == min(len(here), len(key)):
            best, line_of_best = common, number
    return f"{name}:{line_of_best}" if line_of_best else name


def _steps(dotted: str) -> tuple[str, ...]:
    return tuple(step.strip(" \"'") for step in re.split(r"\s*\.\s*", dotted))


def _common(here: tuple[str, ...], key: tuple[str, ...]) -> int:
    """How many leading steps agree; ``[...]`` agrees with every name."""
    count = 0
    for ours, theirs in zip(here, key, strict=False):
        if ours != theirs and not theirs.startswith("["):
            break
        count += 1
    return count


def _toml_lines(table: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[str]:
    """Plain values first, then the tables below, so that no value falls into the wrong table."""
    for key, value in table.items():
        if not isinstance(value, dict):
            yield f"{_toml_key(key)} = {_toml_value(value)}"
    for key, value in table.items():
        if isinstance(value, dict):
            below = (*path, key)
            yield ""
            yield f"[{'.'.join(map(_toml_key, below))}]"
            yield from _toml_lines(value, below)


def _toml_key(key: str) -> str:
    return key if re.fullmatch(r"[\w-]+", key) else _toml_value(key)


def _toml_value(value: object) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml_value, value))}]"
    # JSON's strings, numbers and booleans are TOML's.
    return msgspec.json.encode(value).decode()
