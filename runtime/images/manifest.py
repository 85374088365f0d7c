"""The documents of an image: indexes, manifests and configs of Docker and OCI.

Pure: bytes in, facts out. Anything that is not a runnable image is refused with the reason and the
path of the invalid field. A list or map that is absent or null is empty.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, TypeAlias, TypeVar

import msgspec

from runtime.documents import DocumentError, decode
from runtime.errors import FailedPrecondition
from runtime.images.platforms import Platform
from runtime.images.reference import is_digest

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
_SNAPSHOT_LABEL: Final = "containerd.io/snapshot/"
"""The prefix of a layer's annotations that become labels of its snapshot."""
_ENCRYPTED: Final = "+encrypted"
_SCHEMA_1: Final = "application/vnd.docker.distribution.manifest.v1"

DOCUMENT_LIMIT: Final = 8 << 20
"""Maximum bytes of an index, manifest or config that is read into memory."""

_LARGEST: Final = (1 << 63) - 1
"""The largest size that containerd and the CRI can represent."""


@dataclass(frozen=True, slots=True)
class Descriptor:
    """Content by digest."""

    media_type: str
    digest: str
    size: int
    """Bytes."""
    urls: tuple[str, ...] = ()
    """Other URLs of the content, for layers that a registry may not redistribute."""
    snapshot_labels: tuple[tuple[str, str], ...] = ()
    """Annotations of a layer that become labels of its snapshot."""


@dataclass(frozen=True, slots=True)
class Index:
    """The images of several platforms under one name."""

    entries: tuple[tuple[Descriptor, Platform | None], ...]


@dataclass(frozen=True, slots=True)
class Manifest:
    """The image of one platform."""

    config: Descriptor
    layers: tuple[Descriptor, ...]
    digest: str = ""

    @property
    def size(self) -> int:
        """Compressed size in bytes of config and layers."""
        return min(_LARGEST, self.config.size + sum(layer.size for layer in self.layers))


@dataclass(frozen=True, slots=True)
class Config:
    """What an image config says about its containers."""

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


# The documents as written. Go reads null as the empty value of any type, so do we.

_Text: TypeAlias = str | None
_Texts: TypeAlias = list[_Text] | None
_Size: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=_LARGEST)]


class _PlatformJson(msgspec.Struct):
    os: _Text = None
    architecture: _Text = None
    variant: _Text = None
    os_features: _Texts = msgspec.field(name="os.features", default=None)


class _DescriptorJson(msgspec.Struct):
    mediaType: str
    digest: str
    size: _Size
    urls: _Texts = None
    annotations: dict[str, _Text] | None = None


class _EntryJson(msgspec.Struct):
    digest: str
    mediaType: _Text = None
    size: _Size | None = None
    platform: _PlatformJson | None = None


class _VersionJson(msgspec.Struct):
    schemaVersion: Any = None


class _TopJson(msgspec.Struct):
    """The fields that distinguish an index from a manifest."""

    mediaType: Any = None
    manifests: Any = msgspec.UNSET
    layers: Any = msgspec.UNSET
    config: Any = msgspec.UNSET


class _IndexJson(msgspec.Struct):
    manifests: list[_EntryJson] | None = None


class _ManifestJson(msgspec.Struct):
    config: _DescriptorJson
    layers: list[_DescriptorJson] | None = None


class _RunJson(msgspec.Struct):
    User: _Text = None
    Entrypoint: _Texts = None
    Cmd: _Texts = None
    Env: _Texts = None
    WorkingDir: _Text = None
    Volumes: dict[str, Any] | None = None
    StopSignal: _Text = None
    Labels: dict[str, _Text] | None = None


class _RootfsJson(msgspec.Struct):
    diff_ids: _Texts = None


class _ConfigJson(_PlatformJson):
    config: _RunJson | None = None
    rootfs: _RootfsJson | None = None


_T = TypeVar("_T")


def parse(data: bytes, media_type: str, digest: str) -> Index | Manifest:
    """Parse an index or a manifest; raises FailedPrecondition with the reason if it is neither."""
    if media_type.startswith(_SCHEMA_1) or _decode(data, _VersionJson, digest).schemaVersion == 1:
        raise FailedPrecondition(
            f"{digest} is a schema 1 manifest, which cannot be verified and is refused: "
            "push the image again with a current tool"
        )
    if media_type in INDEX_TYPES:
        return _index(_decode(data, _IndexJson, digest), digest)
    if media_type in MANIFEST_TYPES:
        return _manifest(_decode(data, _ManifestJson, digest), digest)
    raise FailedPrecondition(f"{digest} is {media_type!r}, which is not an image")


def sniff(data: bytes, content_type: str) -> str:
    """The media type of a manifest: the one its server sent if that is known, else its own."""
    served = content_type.partition(";")[0].strip()
    if served in (*INDEX_TYPES, *MANIFEST_TYPES) or served.startswith(_SCHEMA_1):
        return served
    try:
        document = decode(data, _TopJson)
    except DocumentError:
        return served
    if isinstance(document.mediaType, str) and document.mediaType:
        return document.mediaType
    if document.manifests is not msgspec.UNSET:
        return INDEX_TYPES[0]
    if document.layers is not msgspec.UNSET or document.config is not msgspec.UNSET:
        return MANIFEST_TYPES[0]
    return served


