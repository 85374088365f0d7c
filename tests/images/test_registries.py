"""Registries as they are in practice: with TLS, with accounts, behind mirrors, on bad
connections."""

from __future__ import annotations

import asyncio
import base64
import ssl
import subprocess
import urllib.request
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from runtime.errors import NotFound, RegistryUnavailable, Unauthenticated
from runtime.images.operations import Images
from tests.harness import images as build
from tests.harness.daemon import Daemon
from tests.harness.proxy import Proxy
from tests.harness.registry import Registry, free_port
from tests.harness.token_server import TokenServer, self_signed
from tests.harness.waiting import PATIENCE
from tests.images.conftest import MakeImages, pull, write_hosts

# TLS


@pytest.fixture
def tls_registry(tmp_path: Path, image: build.Image) -> Iterator[tuple[Registry, Path]]:
    key, certificate = self_signed(tmp_path, "registry")
    tls = f"  tls:\n    certificate: {certificate}\n    key: {key}\n"
    with Registry(tmp_path / "data", http=tls, scheme="https") as registry:
        context = ssl.create_default_context(cafile=str(certificate))
        opener = partial(urllib.request.urlopen, context=context)
        build.push(registry.url, "app:1", {"amd64": image}, opener=opener)
        yield registry, certificate


async def test_tls_with_a_private_authority(
    images: Images, tmp_path: Path, tls_registry: tuple[Registry, Path]
) -> None:
    registry, certificate = tls_registry
    write_hosts(tmp_path, "private.example", f'server = "{registry.url}"\nca = "{certificate}"\n')
    assert await pull(images, "private.example/app:1")


async def test_untrusted_certificate_is_refused_with_the_remedy(
    images: Images, tmp_path: Path, tls_registry: tuple[Registry, Path]
) -> None:
    registry, _ = tls_registry
    write_hosts(tmp_path, "private.example", f'server = "{registry.url}"\n')
    with pytest.raises(
        RegistryUnavailable, match=r"certificate is not trusted .*set its CA in hosts.toml"
    ):
        await pull(images, "private.example/app:1")


async def test_verification_can_be_switched_off(
    images: Images, tmp_path: Path, tls_registry: tuple[Registry, Path]
) -> None:
    registry, _ = tls_registry
    write_hosts(tmp_path, "private.example", f'server = "{registry.url}"\nskip_verify = true\n')
    assert await pull(images, "private.example/app:1")


async def test_tls_to_loopback_is_not_verified(
    images: Images, tls_registry: tuple[Registry, Path]
) -> None:
    registry, _ = tls_registry
    assert await pull(images, f"{registry.host}/app:1")


# Accounts


@pytest.fixture
def basic_registry(tmp_path: Path, image: build.Image) -> Iterator[Registry]:
    made = subprocess.run(
        ["htpasswd", "-Bbn", "me", "hunter2"], capture_output=True, text=True, check=True
    )
    (tmp_path / "htpasswd").write_text(made.stdout)
    auth = f"auth:\n  htpasswd:\n    realm: test\n    path: {tmp_path}/htpasswd\n"
    with Registry(tmp_path / "data", auth=auth) as registry:
        build.push(registry.url, "app:1", {"amd64": image}, headers={"Authorization": BASIC})
        yield registry


BASIC = "Basic " + base64.b64encode(b"me:hunter2").decode()


@pytest.mark.parametrize(
    "auth",
    [
        {"username": "me", "password": "hunter2"},
        {"auth": BASIC.removeprefix("Basic ")},
    ],
)
async def test_name_and_password(
    images: Images, basic_registry: Registry, auth: dict[str, str]
) -> None:
    assert await pull(images, f"{basic_registry.host}/app:1", **auth)


@pytest.mark.parametrize(
    "auth",
    [
        {},
        {"username": "me", "password": "wrong-secret"},
        {"username": "me", "password": "hunter2", "server_address": "elsewhere.example"},
    ],
)
async def test_refusal_is_unauthenticated_and_hides_the_credentials(
    images: Images, basic_registry: Registry, auth: dict[str, str]
) -> None:
    with capture_logs() as logs, pytest.raises(Unauthenticated, match="401") as refused:
        await pull(images, f"{basic_registry.host}/app:1", **auth)
    for secret in ("hunter2", "wrong-secret", BASIC.removeprefix("Basic ")):
        assert secret not in str(refused.value) + str(logs)


async def test_present_image_still_needs_its_credentials(
    images: Images, basic_registry: Registry
) -> None:
    """Clusters use the policy Always to keep tenants from using each other's images."""
    name = f"{basic_registry.host}/app:1"
    await pull(images, name, username="me", password="hunter2")
    with pytest.raises(Unauthenticated):
        await pull(images, name)


