"""Small OCI images built from the machine's static busybox, and pushing them to a registry.

Everything is deterministic (times zeroed, members sorted), so the same input always has the same
digest.
"""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import io
import json
import subprocess
import tarfile
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

BUSYBOX = Path("/bin/busybox")
PASSWD = "root:x:0:0:root:/root:/bin/sh\nwww:x:33:33:www:/www:/bin/false\n"
GROUP = "root:x:0:\nwww:x:33:\nextra:x:1234:www\n"

OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"


@dataclasses.dataclass(frozen=True, slots=True)
class Blob:
    """Bytes and their media type in a manifest."""

    data: bytes
    media_type: str

    @property
    def digest(self) -> str:
        return "sha256:" + hashlib.sha256(self.data).hexdigest()

    @property
    def descriptor(self) -> dict[str, Any]:
        return {"mediaType": self.media_type, "digest": self.digest, "size": len(self.data)}


@dataclasses.dataclass(frozen=True, slots=True)
class Image:
    """One platform's image: its manifest and everything in it."""

    manifest: Blob
    config: Blob
    layers: tuple[Blob, ...]


def layer_tar(
    files: Mapping[str, bytes | str | None], modes: Mapping[str, int] | None = None
) -> bytes:
    """An uncompressed layer: bytes are a file, a str is a symlink's target, None is a directory."""
    modes = modes or {}
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name in sorted(files):
            content = files[name]
            member = tarfile.TarInfo(name)
            member.mode = modes.get(name, 0o755)
            if content is None:
                member.type = tarfile.DIRTYPE
                tar.addfile(member)
            elif isinstance(content, str):
                member.type, member.linkname = tarfile.SYMTYPE, content
                tar.addfile(member)
            else:
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return out.getvalue()


def busybox_files() -> dict[str, bytes | str | None]:
    """A root file system with every applet of the machine's busybox."""
    applets = subprocess.run(
        [BUSYBOX, "--list"], capture_output=True, text=True, check=True
    ).stdout.split()
    files: dict[str, bytes | str | None] = {
        f"bin/{applet}": "busybox" for applet in applets if applet != "busybox"
    }
    files |= dict.fromkeys(["bin", "dev", "etc", "proc", "root", "run", "sys", "tmp", "www"])
    files |= {
        "bin/busybox": BUSYBOX.read_bytes(),
        "etc/passwd": PASSWD.encode(),
        "etc/group": GROUP.encode(),
    }
    return files


def compressed(tar: bytes, how: str) -> Blob:
    """The layer as a blob; ``how`` is ``none``, ``gzip`` or ``zstd``."""
    if how == "none":
        return Blob(tar, OCI_LAYER)
    if how == "gzip":
        return Blob(gzip.compress(tar, 6, mtime=0), OCI_LAYER + "+gzip")
    from backports import zstd

    return Blob(zstd.compress(tar), OCI_LAYER + "+zstd")


def image(
    tars: Sequence[bytes],
    config: Mapping[str, Any] | None = None,
    *,
    compression: str = "gzip",
    architecture: str = "amd64",
    annotations: Mapping[str, str] | None = None,
) -> Image:
    """An image of these layers; ``config`` is the OCI image config's ``config`` object, and the
    annotations are those of its manifest."""
    layers = tuple(compressed(tar, compression) for tar in tars)
    diff_ids = ["sha256:" + hashlib.sha256(tar).hexdigest() for tar in tars]
    description = {
        "architecture": architecture,
        "os": "linux",
        "config": {"Env": ["PATH=/bin"], "Cmd": ["sh"], **(config or {})},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "history": [{"created_by": "test"} for _ in tars],
    }
    config_blob = Blob(_canonical(description), OCI_CONFIG)
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": config_blob.descriptor,
        "layers": [layer.descriptor for layer in layers],
    }
    if annotations:
        manifest["annotations"] = dict(annotations)
    return Image(Blob(_canonical(manifest), OCI_MANIFEST), config_blob, layers)


def index(images: Mapping[str, Image]) -> Blob:
    """A multi-architecture index: architecture → image."""
    return Blob(
        _canonical(
            {
                "schemaVersion": 2,
                "mediaType": OCI_INDEX,
                "manifests": [
                    {
                        **image.manifest.descriptor,
                        "platform": {"os": "linux", "architecture": architecture},
                    }
                    for architecture, image in images.items()
                ],
            }
        ),
        OCI_INDEX,
    )


def archive(one: Image, name: str) -> bytes:
    """The image as ``ctr images import`` reads it (an OCI layout in a tar) under a full name."""
    listed = one.manifest.descriptor | {"annotations": {"io.containerd.image.name": name}}
    files: dict[str, bytes | str | None] = {
        "oci-layout": _canonical({"imageLayoutVersion": "1.0.0"}),
        "index.json": _canonical({"schemaVersion": 2, "manifests": [listed]}),
    }
    for blob in (one.manifest, one.config, *one.layers):
        files["blobs/" + blob.digest.replace(":", "/")] = blob.data
    return layer_tar(files)


def push(
    base_url: str,
    name: str,
    images: Mapping[str, Image],
    *,
    opener: Callable[..., Any] = urllib.request.urlopen,
    headers: Mapping[str, str] | None = None,
) -> str:
    """Push an index of ``images`` (architecture → image) as ``repo:tag``; returns its digest."""
    repo, _, tag = name.rpartition(":")

    def call(method: str, url: str, data: bytes | None = None, media_type: str = "") -> Any:
        request = urllib.request.Request(url, data=data, method=method)
        for key, value in {**(headers or {}), "Content-Type": media_type}.items():
            if value:
                request.add_header(key, value)
        return opener(request, timeout=60)

    def push_blob(blob: Blob) -> None:
        try:
            call("HEAD", f"{base_url}/v2/{repo}/blobs/{blob.digest}")
            return
        except urllib.error.HTTPError as error:
            if error.code != 404:
                raise
        location = call("POST", f"{base_url}/v2/{repo}/blobs/uploads/", b"").headers["Location"]
        mark = "&" if "?" in location else "?"
        call("PUT", f"{location}{mark}digest={blob.digest}", blob.data, "application/octet-stream")

    for one in images.values():
        for blob in (one.config, *one.layers):
            push_blob(blob)
        manifest_url = f"{base_url}/v2/{repo}/manifests/{one.manifest.digest}"
        call("PUT", manifest_url, one.manifest.data, one.manifest.media_type)
    top = index(images)
    call("PUT", f"{base_url}/v2/{repo}/manifests/{tag}", top.data, top.media_type)
    return top.digest


def _canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
