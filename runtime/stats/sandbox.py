"""The network statistics of one pod."""

from __future__ import annotations

from collections.abc import Sequence

from runtime.cni.result import DEFAULT_INTERFACE
from runtime.readings import Interface, Network


def network(interfaces: Sequence[Interface]) -> Network | None:
    """Network traffic of a pod; None for a host-network pod."""
    if not interfaces:
        return None
    default = next((i for i in interfaces if i.name == DEFAULT_INTERFACE), interfaces[0])
    return Network(default, tuple(other for other in interfaces if other is not default))


def parse_net_dev(text: str) -> list[Interface]:
    """The interfaces of ``text``, the content of /proc/<pid>/net/dev, without the loopback."""
    interfaces = []
    for line in text.splitlines()[2:]:
        name, _, columns = line.partition(":")
        figures = columns.split()
        if name.strip() != "lo" and len(figures) >= 16:
            # 8 columns received, 8 columns sent; both start with bytes, packets, errors, dropped
            received, sent = map(int, figures[:4]), map(int, figures[8:12])
            interfaces.append(Interface(name.strip(), *received, *sent))
    return interfaces