@pytest.fixture
async def token_registry(
    tmp_path: Path, image: build.Image
) -> AsyncIterator[tuple[Registry, TokenServer]]:
    async with TokenServer(tmp_path, free_port()) as tokens:
        with Registry(tmp_path / "data", auth=tokens.registry_auth) as registry:
            header = {"Authorization": f"Bearer {tokens.token('team/app', ['pull', 'push'])}"}
            await asyncio.to_thread(
                build.push, registry.url, "team/app:1", {"amd64": image}, headers=header
            )
            yield registry, tokens


async def test_token_by_oauth(images: Images, token_registry: tuple[Registry, TokenServer]) -> None:
    registry, tokens = token_registry
    await pull(
        images, f"{registry.host}/team/app:1", username=tokens.username, password=tokens.password
    )
    ((method, parameters),) = tokens.asked
    assert method == "POST"
    assert parameters["scope"] == "repository:team/app:pull"
    assert parameters["service"] == "test-registry"


async def test_token_by_get_if_post_is_not_supported(
    images: Images, token_registry: tuple[Registry, TokenServer]
) -> None:
    registry, tokens = token_registry
    tokens.knows_post = False
    await pull(
        images, f"{registry.host}/team/app:1", username=tokens.username, password=tokens.password
    )
    assert [method for method, _ in tokens.asked] == ["POST", "GET"]


async def test_identity_token(images: Images, token_registry: tuple[Registry, TokenServer]) -> None:
    registry, tokens = token_registry
    await pull(images, f"{registry.host}/team/app:1", identity_token=tokens.identity_token)
    assert tokens.asked[0][1]["grant_type"] == "refresh_token"


async def test_registry_token_goes_to_the_registry(
    images: Images, token_registry: tuple[Registry, TokenServer]
) -> None:
    registry, tokens = token_registry
    token = tokens.token("team/app", ["pull"])
    await pull(images, f"{registry.host}/team/app:1", registry_token=token)
    assert tokens.asked == []


async def test_refused_by_the_token_server(
    images: Images, token_registry: tuple[Registry, TokenServer]
) -> None:
    registry, _ = token_registry
    with pytest.raises(Unauthenticated, match=r"token server .*/token answered 401") as refused:
        await pull(images, f"{registry.host}/team/app:1", username="x", password="wrong-secret")
    assert "wrong-secret" not in str(refused.value)


# Mirrors


async def test_mirrors_in_their_order_then_the_server(
    images: Images, tmp_path: Path, registry: Registry, image: build.Image
) -> None:
    build.push(registry.url, "mirrored:1", {"amd64": image})
    async with Proxy(registry.url) as wrong, Proxy(registry.url) as right:
        wrong.statuses = [404, 404, 404]
        write_hosts(
            tmp_path,
            "upstream.example",
            f'server = "{right.url}"\n[host."http://127.0.0.1:1"]\n[host."{wrong.url}"]\n'
            f'  capabilities = ["pull", "resolve"]\n  [host."{wrong.url}".header]\n  x-a = "b"\n',
        )
        await pull(images, "upstream.example/mirrored:1")
    assert wrong.asked[0].query == "ns=upstream.example"
    assert wrong.asked[0].headers["x-a"] == "b"
    assert right.asked


async def test_every_host_and_its_reason_is_told(
    images: Images, tmp_path: Path, registry: Registry
) -> None:
    write_hosts(
        tmp_path,
        "upstream.example",
        f'server = "{registry.url}"\n[host."http://127.0.0.1:1"]\n',
    )
    with pytest.raises(NotFound) as refused:
        await pull(images, "upstream.example/absent:1")
    assert "http://127.0.0.1:1/v2: " in str(refused.value)
    assert f"{registry.url}/v2: 404 Not Found: MANIFEST_UNKNOWN" in str(refused.value)


async def test_host_without_a_capability_is_skipped(
    images: Images, tmp_path: Path, registry: Registry, image: build.Image
) -> None:
    build.push(registry.url, "split:1", {"amd64": image})
    async with Proxy(registry.url) as blobs_only, Proxy(registry.url) as server:
        write_hosts(
            tmp_path,
            "upstream.example",
            f'server = "{server.url}"\n[host."{blobs_only.url}"]\ncapabilities = ["pull"]\n',
        )
        await pull(images, "upstream.example/split:1")
    assert not any(one.path.endswith("/manifests/1") for one in blobs_only.asked)
    assert len(blobs_only.blobs()) == 4
    assert server.blobs() == []


