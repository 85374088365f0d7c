"""Labels of the snapshots of an image's layers, which snapshotters read. Pure.

A lazy or remote snapshotter can provide a layer by itself, without a download: Prepare then fails
with ALREADY_EXISTS for a snapshot that no client created. For this it needs the image, manifest and
layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from runtime.images.manifest import Descriptor, Manifest

_ABOUT: Final = "containerd.io/snapshot/cri."
_LABEL_LIMIT: Final = 4096
"""Bytes of a label's key and value together, containerd's limit."""


def of_layers(
    reference: str, manifest: Manifest, *, annotations: bool
) -> tuple[dict[str, str], ...]:
    """The labels for each layer of the image.

    With ``annotations`` they name the image, the manifest, the layer, and the layers from it on, as
    many as fit into a label.
    """
    return tuple(
        dict(layer.snapshot_labels)
        | (_about(reference, manifest, manifest.layers[place:]) if annotations else {})
        for place, layer in enumerate(manifest.layers)
    )


def _about(reference: str, manifest: Manifest, layers: Sequence[Descriptor]) -> dict[str, str]:
    return {
        f"{_ABOUT}image-ref": reference,
        f"{_ABOUT}manifest-digest": manifest.digest,
        f"{_ABOUT}layer-digest": layers[0].digest,
        f"{_ABOUT}image-layers": _joined(
            [layer.digest for layer in layers], _LABEL_LIMIT - len(f"{_ABOUT}image-layers")
        ),
    }


def _joined(digests: Sequence[str], limit: int) -> str:
    """The first of the digests, as many as fit into ``limit`` bytes with their commas."""
    joined = ""
    for digest in digests:
        longer = f"{joined},{digest}" if joined else digest
        if len(longer) > limit:
            break
        joined = longer
    return joined
