"""Images and registries that are unusual, broken or hostile."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from generated.cri import api_pb2
from generated.plans import ListImagesPlan
from runtime.errors import CriError, FailedPrecondition, NotFound, Unauthenticated
from runtime.images.operations import Images
from runtime.images.registry import host as registry_host
from tests.harness import images as build
from tests.harness.daemon import Daemon
from tests.harness.memory_registry import MemoryRegistry
from tests.harness.registry import free_port
from tests.harness.waiting import PATIENCE
from tests.images.conftest import MakeImages, pull, removal, status, write_hosts


@pytest.fixture
async def odd() -> AsyncIterator[MemoryRegistry]:
    async with MemoryRegistry() as registry:
        yield registry


def small(name: str, **fields: Any) -> build.Image:
    """An image with one layer of its own."""
    return build.image([build.layer_tar({name: name.encode()})], **fields)


def blob(document: Any, media_type: str) -> build.Blob:
    return build.Blob(json.dumps(document).encode(), media_type)


def with_manifest(image: build.Image, **fields: Any) -> build.Image:
    """The image with other fields in its manifest; None leaves a field null."""
    document = json.loads(image.manifest.data) | fields
    return replace(image, manifest=blob(document, build.OCI_MANIFEST))


def with_config(image: build.Image, config: Any) -> build.Image:
    made = replace(image, config=blob(config, build.OCI_CONFIG))
    return with_manifest(made, config=made.config.descriptor)


def index(*entries: build.Blob) -> build.Blob:
    """An index without platforms."""
    manifests = [entry.descriptor for entry in entries]
    return blob({"schemaVersion": 2, "manifests": manifests}, build.OCI_INDEX)


async def listed(images: Images) -> list[api_pb2.Image]:
    return list((await images.list(ListImagesPlan(image=""))).images)


# Manifests, indexes and configs


@pytest.mark.parametrize("diff_ids", [None, []])
async def test_image_without_layers(images: Images, odd: MemoryRegistry, diff_ids: Any) -> None:
    config = {"architecture": "amd64", "rootfs": {"diff_ids": diff_ids}, "config": {"Cmd": None}}
    image = with_manifest(with_config(build.image([]), config), layers=None)
    odd.put("empty", image)
    assert await pull(images, f"{odd.host}/app:empty") == image.config.digest
    found = await images.resolve(image.config.digest)
    assert found is not None
    assert await images.unpacked(found, "overlayfs") == ""


async def test_nested_index_is_found_at_the_pull_and_after_a_restart(
    make_images: MakeImages, odd: MemoryRegistry
) -> None:
    image = odd.put("amd", small("amd"))
    arm = odd.put("arm", small("arm", architecture="arm64"))
    inner = odd.add("inner", build.index({"arm64": arm, "amd64": image}))
    odd.add("outer", index(odd.add("between", index(inner))))
    name = f"{odd.host}/app:outer"
    assert await pull(await make_images(), name) == image.config.digest
    assert (await status(await make_images(), name)).id == image.config.digest


async def test_config_decides_if_the_index_has_no_platform(
    make_images: MakeImages, odd: MemoryRegistry
) -> None:
    arm = odd.put("arm", small("arm", architecture="arm64"))
    image = odd.put("amd", small("amd"))
    odd.add("both", index(arm.manifest, image.manifest))
    name = f"{odd.host}/app:both"
    assert await pull(await make_images(), name) == image.config.digest
    assert (await status(await make_images(), name)).id == image.config.digest


async def test_no_image_in_the_index_matches(images: Images, odd: MemoryRegistry) -> None:
    arm = odd.put("arm", small("arm", architecture="arm64"))
    odd.add("both", index(arm.manifest))
    with pytest.raises(NotFound, match=r"no image for linux/amd64; available: linux/arm64$"):
        await pull(images, f"{odd.host}/app:both")


@pytest.mark.parametrize(
    ("run", "reason"),
    [
        ({"User": 1000}, "config.User: expected `str | null`, got `int`"),
        ({"User": ["a"]}, "config.User: expected `str | null`, got `array`"),
        ({"Env": ["A=B", 5]}, "config.Env[1]: expected `str | null`, got `int`"),
    ],
)
async def test_config_of_wrong_types_is_refused_at_the_pull(
    images: Images, odd: MemoryRegistry, run: Any, reason: str
) -> None:
    image = odd.put("bad", small("bad", config=run))
    with pytest.raises(FailedPrecondition) as refused:
        await pull(images, f"{odd.host}/app:bad")
    assert refused.value.message == f"{image.config.digest}: {reason}"
    assert await listed(images) == []


async def test_image_with_an_invalid_utf8_user_is_listed(
    images: Images, odd: MemoryRegistry
) -> None:
    odd.put("user", small("user", config={"User": "\ud800"}))
    await pull(images, f"{odd.host}/app:user")
    assert [image.username for image in await listed(images)] == ["\ufffd"]


async def test_bad_image_of_another_client_does_not_fail_the_list(
    images: Images, daemon: Daemon, odd: MemoryRegistry, tmp_path: Path
) -> None:
    good = odd.put("good", small("good"))
    await pull(images, f"{odd.host}/app:good")
    bad = small("bad", config={"User": 1000})
    (tmp_path / "bad.tar").write_bytes(build.archive(bad, "docker.io/library/bad:1"))
    daemon.ctr("images", "import", "--no-unpack", str(tmp_path / "bad.tar"))
    await images.reconcile()
    assert [image.id for image in await listed(images)] == [good.config.digest]
    await images.remove(removal("bad:1"))
    assert "bad" not in daemon.ctr("images", "list", "-q")


async def test_image_whose_layers_are_gone_is_not_listed_and_repaired_by_a_pull(
    make_images: MakeImages, daemon: Daemon, odd: MemoryRegistry
) -> None:
    image = odd.put("gone", small("gone"))
    name = f"{odd.host}/app:gone"
    images = await make_images()
    await pull(images, name)
    found = await images.resolve(name)
    assert found is not None
    daemon.ctr("content", "label", found.id, "containerd.io/gc.ref.snapshot.overlayfs=")
    # without the label the snapshot may be garbage-collected before it is removed
    with contextlib.suppress(RuntimeError):
        daemon.ctr("snapshots", "rm", found.chain_id)
    assert found.chain_id not in daemon.ctr("snapshots", "ls")
    daemon.ctr("content", "rm", image.layers[0].digest)
    again = await make_images()
    assert await listed(again) == []
    # a server that knew the image before detects it when it is used
    with pytest.raises(
        NotFound, match=f"layer {image.layers[0].digest} of .* pull the image again"
    ):
        await images.unpacked(found, "overlayfs")
    assert await listed(images) == []
    assert await pull(again, name) == image.config.digest
    assert [one.id for one in await listed(again)] == [image.config.digest]


async def test_failed_unpack_names_image_layer_and_its_place(
    images: Images, odd: MemoryRegistry
) -> None:
    good = build.layer_tar({"good": b""})
    image = build.image([good, build.layer_tar({"bad": b""})])
    broken = build.Blob(b"this is no gzip", image.layers[1].media_type)
    layers = (image.layers[0], broken)
    image = with_manifest(
        replace(image, layers=layers), layers=[layer.descriptor for layer in layers]
    )
    odd.put("broken", image)
    with pytest.raises(CriError) as failed:
        await pull(images, f"{odd.host}/app:broken")
    assert failed.value.message.startswith(
        f"cannot unpack layer 2 of 2 ({broken.digest}) of {odd.host}/app:broken: "
    )


# Registries


async def test_error_reason_that_is_not_utf8_ends_the_pull(images: Images, tmp_path: Path) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 404 Objet non trouv\xe9\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    write_hosts(tmp_path, "old.example", f'server = "http://127.0.0.1:{port}"\n')
    async with server:
        with pytest.raises(NotFound, match="404 Objet non trouv\ufffd"):
            await pull(images, "old.example/app:1")


async def test_proxy_and_credentials_are_decided_for_every_address(
    images: Images, odd: MemoryRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The registry is reached directly, its storage and its token server only through the proxy."""
    image = odd.put("app", small("proxied"))

    async def redirect(request: web.Request) -> web.Response | None:
        if request.headers.get("Authorization") != "Bearer good":
            challenge = 'Bearer realm="http://tokens.invalid/token",service="s"'
            return web.Response(status=401, headers={"WWW-Authenticate": challenge})
        if "/blobs/" not in request.path:
            return None
        signed = f"http://storage.invalid{request.path}?signature=a%2Fb%3D"
        return web.Response(status=307, headers={"Location": signed})

    odd.odd = redirect
    async with MemoryRegistry(blobs=odd.blobs) as proxy:

        async def token(request: web.Request) -> web.Response | None:
            return web.json_response({"token": "good"}) if request.path == "/token" else None

        proxy.odd = token
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("NO_PROXY", odd.host)
        name = f"{odd.host}/app:app"
        assert await pull(images, name, username="me", password="hunter2") == image.config.digest
        assert {*proxy.addresses} == {"tokens.invalid", "storage.invalid"}
        at_storage = [one for one in proxy.asked if "/blobs/" in one.path]
        assert {one.query for one in at_storage} == {"signature=a%2Fb%3D"}
        assert not any("Authorization" in one.headers for one in at_storage)


