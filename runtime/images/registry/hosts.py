"""The hosts for the images of a registry: ``hosts.toml`` and the defaults.

``config_path`` names one or more directories, separated by ``:``. The first of them that has a
directory for the registry (``host_port_``, ``host:port`` or ``_default``) is used. Its
``hosts.toml`` lists mirrors, tried in the order of the file, and the server that they mirror. Files
are read again for each pull, so a change needs no restart.

Two deliberate differences from containerd: an unreadable ``hosts.toml`` fails the pull with its
place, because silently skipping a mirror is worse; and unknown keys are logged as warnings.
"""

from __future__ import annotations

import ipaddress
import posixpath
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import structlog

from runtime import regular_files
from runtime.config.tables import Duration
from runtime.errors import FailedPrecondition
from runtime.images.reference import DEFAULT_DOMAIN

log = structlog.get_logger(__name__)

PULL: Final = "pull"
RESOLVE: Final = "resolve"
_CAPABILITIES: Final = frozenset({PULL, RESOLVE, "push", "referrers"})
_API: Final = "/v2"
_DOCKER_HUB: Final = "registry-1.docker.io"


@dataclass(frozen=True, slots=True)
class RegistryHost:
    """One host, with everything that its requests need."""

    scheme: str
    host: str
    """Host and port, as in a URL."""
    path: str = _API
    """The path before ``/<repository>/manifests/…``, without a trailing slash."""
    capabilities: frozenset[str] = _CAPABILITIES
    ca: tuple[Path, ...] = ()
    """PEM files trusted in addition to the system's."""
    client: tuple[tuple[Path, Path | None], ...] = ()
    """Client certificates and their keys; without a key file, the certificate's file contains
    it."""
    skip_verify: bool | None = None
    """None: not configured."""
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    """Sent with every request; may contain secrets, so never shown."""
    dial_timeout: float | None = None
    """Seconds for one connection attempt; None: not configured."""
    plain_fallback: bool = False
    """Try HTTPS first, and plain HTTP if the port does not speak TLS."""

    @property
    def base(self) -> str:
        """The URL below which repositories are."""
        return f"{self.scheme}://{self.host}{self.path}"

    def stands_for(self, domain: str) -> bool:
        """Whether this is the registry itself; mirrors are told which registry they stand for."""
        return self.host == domain or (domain == DEFAULT_DOMAIN and self.host == _DOCKER_HUB)

    @property
    def needs_tls_settings(self) -> bool:
        return bool(self.ca or self.client or self.skip_verify is not None)


def hosts_for(
    domain: str, config_path: str, headers: Sequence[tuple[str, str]] = ()
) -> list[RegistryHost]:
    """The hosts for a registry in the order in which they are tried.

    Each gets ``headers``, except those that its own ``hosts.toml`` sets.
    """
    directory = _directory_for(domain, config_path)
    hosts = _read_directory(directory, domain) if directory else [_default_host(domain)]
    return [_with_headers(_tls_first(host), headers) for host in hosts]


def is_localhost(host: str) -> bool:
    """Whether a host (with or without a port) is this machine's loopback."""
    name = (urlsplit("//" + host).hostname or "").lower()
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _directory_for(domain: str, config_path: str) -> Path | None:
    host, colon, port = domain.rpartition(":")
    names = [f"{host}_{port}_"] if colon else []
    for root in filter(None, config_path.split(":")):
        for name in (*names, domain, "_default"):
            directory = Path(root, name)
            if directory.is_dir():
                return directory
    return None


