"""Indexes, manifests and configs are parsed as they occur in registries."""

from __future__ import annotations

import hashlib
import json

import pytest

from runtime.errors import CriError, FailedPrecondition
from runtime.images.manifest import (
    INDEX_TYPES,
    MANIFEST_TYPES,
    Descriptor,
    Index,
    Manifest,
    chain_ids,
    child_labels,
    parse,
    parse_config,
    sniff,
)
from runtime.images.platforms import Platform

CONFIG = Descriptor("application/vnd.oci.image.config.v1+json", "sha256:" + "c" * 64, 10)
LAYER = Descriptor("application/vnd.oci.image.layer.v1.tar+gzip", "sha256:" + "1" * 64, 20)
DIFF_ID = "sha256:" + "d" * 64


def document(**changes: object) -> bytes:
    def described(d: Descriptor) -> dict[str, object]:
        return {"mediaType": d.media_type, "digest": d.digest, "size": d.size}

    whole = {"schemaVersion": 2, "config": described(CONFIG), "layers": [described(LAYER)]}
    return json.dumps({**whole, **changes}).encode()


def layer(**changes: object) -> dict[str, object]:
    whole = {"mediaType": LAYER.media_type, "digest": LAYER.digest, "size": LAYER.size}
    return {**whole, **changes}


@pytest.mark.parametrize("media_type", MANIFEST_TYPES)
def test_manifest(media_type: str) -> None:
    assert parse(document(), media_type, "sha256:m") == Manifest(CONFIG, (LAYER,), "sha256:m")


@pytest.mark.parametrize(
    ("data", "media_type", "reason"),
    [
        (b"<html>", MANIFEST_TYPES[0], "it is not JSON"),
        (b"[]", MANIFEST_TYPES[0], "it: expected `object`, got `array`"),
        (b'{"layers": ' + b"[" * 100_000, MANIFEST_TYPES[0], "it is "),
        (document(schemaVersion=1), MANIFEST_TYPES[0], "is a schema 1 manifest"),
        (document(layers={}), MANIFEST_TYPES[0], "layers: expected `array | null`, got `object`"),
        (document(layers=[{}]), MANIFEST_TYPES[0], "layers[0]: object missing required field"),
        (
            document(layers=[layer(mediaType=f"{LAYER.media_type}+encrypted")]),
            MANIFEST_TYPES[0],
            "has encrypted layers; encrypted images are not supported yet",
        ),
        (document(config={}), MANIFEST_TYPES[0], "config: object missing required field"),
        (document(config=None), MANIFEST_TYPES[0], "config: expected `object`, got `null`"),
        (document(layers=[layer(size=-1)]), MANIFEST_TYPES[0], "layers[0].size: expected `int` >="),
        (document(layers=[layer(size=1 << 63)]), MANIFEST_TYPES[0], "layers[0].size: expected"),
        (document(layers=[layer(size="1")]), MANIFEST_TYPES[0], "layers[0].size: expected `int`"),
        (
            document().replace(b'"size": 20', b'"size": 1e999'),
            MANIFEST_TYPES[0],
            "layers[0].size: number out of range",
        ),
        (document(layers=[layer(digest="md5:1")]), MANIFEST_TYPES[0], "layers[0].digest: 'md5:1'"),
        (
            document(manifests=[layer(digest="shake_128:00")]),
            INDEX_TYPES[0],
            "manifests[0].digest: 'shake_128:00' is not a digest (sha256, sha384 or sha512)",
        ),
        (document(manifests=5), INDEX_TYPES[0], "manifests: expected `array | null`, got `int`"),
        (document(), "text/html", "is 'text/html', which is not an image"),
        (
            document(layers=[layer(mediaType="text/x")]),
            MANIFEST_TYPES[0],
            "has a layer of unknown type 'text/x'",
        ),
    ],
)
def test_refusal_names_digest_and_reason(data: bytes, media_type: str, reason: str) -> None:
    with pytest.raises(CriError) as refused:
        parse(data, media_type, "sha256:m")
    assert "sha256:m" in str(refused.value)
    assert reason in str(refused.value)


@pytest.mark.parametrize(
    ("served", "data", "found"),
    [
        (MANIFEST_TYPES[1] + "; charset=utf-8", document(), MANIFEST_TYPES[1]),
        ("application/json", document(), MANIFEST_TYPES[0]),
        ("", json.dumps({"manifests": []}).encode(), INDEX_TYPES[0]),
        ("text/plain", document(mediaType=MANIFEST_TYPES[1]), MANIFEST_TYPES[1]),
        ("", json.dumps({"config": {}}).encode(), MANIFEST_TYPES[0]),
        ("text/html", b"<html>", "text/html"),
        ("text/html", b"[" * 100_000, "text/html"),
    ],
)
def test_media_type_of_servers_that_do_not_know_it(served: str, data: bytes, found: str) -> None:
    assert sniff(data, served) == found


@pytest.mark.parametrize("layers", [{"layers": None}, {"layers": []}, {}])
def test_image_without_layers(layers: dict[str, object]) -> None:
    whole = json.loads(document()) | {"layers": None} | layers
    if not layers:
        del whole["layers"]
    assert parse(json.dumps(whole).encode(), MANIFEST_TYPES[0], "sha256:m") == Manifest(
        CONFIG, (), "sha256:m"
    )


