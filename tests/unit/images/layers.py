"""Images for the tests of unpacking, whose layers are named by letters."""

from __future__ import annotations

from runtime.images.manifest import Descriptor, Manifest


def image(letters: str) -> Manifest:
    """Layers whose digests are their diff IDs."""
    layers = tuple(Descriptor("", f"sha256:{letter * 64}", 1) for letter in letters)
    return Manifest(Descriptor("", "sha256:0", 1), layers, "sha256:9")