def _read_directory(directory: Path, domain: str) -> list[RegistryHost]:
    file = directory / "hosts.toml"
    try:
        text = regular_files.read(file).decode()
    except FileNotFoundError:
        text = ""
    except OSError as error:
        raise FailedPrecondition(f"cannot read {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise FailedPrecondition(f"cannot read {file}: {error}") from error
    if not text.strip():
        return [_with_certificate_files(_default_host(domain), directory)]
    try:
        return parse_hosts_toml(text, directory, domain)
    except ValueError as error:  # tomllib.TOMLDecodeError is one
        raise FailedPrecondition(f"cannot use {file}: {error}") from error


def parse_hosts_toml(text: str, directory: Path, domain: str) -> list[RegistryHost]:
    """The hosts in one ``hosts.toml``; raises ValueError with the invalid key or line."""
    table = tomllib.loads(text)
    mirrors = table.pop("host", {})
    server = table.pop("server", "")
    if not isinstance(mirrors, dict) or not all(isinstance(m, dict) for m in mirrors.values()):
        raise ValueError('write mirrors as tables, [host."https://mirror.example"]')
    if not isinstance(server, str):
        raise ValueError(f"server must be a URL as text, not {server!r}")
    hosts = [
        _apply_keys(_host_at(url, keys, f'host."{url}"'), keys, directory, f'host."{url}".')
        for url, keys in mirrors.items()  # TOML tables keep the order of the file
    ]
    last = _host_at(server, table, "server") if server else _default_host(domain)
    return [*hosts, _apply_keys(last, table, directory, "")]


def _host_at(url: str, keys: Mapping[str, Any], where: str) -> RegistryHost:
    parts = urlsplit(url if "://" in url else "https://" + url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ValueError(f"{where}: {url!r} is not an http or https URL")
    path = posixpath.normpath(parts.path).rstrip("/") if parts.path else ""
    if not keys.get("override_path", False) and not path.endswith(_API):
        path += _API
    return RegistryHost(parts.scheme, parts.netloc, path)


def _default_host(domain: str) -> RegistryHost:
    if domain == DEFAULT_DOMAIN:
        return RegistryHost("https", _DOCKER_HUB)
    if not is_localhost(domain):
        return RegistryHost("https", domain)
    port = urlsplit("//" + domain).port
    scheme = "https" if port in (None, 443) else "http"
    # TLS to the local machine is not verified, because it rarely has a certificate; port 80 is
    # plain.
    return RegistryHost(scheme, domain, skip_verify=None if port == 80 else True)


def _tls_first(host: RegistryHost) -> RegistryHost:
    """An http host with TLS settings is ambiguous (except on port 80): try HTTPS, then plain
    HTTP."""
    if host.scheme != "http" or not host.needs_tls_settings:
        return host
    if urlsplit("//" + host.host).port == 80:
        return host
    return replace(host, scheme="https", plain_fallback=True)


def _with_headers(host: RegistryHost, headers: Sequence[tuple[str, str]]) -> RegistryHost:
    own = {name.lower() for name, _ in host.headers}
    added = tuple((name, value) for name, value in headers if name.lower() not in own)
    return replace(host, headers=(*host.headers, *added))


def _with_certificate_files(host: RegistryHost, directory: Path) -> RegistryHost:
    """Docker's layout: ``*.crt`` are CA certificates, ``*.cert`` with ``*.key`` client
    certificates; without a key file, the certificate's file contains the key."""
    authorities = tuple(sorted(directory.glob("*.crt")))
    pairs = tuple(
        (cert, key if (key := cert.with_suffix(".key")).exists() else None)
        for cert in sorted(directory.glob("*.cert"))
    )
    return replace(host, ca=authorities, client=pairs)


def _apply_keys(
    host: RegistryHost, keys: Mapping[str, Any], directory: Path, where: str
) -> RegistryHost:
    for key, value in keys.items():
        read = _KEYS.get(key)
        if read is None:
            # containerd ignores it, and the file may be written for a newer version
            log.warning("unknown key in hosts.toml ignored", key=where + key, file=str(directory))
            continue
        try:
            host = replace(host, **read(value, directory))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{where}{key}: {error}") from error
    return host


def _strings(value: Any) -> list[str]:
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not all(isinstance(one, str) for one in values):
        raise ValueError(f"must be a string or a list of strings, not {value!r}")
    return values


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"must be true or false, not {value!r}")
    return value


def _read_capabilities(value: Any, _: Path) -> Mapping[str, Any]:
    names = [name.lower() for name in _strings(value)]
    unknown = sorted(set(names) - _CAPABILITIES)
    if unknown:
        allowed = ", ".join(sorted(_CAPABILITIES))
        raise ValueError(f"unknown capability {unknown[0]!r}; allowed: {allowed}")
    return {"capabilities": frozenset(names) or _CAPABILITIES}


def _read_ca(value: Any, directory: Path) -> Mapping[str, Any]:
    return {"ca": tuple(directory / name for name in _strings(value))}


def _read_client(value: Any, directory: Path) -> Mapping[str, Any]:
    items: Sequence[Any] = [value] if isinstance(value, str) else value
    pairs: list[tuple[Path, Path | None]] = []
    for item in items:
        names = _strings(item)
        if isinstance(item, list) and len(names) != 2:
            raise ValueError(f"a pair must be a certificate and its key, not {item!r}")
        pairs.append((directory / names[0], directory / names[1] if len(names) == 2 else None))
    return {"client": tuple(pairs)}


def _read_header(value: Any, _: Path) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("must be a table of names and strings")
    return {"headers": tuple((name, one) for name, v in value.items() for one in _strings(v))}


def _read_dial_timeout(value: Any, _: Path) -> Mapping[str, Any]:
    return {"dial_timeout": float(Duration.parse(value))}


def _check_override_path(value: Any, _: Path) -> Mapping[str, Any]:
    """The value itself is applied where the URL is read (``_host_at``)."""
    _flag(value)
    return {}


_KEYS: Final = {
    "capabilities": _read_capabilities,
    "ca": _read_ca,
    "client": _read_client,
    "skip_verify": lambda value, _directory: {"skip_verify": _flag(value)},
    "header": _read_header,
    "override_path": _check_override_path,
    "dial_timeout": _read_dial_timeout,
}
