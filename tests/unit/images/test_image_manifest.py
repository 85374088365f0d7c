"""Indexes, manifests and configs are read as they are found in registries."""

from __future__ import annotations

import hashlib
import json

import pytest

from runtime.errors import CriError, NotFound
from runtime.images.manifest import (
    INDEX_TYPES,
    MANIFEST_TYPES,
    Descriptor,
    Index,
    Manifest,
    Platform,
    chain_ids,
    child_labels,
    choose,
    parse,
    parse_config,
    sniff,
)

AMD64 = Platform("linux", "amd64")
CONFIG = Descriptor("application/vnd.oci.image.config.v1+json", "sha256:c", 10)
LAYER = Descriptor("application/vnd.oci.image.layer.v1.tar+gzip", "sha256:l", 20)


def index(*platforms: Platform | None) -> Index:
    """Entries whose digests are their positions."""
    return Index(
        tuple((Descriptor(MANIFEST_TYPES[0], str(i), 1), p) for i, p in enumerate(platforms))
    )


def document(**changes: object) -> bytes:
    def described(d: Descriptor) -> dict[str, object]:
        return {"mediaType": d.media_type, "digest": d.digest, "size": d.size}

    whole = {"schemaVersion": 2, "config": described(CONFIG), "layers": [described(LAYER)]}
    return json.dumps({**whole, **changes}).encode()


@pytest.mark.parametrize(
    ("host", "offered", "chosen"),
    [
        (AMD64, [Platform("linux", "arm64"), AMD64], "1"),
        (AMD64, [Platform("windows", "amd64"), Platform("linux", "x86_64")], "1"),
        (AMD64, [Platform("linux", "386"), AMD64], "1"),
        (AMD64, [Platform("linux", "386")], "0"),
        (AMD64, [Platform("linux", "amd64", "v1")], "0"),
        # what says nothing of its platform comes after what fits
        (AMD64, [None, AMD64], "1"),
        (AMD64, [Platform("linux", "arm64"), None], "1"),
        (Platform("linux", "arm64"), [Platform("linux", "arm64", "v8")], "0"),
        (
            Platform("linux", "arm64"),
            [Platform("linux", "arm", "v6"), Platform("linux", "arm", "v7")],
            "1",
        ),
        (Platform("linux", "arm", "v6"), [Platform("linux", "arm", "v5")], "0"),
    ],
)
def test_best_platform_is_chosen(
    host: Platform, offered: list[Platform | None], chosen: str
) -> None:
    assert choose(index(*offered), host).digest == chosen


def test_newer_variant_does_not_run() -> None:
    with pytest.raises(NotFound, match="it has linux/arm/v7"):
        choose(
            index(Platform("linux", "arm", "v7"), Platform("unknown", "unknown")),
            Platform("linux", "arm", "v6"),
        )


@pytest.mark.parametrize("media_type", MANIFEST_TYPES)
def test_manifest(media_type: str) -> None:
    assert parse(document(), media_type, "sha256:m") == Manifest(CONFIG, (LAYER,))


@pytest.mark.parametrize(
    ("data", "media_type", "reason"),
    [
        (b"<html>", MANIFEST_TYPES[0], "sha256:m is not JSON"),
        (b"[]", MANIFEST_TYPES[0], "is not a JSON object"),
        (document(schemaVersion=1), MANIFEST_TYPES[0], "is a schema 1 manifest"),
        (document(layers=None), MANIFEST_TYPES[0], "does not have the shape of an image"),
        (document(layers=[{}]), MANIFEST_TYPES[0], "does not have the shape of an image"),
        (document(config={}), MANIFEST_TYPES[0], "does not have the shape of an image"),
        (document(), "text/html", "is 'text/html', which is no image"),
        (
            document(layers=[{"mediaType": "text/x", "digest": "d", "size": 1}]),
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
        ("text/html", b"<html>", "text/html"),
    ],
)
def test_media_type_of_servers_that_do_not_know_it(served: str, data: bytes, found: str) -> None:
    assert sniff(data, served) == found


def test_config_with_nulls_as_old_builders_write_them() -> None:
    data = {"rootfs": {"diff_ids": ["sha256:d"]}, "config": {"Env": None, "Volumes": {"/b": {}}}}
    config = parse_config(json.dumps(data).encode(), "sha256:c")
    assert (config.env, config.volumes, config.user) == ((), ("/b",), "")
    assert parse_config(b'{"rootfs": {"diff_ids": []}, "config": null}', "sha256:c").cmd == ()


def test_chain_of_layers() -> None:
    second = "sha256:" + hashlib.sha256(b"sha256:a sha256:b").hexdigest()
    assert chain_ids(["sha256:a", "sha256:b"]) == ["sha256:a", second]
    assert chain_ids([]) == []


def test_labels_hold_the_parts() -> None:
    assert child_labels(Manifest(CONFIG, (LAYER,))) == {
        "containerd.io/gc.ref.content.config": "sha256:c",
        "containerd.io/gc.ref.content.l.0": "sha256:l",
    }
    assert child_labels(index(AMD64, None)) == {
        "containerd.io/gc.ref.content.m.0": "0",
        "containerd.io/gc.ref.content.m.1": "1",
    }