async def test_unsupported_proxy_is_refused_with_its_reason(
    images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "socks5://127.0.0.1:1")
    with pytest.raises(FailedPrecondition, match=r"type 'socks5' for registry\.invalid: only http"):
        await pull(images, "registry.invalid/app:1")


async def test_headers_of_hosts_toml_go_to_the_token_server_too(
    images: Images, odd: MemoryRegistry, tmp_path: Path
) -> None:
    image = odd.put("app", small("headers"))

    async def protect(request: web.Request) -> web.Response | None:
        if request.headers.get("x-tenant") != "blue-tenant":
            return web.Response(status=403)
        if request.path == "/token":
            return web.json_response({"token": "good"})
        if request.headers.get("Authorization") == "Bearer good":
            return None
        realm = f'Bearer realm="{odd.url}/token"'
        return web.Response(status=401, headers={"WWW-Authenticate": realm})

    odd.odd = protect
    write_hosts(
        tmp_path, "private.example", f'server = "{odd.url}"\n[header]\nx-tenant = "blue-tenant"\n'
    )
    assert await pull(images, "private.example/app:app") == image.config.digest


async def test_headers_of_the_configuration_go_to_every_host_and_files_replace_them(
    make_images: MakeImages, odd: MemoryRegistry, tmp_path: Path
) -> None:
    headers = {"X-Node": ["one"], "X-Tenant": ["green", "blue"]}
    images = await make_images(
        registry={"config_path": str(tmp_path / "certs.d"), "headers": headers}
    )
    odd.put("app", small("headers"))
    async with MemoryRegistry() as mirror:
        write_hosts(
            tmp_path,
            "h.example",
            f'server = "{odd.url}"\n[host."{mirror.url}"]\n'
            f'[host."{mirror.url}".header]\nx-tenant = "red"\n',
        )
        await pull(images, "h.example/app:app")
        assert {one.headers["X-Node"] for one in (*mirror.asked, *odd.asked)} == {"one"}
        assert {one.headers["x-tenant"] for one in mirror.asked} == {"red"}
        assert all(one.headers["X-Tenant"] in ("green", "blue") for one in odd.asked)


