"""What an image is made of: indexes, manifests and configs of Docker and OCI, and what follows.

Pure: bytes in, facts out. Whatever is not an image that can be run is refused with its reason.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from runtime.errors import FailedPrecondition, NotFound

INDEX_TYPES: Final = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
MANIFEST_TYPES: Final = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
_CONFIG_TYPES: Final = frozenset(
    {
        "application/vnd.oci.image.config.v1+json",
        "application/vnd.docker.container.image.v1+json",
        # written by old builders
        "application/octet-stream",
    }
)
_LAYER_PREFIXES: Final = (
    "application/vnd.oci.image.layer.",
    "application/vnd.docker.image.rootfs.",
)
_SCHEMA_1: Final = "application/vnd.docker.distribution.manifest.v1"

DOCUMENT_LIMIT: Final = 8 << 20
"""Bytes; the largest index, manifest or config that is read into memory."""


@dataclass(frozen=True, slots=True)
class Descriptor:
    """Content by digest."""

    media_type: str
    digest: str
    size: int


@dataclass(frozen=True, slots=True)
class Platform:
    """What an image runs on, in Go's words."""

    os: str
    architecture: str
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(filter(None, (self.os, self.architecture, self.variant)))


@dataclass(frozen=True, slots=True)
class Index:
    """The images of several platforms under one name."""

    entries: tuple[tuple[Descriptor, Platform | None], ...]


@dataclass(frozen=True, slots=True)
class Manifest:
    """One platform's image."""

    config: Descriptor
    layers: tuple[Descriptor, ...]

    @property
    def size(self) -> int:
        """Compressed size of config and layers."""
        return self.config.size + sum(layer.size for layer in self.layers)


@dataclass(frozen=True, slots=True)
class Config:
    """What an image config says of the containers made from it."""

    diff_ids: tuple[str, ...]
    platform: Platform
    user: str = ""
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    working_dir: str = ""
    volumes: tuple[str, ...] = ()
    stop_signal: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


def parse(data: bytes, media_type: str, digest: str) -> Index | Manifest:
    """An index or a manifest; FailedPrecondition says why the bytes are neither."""
    document = _object(data, digest)
    if media_type.startswith(_SCHEMA_1) or document.get("schemaVersion") == 1:
        raise FailedPrecondition(
            f"{digest} is a schema 1 manifest, which cannot be verified and is refused: "
            "push the image again with a current tool"
        )
    with _located(digest):
        if media_type in INDEX_TYPES:
            return Index(tuple(_entry(item) for item in document["manifests"]))
        if media_type in MANIFEST_TYPES:
            return _manifest(document, digest)
    raise FailedPrecondition(f"{digest} is {media_type!r}, which is no image")


def sniff(data: bytes, content_type: str) -> str:
    """The media type of a manifest: as its server says if that is one we know, else its own."""
    served = content_type.partition(";")[0].strip()
    if served in (*INDEX_TYPES, *MANIFEST_TYPES) or served.startswith(_SCHEMA_1):
        return served
    try:
        document = json.loads(data)
    except ValueError:
        return served
    if not isinstance(document, dict):
        return served
    own = document.get("mediaType")
    if isinstance(own, str) and own:
        return own
    if "manifests" in document:
        return INDEX_TYPES[0]
    return MANIFEST_TYPES[0] if "layers" in document else served


def parse_config(data: bytes, digest: str) -> Config:
    """An image config; FailedPrecondition says why the bytes are none."""
    document = _object(data, digest)
    with _located(digest):
        config = document.get("config") or {}
        return Config(
            diff_ids=tuple(document["rootfs"]["diff_ids"]),
            platform=_platform(document),
            user=config.get("User") or "",
            entrypoint=tuple(config.get("Entrypoint") or ()),
            cmd=tuple(config.get("Cmd") or ()),
            env=tuple(config.get("Env") or ()),
            working_dir=config.get("WorkingDir") or "",
            volumes=tuple(sorted(config.get("Volumes") or ())),
            stop_signal=config.get("StopSignal") or "",
            labels=dict(config.get("Labels") or {}),
        )


def choose(index: Index, host: Platform) -> Descriptor:
    """The manifest of the image that runs best on the host; NotFound lists what there is."""
    for wanted in _runnable(host):
        for descriptor, platform in index.entries:
            if platform is not None and _normal(platform) == wanted:
                return descriptor
    for descriptor, platform in index.entries:
        if platform is None and descriptor.media_type in MANIFEST_TYPES:
            return descriptor
    offered = ", ".join(sorted({str(p) for _, p in index.entries if p and p.os != "unknown"}))
    raise NotFound(f"no image for {host} in the index; it has {offered or 'nothing'}")


