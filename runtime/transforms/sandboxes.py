"""What the CRI shows of a sandbox where the record says it otherwise."""

from __future__ import annotations

from generated import lifecycle
from generated.cri import api_pb2


def cri_state(*, state: lifecycle.SandboxState) -> api_pb2.PodSandboxState:
    """READY or NOTREADY: the two states of the CRI, by spec/lifecycle.yaml."""
    return lifecycle.CRI_SANDBOX_STATE[state]


def pod_ips(*, addresses: tuple[str, ...]) -> list[api_pb2.PodIP]:
    """The addresses as messages, in the same order."""
    return [api_pb2.PodIP(ip=address) for address in addresses]