@pytest.mark.parametrize("refusal", [503, None], ids=["busy", "refused"])
async def test_failing_first_mirror_is_skipped_quickly(
    images: Images, odd: MemoryRegistry, tmp_path: Path, refusal: int | None
) -> None:
    tars = [build.layer_tar({f"layer{i}-{refusal}": b"x" * 5000}) for i in range(7)]
    odd.put("seven", build.image(tars))
    write_hosts(tmp_path, "good.example", f'server = "{odd.url}"\n[host."{odd.url}"]\n')

    async def timed(name: str) -> float:
        began = time.perf_counter()
        await pull(images, name)
        took = time.perf_counter() - began
        await images.remove(removal(name))
        return took

    async with MemoryRegistry() as mirror:
        url = mirror.url if refusal else f"http://127.0.0.1:{free_port()}"

        async def busy(_: web.Request) -> web.Response:
            return web.Response(status=refusal or 500)

        mirror.odd = busy
        write_hosts(tmp_path, "bad.example", f'server = "{odd.url}"\n[host."{url}"]\n')
        with_good = with_bad = float("inf")
        # alternately and the best of some rounds, because a busy machine delays single ones; a wait
        # for a mirror would occur in every round
        for rounds in range(1, 21):
            with_good = min(with_good, await timed("good.example/app:seven"))
            with_bad = min(with_bad, await timed("bad.example/app:seven"))
            if rounds >= 3 and with_bad <= 1.2 * with_good:
                break
        assert len(mirror.asked) == (rounds if refusal else 0), "asked once in each pull"
    assert with_bad <= 1.2 * with_good


