"""The ``hosts.toml`` files that replace the old keys ``mirrors``, ``configs`` and ``auths``.

containerd deprecated these keys of its CRI plugin. They are refused here, and the error contains
the files to write instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import tomli_w

_ANY: Final = "*"
_ANY_DIRECTORY: Final = "_default"
_DEFAULT_SERVERS: Final = {"docker.io": "https://registry-1.docker.io"}
_API: Final = "/v2"
_PULLS: Final = ["pull", "resolve"]
_AUTH_NOTE: Final = """\
# The credentials of {hosts} cannot be moved to a file: give them to the kubelet
# (imagePullSecrets, or a credential provider), which sends them with each pull.
"""


def instead(registry: Mapping[str, Any], directory: str) -> str:
    """The files to write below ``directory``, as text for a person.

    ``registry`` has the old keys as parsed from TOML; malformed ones are skipped. Secrets in it are
    not repeated.
    """
    mirrors, configs = _tables(registry.get("mirrors")), _tables(registry.get("configs"))
    tls = {host: found for host, keys in configs.items() if (found := _tls(keys.get("tls")))}
    used: set[str] = set()
    files = {name: _mirrored(name, keys, tls, used) for name, keys in mirrors.items()}
    for host, keys in tls.items():
        if host not in used and host not in files:
            files[host] = {"server": f"https://{host}", **keys}
    parts = [
        f"# {directory}/{_ANY_DIRECTORY if name == _ANY else name}/hosts.toml\n"
        f"{tomli_w.dumps(content)}"
        for name, content in files.items()
    ]
    secret = sorted(
        {host for host, keys in configs.items() if keys.get("auth")}
        | {urlsplit(url).netloc or url for url in _tables(registry.get("auths"))}
    )
    if secret:
        parts.append(_AUTH_NOTE.format(hosts=", ".join(secret)))
    return "\n".join(parts)


def _mirrored(
    name: str, keys: Mapping[str, Any], tls: Mapping[str, Mapping[str, Any]], used: set[str]
) -> dict[str, Any]:
    """The content of the file of one mirrored registry; adds the hosts whose TLS keys it has to
    ``used``."""
    content: dict[str, Any] = {}
    hosts: dict[str, Any] = {}
    endpoints = keys.get("endpoint")
    for endpoint in endpoints if isinstance(endpoints, list) else ():
        url = str(endpoint) if "://" in str(endpoint) else f"https://{endpoint}"
        place = urlsplit(url)
        used.add(place.netloc)
        settings = {"capabilities": _PULLS, **tls.get(place.netloc, {})}
        if place.path.rstrip("/") not in ("", _API):
            settings["override_path"] = True
        if place.netloc == name:
            # the registry itself: the file's own keys are those of its server
            settings.pop("capabilities")
            content = {"server": url, **settings}
        else:
            hosts[url] = settings
    if not content and name != _ANY:
        used.add(name)
        content = {"server": _DEFAULT_SERVERS.get(name, f"https://{name}"), **tls.get(name, {})}
    return {**content, "host": hosts} if hosts else content


def _tls(keys: object) -> dict[str, Any]:
    """The keys of ``hosts.toml`` for an old table ``tls``."""
    if not isinstance(keys, Mapping):
        return {}
    found: dict[str, Any] = {}
    if keys.get("ca_file"):
        found["ca"] = keys["ca_file"]
    if keys.get("cert_file"):
        found["client"] = (
            [[keys["cert_file"], keys["key_file"]]] if keys.get("key_file") else [keys["cert_file"]]
        )
    if keys.get("insecure_skip_verify"):
        found["skip_verify"] = True
    return found


def _tables(value: object) -> dict[str, Mapping[str, Any]]:
    if not isinstance(value, Mapping):
        return {}
    return {str(name): keys for name, keys in value.items() if isinstance(keys, Mapping)}
