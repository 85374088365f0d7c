"""Proxies from the environment, and a registry's error messages."""

from __future__ import annotations

import pytest

from runtime.errors import NotFound, Unauthenticated, Unavailable, Unknown
from runtime.images.content import missing_labels, source_label, write_reference
from runtime.images.manifest import INDEX_TYPES, MANIFEST_TYPES, Descriptor
from runtime.images.registry.host import kind_of_status
from runtime.images.registry.network import proxy_for, registry_words

PROXIES = {"HTTPS_PROXY": "proxy.example:3128", "http_proxy": "http://plain.example"}


@pytest.mark.parametrize(
    ("url", "no_proxy", "proxy"),
    [
        ("https://quay.io/v2", "", "http://proxy.example:3128"),
        ("http://quay.io/v2", "", "http://plain.example"),
        ("https://127.0.0.1:5000/v2", "", None),
        ("https://localhost/v2", "", None),
        ("https://quay.io/v2", "quay.io", None),
        ("https://cdn.quay.io/v2", ".quay.io", None),
        ("https://cdn.quay.io/v2", "quay.io", None),
        ("https://cdn.quay.io/v2", "*.quay.io", None),
        ("https://notquay.io/v2", "quay.io", "http://proxy.example:3128"),
        ("https://10.1.2.3/v2", "example.com, 10.0.0.0/8", None),
        ("https://10.1.2.3/v2", "10.2.0.0/16", "http://proxy.example:3128"),
        ("https://quay.io/v2", "*", None),
    ],
)
def test_proxy_as_go_reads_it(url: str, no_proxy: str, proxy: str | None) -> None:
    assert proxy_for(url, PROXIES | {"NO_PROXY": no_proxy}) == proxy


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"errors": [{"code": "DENIED", "message": "no\\n pull"}]}', "DENIED: no pull"),
        (b'{"errors": [{"code": "A"}, {"message": "b"}]}', "A; b"),
        (b"<html>", ""),
        (b'{"errors": "x"}', ""),
        (b"[]", ""),
        (b"[" * 60_000, ""),
        (b'{"errors": [{"code": 5}]}', ""),
        (b'{"errors": null}', ""),
        (b'{"errors": [{"message": "trouv\xe9 \\ud800"}]}', "trouv\ufffd \ufffd"),
    ],
)
def test_error_messages_of_a_registry(body: bytes, words: str) -> None:
    assert registry_words(body) == words


def test_statuses_become_error_kinds() -> None:
    kinds = {401: Unauthenticated, 403: Unauthenticated, 404: NotFound, 418: Unknown}
    assert {status: kind_of_status(status) for status in kinds} == kinds
    assert {kind_of_status(status) for status in (429, 500, 503)} == {Unavailable}


def test_write_references_are_those_of_containerd() -> None:
    def reference(media_type: str) -> str:
        return write_reference(Descriptor(media_type, "sha256:x", 1))

    assert [reference(t) for t in INDEX_TYPES] == ["index-sha256:x"] * 2
    assert [reference(t) for t in MANIFEST_TYPES] == ["manifest-sha256:x"] * 2
    assert reference("application/vnd.oci.image.layer.v1.tar+zstd") == "layer-sha256:x"
    assert reference("application/vnd.docker.image.rootfs.diff.tar.gzip") == "layer-sha256:x"
    assert reference("application/vnd.docker.container.image.v1+json") == "config-sha256:x"


def test_sources_of_a_blob_add_up() -> None:
    label = source_label("quay.io:443", "team/b")
    key = "containerd.io/distribution.source.quay.io"
    assert label == {key: "team/b"}
    assert missing_labels({}, label) == {key: "team/b"}
    assert missing_labels({key: "team/c,team/a"}, label) == {key: "team/a,team/b,team/c"}
    assert missing_labels({key: "team/a,team/b"}, label) == {}
    # containerd refuses labels of more than 4096 characters
    assert missing_labels({key: "x" * 4080}, label) == {key: "team/b"}
