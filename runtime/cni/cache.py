"""What CNI plugins answered, kept in files as libcni keeps them (kind ``cniCacheV1``).

The format and the place are libcni's, so that a node can move from one runtime to another with its
pods running.  The config an interface was made with is kept beside the result: DEL must undo what
was done, not what today's config would do.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from runtime.linux.files import write_whole

KIND: Final = "cniCacheV1"
DIRECTORY: Final = "/var/lib/cni"


@dataclass(frozen=True, slots=True)
class PodInterface:
    """One interface of one pod, and how it was made."""

    network: str
    container_id: str
    name: str
    """In the pod: eth0, eth1, …"""
    netns: str
    config: bytes
    """The network list's text at the time of ADD."""
    arguments: Mapping[str, str]
    """CNI_ARGS."""
    capabilities: Mapping[str, Any]
    """What was offered as ``runtimeConfig``."""
    result: Mapping[str, Any]


class ResultCache:
    """The interfaces of all pods of a node, one file each."""

    def __init__(self, directory: str = DIRECTORY) -> None:
        self._results = Path(directory) / "results"

    def write(self, interface: PodInterface) -> None:
        """Keep what is known of an interface; raises OSError."""
        self._results.mkdir(0o700, parents=True, exist_ok=True)
        text = json.dumps(
            {
                "kind": KIND,
                "containerId": interface.container_id,
                "config": base64.b64encode(interface.config).decode(),
                "ifName": interface.name,
                "networkName": interface.network,
                "netns": interface.netns,
                "cniArgs": [list(pair) for pair in interface.arguments.items()],
                "capabilityArgs": interface.capabilities,
                "result": interface.result,
            },
            separators=(",", ":"),
        )
        # not forced to disk, as the interface is gone after a power cut
        write_whole(self._path(interface), text.encode(), durable=False)

    def remove(self, interface: PodInterface) -> None:
        """Forget an interface.  Repeatable."""
        self._path(interface).unlink(missing_ok=True)

    def of(self, container_id: str) -> list[PodInterface]:
        """Return the interfaces of one pod, in the order of their names.

        Files that cannot be read as such are passed over: their pod is treated as one without.
        """
        found = []
        for path in self._results.glob(f"*-{container_id}-*"):
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError, binascii.Error):
                cached = json.loads(path.read_bytes())
                if cached["kind"] == KIND and cached["containerId"] == container_id:
                    found.append(_pod_interface(cached))
        return sorted(found, key=lambda interface: (len(interface.name), interface.name))

    def _path(self, interface: PodInterface) -> Path:
        parts = (interface.network, interface.container_id, interface.name)
        return self._results / "-".join(parts)


def _pod_interface(cached: Mapping[str, Any]) -> PodInterface:
    return PodInterface(
        network=cached["networkName"],
        container_id=cached["containerId"],
        name=cached["ifName"],
        netns=cached.get("netns", ""),
        config=base64.b64decode(cached["config"]),
        arguments=dict(cached.get("cniArgs") or ()),
        capabilities=cached.get("capabilityArgs") or {},
        result=cached.get("result") or {},
    )
