"""Sizes that containerd, the kubelet and this server agree on."""

from __future__ import annotations

from typing import Final

MAX_MESSAGE: Final = 16 << 20
"""Bytes of a gRPC message; the limit of containerd and of the kubelet, in both directions."""