@pytest.mark.parametrize("answers", ["nothing", "headers"])
async def test_silent_mirror_is_abandoned_for_the_next_host(
    images: Images,
    odd: MemoryRegistry,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    answers: str,
) -> None:
    monkeypatch.setattr(registry_host, "_MIRROR_ANSWER_TIMEOUT", -2.7)
    monkeypatch.setattr(registry_host, "_MIRROR_SILENCE", 0.3)
    image = odd.put("app", small(f"silent-{answers}"))
    released = asyncio.Event()

    async def silent(request: web.Request) -> web.StreamResponse | None:
        if answers == "headers":
            if "/blobs/" not in request.path:
                return None
            answer = web.StreamResponse()
            answer.content_length = 1 << 20
            await answer.prepare(request)
        await released.wait()
        return web.Response(status=500)

    async with MemoryRegistry() as mirror:
        mirror.put("app", image)
        mirror.odd = silent
        write_hosts(tmp_path, "s.example", f'server = "{odd.url}"\n[host."{mirror.url}"]\n')
        began = time.perf_counter()
        assert await pull(images, "s.example/app:app") == image.config.digest
        assert time.perf_counter() - began < PATIENCE / 2
        assert len({one.path for one in mirror.asked}) == len(mirror.asked), "asked once"
        released.set()


async def test_mirror_that_lacks_one_blob_is_still_used_for_others(
    images: Images, odd: MemoryRegistry, tmp_path: Path
) -> None:
    image = odd.put("app", small("partial"))
    async with MemoryRegistry(blobs={image.layers[0].digest: image.layers[0].data}) as mirror:
        write_hosts(tmp_path, "part.example", f'server = "{odd.url}"\n[host."{mirror.url}"]\n')
        await pull(images, "part.example/app:app")
        assert mirror.asked[-1].path.endswith(image.layers[0].digest)
    assert not any(one.path.endswith(image.layers[0].digest) for one in odd.asked)


@pytest.mark.parametrize("media_type", ["nondistributable.v1.tar+gzip", "v1.tar+gzip"])
async def test_layer_that_the_registry_lacks_comes_from_its_urls(
    images: Images, odd: MemoryRegistry, media_type: str
) -> None:
    tar = build.layer_tar({f"foreign {media_type}": b"foreign"})
    image = build.image([tar])
    (layer,) = image.layers
    async with MemoryRegistry() as elsewhere:

        async def serve(request: web.Request) -> web.Response | None:
            return web.Response(body=layer.data) if request.path == "/layer" else None

        async def protect(request: web.Request) -> web.Response | None:
            if "Authorization" in request.headers:
                return None
            return web.Response(status=401, headers={"WWW-Authenticate": "Basic"})

        elsewhere.odd, odd.odd = serve, protect
        urls = ["ftp://elsewhere.invalid/x", f"{elsewhere.url}/absent", f"{elsewhere.url}/layer"]
        kind = {"mediaType": f"application/vnd.oci.image.layer.{media_type}"}
        image = with_manifest(image, layers=[layer.descriptor | kind | {"urls": urls}])
        odd.put("foreign", image)
        del odd.blobs[layer.digest]
        name = f"{odd.host}/app:foreign"
        assert await pull(images, name, username="u", password="p") == image.config.digest
        assert not any("Authorization" in one.headers for one in elsewhere.asked)