async def test_second_directory_of_config_path(
    make_images: MakeImages, tmp_path: Path, registry: Registry, image: build.Image
) -> None:
    build.push(registry.url, "listed:1", {"amd64": image})
    write_hosts(tmp_path, "upstream.example", f'server = "{registry.url}"\n')
    config_path = f"{tmp_path}/none:{tmp_path}/certs.d"
    images = await make_images(registry={"config_path": config_path})
    assert await pull(images, "upstream.example/listed:1")


# Bad connections


@pytest.fixture
def large(registry: Registry, image: build.Image) -> build.Image:
    build.push(registry.url, "large:1", {"amd64": image})
    return image


async def test_interrupted_blobs_are_resumed(
    images: Images, registry: Registry, large: build.Image
) -> None:
    async with Proxy(registry.url) as proxy:
        proxy.cuts, proxy.cut_after = 6, 300_000
        assert await pull(images, f"{proxy.host}/large:1") == large.config.digest
    ranges = [one.headers["Range"] for one in proxy.blobs() if "Range" in one.headers]
    assert len(ranges) == 6
    assert all(not one.startswith("bytes=0-") for one in ranges)


async def test_server_without_range_support_works(
    images: Images, registry: Registry, large: build.Image
) -> None:
    async with Proxy(registry.url) as proxy:
        proxy.cuts, proxy.cut_after, proxy.drop_range = 3, 300_000, True
        assert await pull(images, f"{proxy.host}/large:1") == large.config.digest


@pytest.mark.parametrize("fault", ["none", "cuts", "no ranges"])
async def test_large_layers_come_in_parts_at_the_same_time(
    make_images: MakeImages, registry: Registry, large: build.Image, fault: str
) -> None:
    images = await make_images(concurrent_layer_fetch_buffer=200_000)
    async with Proxy(registry.url) as proxy:
        if fault == "cuts":
            proxy.cuts, proxy.cut_after = 5, 100_000
        proxy.drop_range = fault == "no ranges"
        assert await pull(images, f"{proxy.host}/large:1") == large.config.digest
    layers = {layer.digest for layer in large.layers}
    asked = [one for one in proxy.blobs() if one.path.rpartition("/")[2] in layers]
    ranges = [one.headers.get("Range", "") for one in asked]
    if fault == "no ranges":
        # each layer is first requested in part, and then as a whole
        assert len(ranges) == 2 * len(layers)
    else:
        assert "bytes=0-199999" in ranges
        assert len(set(ranges)) > 4
        assert len(ranges) > 12


def has_part_of_a_layer(daemon: Daemon) -> bool:
    """Whether containerd has received bytes of a layer that is not complete."""
    rows = [line.split() for line in daemon.ctr("content", "active").splitlines()]
    return any("layer-sha256:" in ref and size != "0B" for ref, size, *_ in rows)


async def test_next_pull_resumes_the_cancelled_one(
    images: Images, daemon: Daemon, registry: Registry, large: build.Image
) -> None:
    """The write of a blob outlives the pull, so a restarted kubelet or server loses little."""
    async with Proxy(registry.url) as proxy:
        name = f"{proxy.host}/large:1"
        # a layer is longer, and the first message to containerd shorter
        proxy.stall_after = 600_000
        first = asyncio.create_task(pull(images, name))
        async with asyncio.timeout(PATIENCE):
            while not await asyncio.to_thread(has_part_of_a_layer, daemon):
                pass
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        assert "layer-sha256:" in daemon.ctr("content", "active")
        proxy.stall_after = None
        proxy.asked.clear()
        assert await pull(images, name) == large.config.digest
        assert any(one.headers.get("Range", "") > "bytes=1" for one in proxy.blobs())


async def test_overloaded_registry_is_asked_again(
    images: Images, registry: Registry, large: build.Image
) -> None:
    async with Proxy(registry.url) as proxy:
        proxy.statuses = [503, 429]
        assert await pull(images, f"{proxy.host}/large:1") == large.config.digest


async def test_registry_that_stays_unreachable_is_unavailable(
    images: Images, registry: Registry, large: build.Image
) -> None:
    async with Proxy(registry.url) as proxy:
        proxy.statuses = [503] * 9
        with pytest.raises(
            RegistryUnavailable, match=r"^RegistryUnavailable: cannot resolve .*: 503 "
        ):
            await pull(images, f"{proxy.host}/large:1")


async def test_pull_without_progress_ends(
    make_images: MakeImages, daemon: Daemon, registry: Registry, large: build.Image
) -> None:
    images = await make_images(image_pull_progress_timeout="1s")
    async with Proxy(registry.url) as proxy:
        proxy.stall_after = 0
        with pytest.raises(RegistryUnavailable, match="no data received for 1 s"):
            await asyncio.wait_for(pull(images, f"{proxy.host}/large:1"), PATIENCE)
