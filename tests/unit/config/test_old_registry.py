"""The old registry keys are refused with the files that replace them."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from runtime.config import file
from runtime.config.old_registry import instead
from runtime.config.tables import ConfigError
from runtime.images.registry.hosts import RegistryHost, parse_hosts_toml

OLD = """
[images.registry]
config_path = "/etc/certs:/other"
[images.registry.mirrors."docker.io"]
endpoint = ["https://mirror.example", "http://10.0.0.1:5000/proxy"]
[images.registry.mirrors."*"]
endpoint = ["any.example"]
[images.registry.mirrors."own:5000"]
endpoint = ["http://own:5000", "https://mirror.example"]
[images.registry.configs."mirror.example".tls]
ca_file = "/ca.pem"
cert_file = "/cert.pem"
key_file = "/key.pem"
[images.registry.configs."mirror.example".auth]
username = "user"
password = "a-secret"
[images.registry.configs."lone".tls]
insecure_skip_verify = true
[images.registry.auths."https://gcr.io"]
auth = "dXNlcjphLXNlY3JldA=="
"""


def files(text: str) -> dict[str, str]:
    parts = re.split(r"^# (/\S+)$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def hosts(text: str, domain: str) -> list[RegistryHost]:
    return parse_hosts_toml(text, Path("/x"), domain)


@pytest.fixture
def refusal(tmp_path: Path) -> str:
    (tmp_path / "config.toml").write_text(OLD)
    with pytest.raises(ConfigError) as error:
        file.load(tmp_path / "config.toml")
    return str(error.value)


def test_the_refusal_has_every_file(refusal: str) -> None:
    assert "config.toml:4: images.registry.mirrors: is not supported" in refusal
    assert set(files(refusal)) == {
        "/etc/certs/docker.io/hosts.toml",
        "/etc/certs/_default/hosts.toml",
        "/etc/certs/own:5000/hosts.toml",
        "/etc/certs/lone/hosts.toml",
    }


def test_the_files_ask_the_same_hosts_in_the_same_order(refusal: str) -> None:
    written = files(refusal)
    first, second, last = hosts(written["/etc/certs/docker.io/hosts.toml"], "docker.io")
    assert (first.base, second.base, last.base) == (
        "https://mirror.example/v2",
        "http://10.0.0.1:5000/proxy",
        "https://registry-1.docker.io/v2",
    )
    assert first.ca == (Path("/ca.pem"),)
    assert first.client == ((Path("/cert.pem"), Path("/key.pem")),)
    assert [host.base for host in hosts(written["/etc/certs/own:5000/hosts.toml"], "own:5000")] == [
        "https://mirror.example/v2",
        "http://own:5000/v2",
    ]
    (lone,) = hosts(written["/etc/certs/lone/hosts.toml"], "lone")
    assert lone.skip_verify is True
    anything = hosts(written["/etc/certs/_default/hosts.toml"], "some.example")
    assert [host.base for host in anything] == [
        "https://any.example/v2",
        "https://some.example/v2",
    ]


def test_credentials_are_named_by_host_and_never_repeated(refusal: str) -> None:
    assert "credentials of gcr.io, mirror.example cannot be moved" in refusal
    assert "a-secret" not in refusal
    assert "dXNlcjphLXNlY3JldA==" not in refusal


@pytest.mark.parametrize(
    "odd",
    [
        {"mirrors": {"a": {"endpoint": "text"}}},
        {"mirrors": {"a": 3}, "configs": {"b": {"tls": 4}}, "auths": {"c": "d"}},
        {"mirrors": {"a": {"endpoint": [5]}}},
    ],
)
def test_malformed_keys_still_give_files_that_are_toml(odd: dict[str, Any]) -> None:
    for text in files(instead(odd, "/etc/certs")).values():
        tomllib.loads(text)
