"""A cache of CNI results, in the files and the format of libcni (kind ``cniCacheV1``).

Format and location are libcni's, so that a node can move to another runtime while its pods are
running.  The config used for ADD is stored with the result, because DEL must undo what ADD did,
even if the config has changed since.
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

from runtime import regular_files
from runtime.linux import files

KIND: Final = "cniCacheV1"
DIRECTORY: Final = "/var/lib/cni"
_LARGEST: Final = 64 << 20
"""Maximum bytes of a file; the result of a plugin alone may have 16 MiB."""


@dataclass(frozen=True, slots=True)
class PodInterface:
    """One interface of one pod, and how it was created."""

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
    """The values that were available for ``runtimeConfig``."""
    result: Mapping[str, Any]


class ResultCache:
    """The interfaces of all pods of a node, one file each."""

    def __init__(self, directory: str = DIRECTORY) -> None:
        self._results = Path(directory) / "results"

    def write(self, interface: PodInterface) -> None:
        """Store an interface; raises OSError."""
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
        # not synced, because the interface does not survive a power failure
        files.write_whole(self._path(interface), text.encode(), durable=False)

    def remove(self, interface: PodInterface) -> None:
        """Forget an interface.  Repeatable."""
        files.remove(self._path(interface))

    def of(self, container_id: str) -> list[PodInterface]:
        """Return the interfaces of one pod, in the order of their names.

        Unreadable files are ignored, as if the pod had no such interface.
        """
        found = []
        for path in self._results.glob(f"*-{container_id}-*"):
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError, binascii.Error):
                cached = json.loads(regular_files.read(path, largest=_LARGEST))
                if cached["kind"] == KIND and cached["containerId"] == container_id:
                    found.append(_pod_interface(cached))
        return sorted(found, key=lambda interface: (len(interface.name), interface.name))

    def of_network(self, network: str) -> list[tuple[str, str]]:
        """Return pod and interface name of every interface in a network, also of other runtimes.

        Unreadable files are ignored.
        """
        found = []
        for path in self._results.glob(f"{network}-*"):
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                cached = json.loads(regular_files.read(path, largest=_LARGEST))
                if cached["kind"] == KIND and cached["networkName"] == network:
                    found.append((str(cached["containerId"]), str(cached["ifName"])))
        return sorted(found)

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