async def test_foreign_layer_must_have_its_digest(images: Images, odd: MemoryRegistry) -> None:
    image = small("forged")
    (layer,) = image.layers
    async with MemoryRegistry() as elsewhere:

        async def serve(_: web.Request) -> web.Response:
            return web.Response(body=b"x" * len(layer.data))

        elsewhere.odd = serve
        described = layer.descriptor | {"urls": [elsewhere.url]}
        odd.put("forged", with_manifest(image, layers=[described]))
        del odd.blobs[layer.digest]
        with pytest.raises(CriError, match=f"the bytes of {layer.digest} are wrong"):
            await pull(images, f"{odd.host}/app:forged")


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_encoded_answers_are_decoded(
    images: Images, odd: MemoryRegistry, encoding: str
) -> None:
    import zlib

    image = odd.put("app", build.image([build.layer_tar({encoding: b"x" * 9000})]))
    encode = gzip.compress if encoding == "gzip" else zlib.compress

    async def encoded(request: web.Request) -> web.StreamResponse | None:
        name = request.path.rpartition("/")[2]
        document = odd.manifests.get(name)
        data = document.data if document else odd.blobs[name]
        headers = {"Content-Encoding": encoding}
        if document:
            headers["Content-Type"] = document.media_type
        return web.Response(body=encode(data), headers=headers)

    odd.odd = encoded
    assert await pull(images, f"{odd.host}/app:app") == image.config.digest


async def test_layer_labelled_as_encoded_by_storage_is_not_decoded(
    images: Images, odd: MemoryRegistry
) -> None:
    """Objects are stored with ``Content-Encoding: gzip`` if an uploader sets it for .tar.gz."""
    image = odd.put("app", small("stored"))

    async def labelled(request: web.Request) -> web.Response | None:
        data = odd.blobs.get(request.path.rpartition("/")[2])
        encoding = {"Content-Encoding": "gzip"}
        return web.Response(body=data, headers=encoding) if data else None

    odd.odd = labelled
    assert await pull(images, f"{odd.host}/app:app") == image.config.digest


async def test_encoded_bomb_is_refused(images: Images, odd: MemoryRegistry) -> None:
    async def bomb(_: web.Request) -> web.Response:
        body = gzip.compress(bytes(200 << 20), 9)
        return web.Response(body=body, headers={"Content-Encoding": "gzip"})

    odd.odd = bomb
    with pytest.raises(CriError, match="manifest is larger than 8388608 bytes"):
        await pull(images, f"{odd.host}/app:bomb")


async def test_downloads_are_limited_for_the_node(
    make_images: MakeImages, odd: MemoryRegistry
) -> None:
    images = await make_images(max_concurrent_downloads=2)
    for name in ("a", "b", "c"):
        odd.put(name, build.image([build.layer_tar({f"{name}{i}": b""}) for i in range(5)]))

    async def slow(request: web.Request) -> None:
        layers = {d for d in odd.blobs if odd.blobs[d][:2] == b"\x1f\x8b"}
        if request.path.rpartition("/")[2] in layers:
            odd.active += 1
            odd.most_active = max(odd.most_active, odd.active)
            await asyncio.sleep(0.02)
            odd.active -= 1

    odd.odd = slow
    await asyncio.gather(*(pull(images, f"{odd.host}/app:{name}") for name in ("a", "b", "c")))
    assert odd.most_active == 2


async def test_credentials_repeated_by_a_registry_are_hidden(
    images: Images, odd: MemoryRegistry
) -> None:
    """The kubelet copies the text of the error into events."""

    async def echo(request: web.Request) -> web.Response:
        sent = request.headers.get("Authorization", "nothing")
        errors = {"errors": [{"code": "X", "message": f"you sent {sent} " + "y" * 1000}]}
        headers = {"WWW-Authenticate": 'Basic realm="r"'}
        return web.json_response(errors, status=401, reason=f"for {sent}", headers=headers)

    odd.odd = echo
    with pytest.raises(Unauthenticated) as refused:
        await pull(images, f"{odd.host}/app:1", username="bob", password="SEKRETPW")
    assert "you sent Basic [hidden]" in refused.value.message
    assert "Ym9iOlNFS1JFVFBX" not in refused.value.message
    assert len(refused.value.message) < 700


async def test_long_challenge_does_not_hold_up_the_server(
    images: Images, odd: MemoryRegistry
) -> None:
    async def long(_: web.Request) -> web.Response:
        return web.Response(status=401, headers={"WWW-Authenticate": "a" * 30_000 + "!"})

    odd.odd = long
    began = time.thread_time()  # time used by other processes does not count
    with pytest.raises(Unauthenticated):
        await pull(images, f"{odd.host}/app:1")
    assert time.thread_time() - began < 2
