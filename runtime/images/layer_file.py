"""A layer in a file of this node, which comes from a checkpoint and not from a registry."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Final

from generated.containerd import diff_pb2, types_pb2
from runtime.containerd.client import Containerd, Metadata
from runtime.images import content
from runtime.images.manifest import Descriptor
from runtime.steps import threads

_PLAIN: Final = "application/vnd.oci.image.layer.v1.tar"
_GZIP_MAGIC: Final = b"\x1f\x8b"
_PIECE: Final = 1 << 20


async def apply(
    containerd: Containerd, layer: Path, mounts: Sequence[types_pb2.Mount], lease: Metadata
) -> None:
    """Unpack it into the snapshot with these mounts; raises AioRpcError.

    containerd does that, which confines every path of the layer to the snapshot.
    """
    described = await threads.IMAGE_FILES.run(_describe, layer)

    async def pieces(offset: int) -> AsyncGenerator[bytes, None]:
        with layer.open("rb") as file:
            file.seek(offset)
            while piece := await threads.IMAGE_FILES.run(file.read, _PIECE):
                yield piece
                await asyncio.sleep(0)

    await content.write(containerd, described, pieces, labels={}, metadata=lease)
    await containerd.diff.Apply(
        diff_pb2.ApplyRequest(
            diff=types_pb2.Descriptor(
                media_type=described.media_type, digest=described.digest, size=described.size
            ),
            mounts=mounts,
        ),
        metadata=lease,
    )


def _describe(layer: Path) -> Descriptor:
    with layer.open("rb") as file:
        gzipped = file.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    kind = f"{_PLAIN}+gzip" if gzipped else _PLAIN
    return Descriptor(kind, f"sha256:{digest}", layer.stat().st_size)