def parse_config(data: bytes, _media_type: str, digest: str) -> Config:
    """Parse an image config, which is the same for every type; FailedPrecondition if invalid."""
    document = _decode(data, _ConfigJson, digest)
    run = document.config or _RunJson()
    diff_ids = _texts(document.rootfs.diff_ids if document.rootfs else None)
    for place, diff_id in enumerate(diff_ids):
        _must_be_digest(diff_id, digest, f"rootfs.diff_ids[{place}]")
    config = Config(
        diff_ids=diff_ids,
        platform=_platform(document),
        user=run.User or "",
        entrypoint=_texts(run.Entrypoint),
        cmd=_texts(run.Cmd),
        env=_texts(run.Env),
        working_dir=run.WorkingDir or "",
        volumes=tuple(sorted(run.Volumes or ())),
        stop_signal=run.StopSignal or "",
        labels={key: value or "" for key, value in (run.Labels or {}).items()},
    )
    for name, value in _of_processes(config):
        if "\0" in value:
            raise FailedPrecondition(f"{digest}: config.{name}: contains a NUL byte")
    return config


def _of_processes(config: Config) -> Iterator[tuple[str, str]]:
    """Values that end up in system calls, which end every string at its first NUL byte."""
    yield "User", config.user
    yield "WorkingDir", config.working_dir
    for name, values in (
        ("Entrypoint", config.entrypoint),
        ("Cmd", config.cmd),
        ("Env", config.env),
        ("Volumes", config.volumes),
    ):
        yield from ((name, value) for value in values)


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
    """The digest of bytes, with the algorithm of the digest ``like`` (sha256 without one)."""
    algorithm = like.partition(":")[0] or "sha256"
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


def child_labels(parent: Index | Manifest, *, layers: bool = True) -> dict[str, str]:
    """Labels that protect the parts of an index or manifest from containerd's garbage collector.

    Without ``layers``, those of a manifest are collected once nothing else needs them.
    """
    prefix = "containerd.io/gc.ref.content"
    if isinstance(parent, Index):
        return {f"{prefix}.m.{i}": d.digest for i, (d, _) in enumerate(parent.entries)}
    kept = parent.layers if layers else ()
    labels = {f"{prefix}.l.{i}": layer.digest for i, layer in enumerate(kept)}
    return {f"{prefix}.config": parent.config.digest, **labels}


def _decode(data: bytes, kind: type[_T], digest: str) -> _T:
    try:
        return decode(data, kind)
    except DocumentError as error:
        raise FailedPrecondition(f"{digest}: {error}") from error


def _index(document: _IndexJson, digest: str) -> Index:
    entries = []
    for place, entry in enumerate(document.manifests or ()):
        _must_be_digest(entry.digest, digest, f"manifests[{place}].digest")
        descriptor = Descriptor(entry.mediaType or "", entry.digest, entry.size or 0)
        entries.append((descriptor, _platform(entry.platform) if entry.platform else None))
    return Index(tuple(entries))


def _manifest(document: _ManifestJson, digest: str) -> Manifest:
    config = _descriptor(document.config, digest, "config")
    if config.media_type not in _CONFIG_TYPES:
        raise FailedPrecondition(
            f"{digest} has a config of type {config.media_type!r}: it is an artifact, "
            "not a container image"
        )
    layers = tuple(
        _descriptor(layer, digest, f"layers[{place}]")
        for place, layer in enumerate(document.layers or ())
    )
    for layer in layers:
        if layer.media_type.endswith(_ENCRYPTED):
            raise FailedPrecondition(
                f"{digest} has encrypted layers; encrypted images are not supported yet"
            )
        if not layer.media_type.startswith(_LAYER_PREFIXES):
            raise FailedPrecondition(f"{digest} has a layer of unknown type {layer.media_type!r}")
    return Manifest(config, layers, digest)


def _descriptor(item: _DescriptorJson, document: str, where: str) -> Descriptor:
    _must_be_digest(item.digest, document, f"{where}.digest")
    labels = tuple(
        (key, value or "")
        for key, value in (item.annotations or {}).items()
        if key.startswith(_SNAPSHOT_LABEL)
    )
    return Descriptor(item.mediaType, item.digest, item.size, _texts(item.urls), labels)


def _must_be_digest(text: str, document: str, where: str) -> None:
    if not is_digest(text):
        raise FailedPrecondition(
            f"{document}: {where}: {text[:80]!r} is not a digest (sha256, sha384 or sha512)"
        )


def _platform(item: _PlatformJson) -> Platform:
    return Platform(
        item.os or "linux",
        item.architecture or "",
        item.variant or "",
        tuple(sorted(_texts(item.os_features))),
    )


def _texts(values: _Texts) -> tuple[str, ...]:
    return tuple(value or "" for value in values or ())