def test_places_where_a_layer_may_be_had_besides_its_registry() -> None:
    data = document(layers=[layer(urls=["https://elsewhere.example/l"])])
    manifest = parse(data, MANIFEST_TYPES[0], "sha256:m")
    assert isinstance(manifest, Manifest)
    assert manifest.layers[0].urls == ("https://elsewhere.example/l",)


def test_entries_of_an_index() -> None:
    digest = LAYER.digest
    platform = {"os": "linux", "architecture": "arm", "variant": "v7", "os.features": ["b", "a"]}
    data = json.dumps({"manifests": [{"digest": digest}, {"digest": digest, "platform": platform}]})
    parsed = parse(data.encode(), INDEX_TYPES[0], "sha256:m")
    one = Descriptor("", digest, 0)
    assert parsed == Index(((one, None), (one, Platform("linux", "arm", "v7", ("a", "b")))))
    assert parse(b'{"manifests": null}', INDEX_TYPES[0], "sha256:m") == Index(())


def test_sizes_beyond_the_cris_range_are_capped() -> None:
    data = document(layers=[layer(size=(1 << 63) - 1)] * 3)
    manifest = parse(data, MANIFEST_TYPES[0], "sha256:m")
    assert isinstance(manifest, Manifest)
    assert manifest.size == (1 << 63) - 1


def config_of(**run: object) -> bytes:
    return json.dumps({"rootfs": {"diff_ids": [DIFF_ID]}, "config": run}).encode()


def test_config_with_nulls_as_old_builders_write_them() -> None:
    config = parse_config(config_of(Env=None, Volumes={"/b": {}}, Labels={"a": None}), "", "c")
    assert (config.env, config.volumes, config.user) == ((), ("/b",), "")
    assert config.labels == {"a": ""}
    for empty in (b"{}", b'{"rootfs": {"diff_ids": null}, "config": null}', b'{"rootfs": null}'):
        assert parse_config(empty, "", "c").cmd == ()
        assert parse_config(empty, "", "c").diff_ids == ()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (config_of(User=1000), "config.User: expected `str | null`, got `int`"),
        (config_of(User=["a"]), "config.User: expected `str | null`, got `array`"),
        (config_of(Env="A=B"), "config.Env: expected `array | null`, got `str`"),
        (config_of(Env=[1]), "config.Env[0]: expected `str | null`, got `int`"),
        (config_of(Cmd={"a": 1}), "config.Cmd: expected `array | null`, got `object`"),
        (config_of(Labels={"a": 1}), "config.Labels[...]: expected `str | null`, got `int`"),
        (config_of(Volumes=["/a"]), "config.Volumes: expected `object | null`, got `array`"),
        (config_of(StopSignal=15), "config.StopSignal: expected `str | null`, got `int`"),
        (config_of(WorkingDir=False), "config.WorkingDir: expected `str | null`, got `bool`"),
        (config_of(Volumes={"/a\0b": {}}), "config.Volumes: contains a NUL byte"),
        (config_of(User="a\0"), "config.User: contains a NUL byte"),
        (b'{"config": []}', "config: expected `object | null`, got `array`"),
        (b'{"rootfs": {"diff_ids": [5]}}', "rootfs.diff_ids[0]: expected `str | null`, got `int`"),
        (b'{"rootfs": {"diff_ids": ["x"]}}', "rootfs.diff_ids[0]: 'x' is not a digest"),
        (b'{"architecture": 1}', "architecture: expected `str | null`, got `int`"),
        (b'{"config": {"User": ' + b"[" * 100_000, "c: "),
        (b"\xff\xfe", "it is not JSON"),
    ],
)
def test_config_of_the_wrong_shape_is_refused_with_the_field(data: bytes, reason: str) -> None:
    with pytest.raises(FailedPrecondition) as refused:
        parse_config(data, "", "sha256:c")
    assert str(refused.value).startswith("sha256:c")
    assert reason in str(refused.value)


@pytest.mark.parametrize(
    "data",
    [
        rb'{"config": {"User": "\ud800"}}',
        b'{"config": {"User": "\xe9"}}',
    ],
    ids=["lone surrogate", "latin-1"],
)
def test_text_that_is_no_unicode_is_replaced_as_in_containerd(data: bytes) -> None:
    assert parse_config(data, "", "sha256:c").user == "\ufffd"


def test_chain_of_layers() -> None:
    second = "sha256:" + hashlib.sha256(b"sha256:a sha256:b").hexdigest()
    assert chain_ids(["sha256:a", "sha256:b"]) == ["sha256:a", second]
    assert chain_ids([]) == []


def test_labels_protect_the_parts() -> None:
    assert child_labels(Manifest(CONFIG, (LAYER,))) == {
        "containerd.io/gc.ref.content.config": CONFIG.digest,
        "containerd.io/gc.ref.content.l.0": LAYER.digest,
    }
    entry = (CONFIG, None)
    assert child_labels(Index((entry, entry))) == {
        "containerd.io/gc.ref.content.m.0": CONFIG.digest,
        "containerd.io/gc.ref.content.m.1": CONFIG.digest,
    }
