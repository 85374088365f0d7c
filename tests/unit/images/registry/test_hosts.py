"""Hosts are found and used as containerd's ``hosts.toml`` defines."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime.errors import FailedPrecondition
from runtime.images.registry.hosts import RegistryHost, hosts_for, is_localhost


def write(root: Path, directory: str, text: str) -> Path:
    (root / directory).mkdir(parents=True)
    (root / directory / "hosts.toml").write_text(text)
    return root / directory


def bases(hosts: list[RegistryHost]) -> list[str]:
    return [host.base for host in hosts]


@pytest.mark.parametrize(
    ("domain", "base", "skip_verify", "plain_fallback"),
    [
        ("docker.io", "https://registry-1.docker.io/v2", None, False),
        ("quay.io", "https://quay.io/v2", None, False),
        ("localhost", "https://localhost/v2", True, False),
        ("127.0.0.1:443", "https://127.0.0.1:443/v2", True, False),
        ("127.0.0.1:80", "http://127.0.0.1:80/v2", None, False),
        ("localhost:5000", "https://localhost:5000/v2", True, True),
        ("[::1]:5000", "https://[::1]:5000/v2", True, True),
    ],
)
def test_registry_without_configuration(
    domain: str, base: str, skip_verify: bool | None, plain_fallback: bool
) -> None:
    (host,) = hosts_for(domain, "")
    assert (host.base, host.skip_verify, host.plain_fallback) == (base, skip_verify, plain_fallback)


def test_every_key_of_hosts_toml(tmp_path: Path) -> None:
    directory = write(
        tmp_path,
        "example.com_8443_",
        """
        server = "https://upstream.example.com"
        ca = ["upstream.crt"]

        [host."https://first.example.com/registry"]
          capabilities = ["pull", "Resolve"]
          ca = "first.crt"
          client = [["c.cert", "c.key"], "both.pem"]
          skip_verify = true
          dial_timeout = "1m500ms"
          [host."https://first.example.com/registry".header]
            x-one = "1"
            x-two = ["2", "3"]

        [host."http://second.example.com/api/v2/"]

        [host."third.example.com/own"]
          override_path = true
        """,
    )
    first, second, third, server = hosts_for("example.com:8443", str(tmp_path))
    assert first.base == "https://first.example.com/registry/v2"
    assert first.capabilities == {"pull", "resolve"}
    assert first.ca == (directory / "first.crt",)
    assert first.client == (
        (directory / "c.cert", directory / "c.key"),
        (directory / "both.pem", None),
    )
    assert first.skip_verify is True
    assert first.dial_timeout == 60.5
    assert first.headers == (("x-one", "1"), ("x-two", "2"), ("x-two", "3"))
    assert second.base == "http://second.example.com/api/v2"
    assert third.base == "https://third.example.com/own"
    assert (server.base, server.ca) == (
        "https://upstream.example.com/v2",
        (directory / "upstream.crt",),
    )


def test_without_server_the_registry_itself_is_last(tmp_path: Path) -> None:
    write(tmp_path, "docker.io", '[host."https://mirror"]')
    assert bases(hosts_for("docker.io", str(tmp_path))) == [
        "https://mirror/v2",
        "https://registry-1.docker.io/v2",
    ]


def test_later_directory_of_a_list_is_searched(tmp_path: Path) -> None:
    """containerd's own default is a list, which its transfer service reads as one path."""
    (tmp_path / "first").mkdir()
    write(tmp_path / "second", "quay.io", 'server = "http://mirror"')
    config_path = f"{tmp_path}/missing:{tmp_path}/first:{tmp_path}/second"
    assert bases(hosts_for("quay.io", config_path)) == ["http://mirror/v2"]


@pytest.mark.parametrize("name", ["quay.io_5000_", "quay.io:5000", "_default"])
def test_directory_names(tmp_path: Path, name: str) -> None:
    write(tmp_path, name, 'server = "http://mirror"')
    assert bases(hosts_for("quay.io:5000", str(tmp_path))) == ["http://mirror/v2"]


def test_certificate_files_without_hosts_toml(tmp_path: Path) -> None:
    directory = tmp_path / "quay.io"
    directory.mkdir()
    for name in ("a.crt", "b.cert", "b.key"):
        (directory / name).write_text("")
    (host,) = hosts_for("quay.io", str(tmp_path))
    assert host.ca == (directory / "a.crt",)
    assert host.client == ((directory / "b.cert", directory / "b.key"),)


def test_certificate_file_that_holds_its_key(tmp_path: Path) -> None:
    directory = tmp_path / "quay.io"
    directory.mkdir()
    (directory / "both.cert").write_text("")
    (host,) = hosts_for("quay.io", str(tmp_path))
    assert host.client == ((directory / "both.cert", None),)


def test_http_with_tls_settings_tries_tls_first(tmp_path: Path) -> None:
    write(tmp_path, "r", 'server = "http://r:5000"\nskip_verify = true')
    (host,) = hosts_for("r", str(tmp_path))
    assert (host.scheme, host.plain_fallback) == ("https", True)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("server\nca = 1", "at line 1"),
        ('server = "ftp://x"', "'ftp://x' is not an http or https URL"),
        (
            '[host."https://m"]\ncapabilities = ["pul"]',
            "capabilities: unknown capability",
        ),
        ('[host."https://m"]\nca = 1', 'host."https://m".ca: must be a string or a list'),
        ("skip_verify = 1", "skip_verify: must be true or false, not 1"),
        ('override_path = "x"', "override_path: must be true or false"),
        ('client = [["a", "b", "c"]]', "client: a pair must be a certificate and its key"),
        ('dial_timeout = "soon"', "dial_timeout: must be a duration such as"),
        ("host = 1", "write mirrors as tables"),
    ],
)
def test_malformed_file_is_named_with_its_fault(tmp_path: Path, text: str, reason: str) -> None:
    write(tmp_path, "quay.io", text)
    with pytest.raises(FailedPrecondition) as refused:
        hosts_for("quay.io", str(tmp_path))
    assert f"cannot use {tmp_path}/quay.io/hosts.toml: " in str(refused.value)
    assert reason in str(refused.value)


def test_key_for_a_newer_containerd_is_ignored(tmp_path: Path) -> None:
    write(tmp_path, "quay.io", 'server = "https://q"\ndial_address = "x"')
    assert bases(hosts_for("quay.io", str(tmp_path))) == ["https://q/v2"]


def test_mirrors_are_told_what_they_stand_for() -> None:
    hub = RegistryHost("https", "registry-1.docker.io")
    assert hub.stands_for("docker.io")
    assert not hub.stands_for("quay.io")
    assert not RegistryHost("https", "mirror").stands_for("docker.io")


def test_loopback_names() -> None:
    assert all(map(is_localhost, ["localhost", "localhost:1", "127.9.9.9:5000", "[::1]"]))
    assert not any(map(is_localhost, ["localhost.example.com", "10.0.0.1", "example.com:80"]))


def test_headers_are_not_shown() -> None:
    assert "secret" not in repr(RegistryHost("https", "h", headers=(("authorization", "secret"),)))