def chain_ids(diff_ids: Sequence[str]) -> list[str]:
    """The name of the snapshot after each layer: a digest over all layers up to it."""
    chain: list[str] = []
    for diff_id in diff_ids:
        if chain:
            text = f"{chain[-1]} {diff_id}"
            chain.append("sha256:" + hashlib.sha256(text.encode()).hexdigest())
        else:
            chain.append(diff_id)
    return chain


def digest_of(data: bytes, like: str = "") -> str:
    """The digest of bytes, by the algorithm of ``like`` (sha256 without one)."""
    algorithm = like.partition(":")[0] or "sha256"
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


def child_labels(parent: Index | Manifest) -> dict[str, str]:
    """Labels that keep the parts of an index or manifest from containerd's garbage collector."""
    prefix = "containerd.io/gc.ref.content"
    if isinstance(parent, Index):
        return {f"{prefix}.m.{i}": d.digest for i, (d, _) in enumerate(parent.entries)}
    labels = {f"{prefix}.l.{i}": layer.digest for i, layer in enumerate(parent.layers)}
    return {f"{prefix}.config": parent.config.digest, **labels}


class _located:
    """Turns the errors of walking a document of the wrong shape into one that names it."""

    def __init__(self, digest: str) -> None:
        self._digest = digest

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if isinstance(error, KeyError | TypeError | ValueError | AttributeError):
            raise FailedPrecondition(
                f"{self._digest} does not have the shape of an image: {error!r}"
            ) from error


def _object(data: bytes, digest: str) -> dict[str, Any]:
    try:
        document = json.loads(data)
    except ValueError as error:
        raise FailedPrecondition(f"{digest} is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise FailedPrecondition(f"{digest} is not a JSON object")
    return document


def _manifest(document: Mapping[str, Any], digest: str) -> Manifest:
    manifest = Manifest(
        _descriptor(document["config"]), tuple(_descriptor(item) for item in document["layers"])
    )
    if manifest.config.media_type not in _CONFIG_TYPES:
        raise FailedPrecondition(
            f"{digest} has a config of type {manifest.config.media_type!r}: it is an artifact, "
            "not a container image"
        )
    for layer in manifest.layers:
        if not layer.media_type.startswith(_LAYER_PREFIXES):
            raise FailedPrecondition(f"{digest} has a layer of unknown type {layer.media_type!r}")
    return manifest


def _descriptor(item: Mapping[str, Any]) -> Descriptor:
    return Descriptor(str(item["mediaType"]), str(item["digest"]), int(item["size"]))


def _entry(item: Mapping[str, Any]) -> tuple[Descriptor, Platform | None]:
    platform = item.get("platform")
    return _descriptor(item), _platform(platform) if platform else None


def _platform(item: Mapping[str, Any]) -> Platform:
    return Platform(
        item.get("os") or "linux", item.get("architecture") or "", item.get("variant") or ""
    )


_ALIASES: Final = {
    ("x86_64", ""): ("amd64", ""),
    ("x86-64", ""): ("amd64", ""),
    ("amd64", "v1"): ("amd64", ""),
    ("aarch64", ""): ("arm64", ""),
    ("arm64", "v8"): ("arm64", ""),
    ("arm64", "8"): ("arm64", ""),
    ("i386", ""): ("386", ""),
    ("armhf", ""): ("arm", "v7"),
    ("armel", ""): ("arm", "v6"),
    ("arm", ""): ("arm", "v7"),
    ("arm", "7"): ("arm", "v7"),
    ("arm", "6"): ("arm", "v6"),
    ("arm", "5"): ("arm", "v5"),
}

_ARM: Final = ("v8", "v7", "v6", "v5")


def _normal(platform: Platform) -> Platform:
    architecture, variant = platform.architecture.lower(), platform.variant.lower()
    return Platform(
        platform.os.lower(), *_ALIASES.get((architecture, variant), (architecture, variant))
    )


def _runnable(host: Platform) -> Iterator[Platform]:
    """What the host can run, best first: itself, then its older and its 32 bit siblings."""
    host = _normal(host)
    yield host
    if host.architecture == "amd64":
        yield Platform(host.os, "386")
    elif host.architecture == "arm64":
        yield from (Platform(host.os, "arm", variant) for variant in _ARM)
    elif host.architecture == "arm" and host.variant in _ARM:
        older = _ARM[_ARM.index(host.variant) + 1 :]
        yield from (Platform(host.os, "arm", variant) for variant in older)
