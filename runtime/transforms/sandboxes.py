"""What a sandbox's config asks of the steps that make it, and what the CRI shows of it where the
record says it otherwise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from generated import lifecycle
from generated.cri import api_pb2
from runtime.errors import InvalidArgument

UNTRUSTED: Final = "untrusted"
"""The runtime handler of pods with the annotation for untrusted workloads."""

_UNTRUSTED_ANNOTATION: Final = "io.kubernetes.cri.untrusted-workload"


def cri_state(*, state: lifecycle.SandboxState) -> api_pb2.PodSandboxState:
    """READY or NOTREADY: the two states of the CRI, by spec/lifecycle.yaml."""
    return lifecycle.CRI_SANDBOX_STATE[state]


def pod_name(*, name: str, namespace: str, uid: str, attempt: int) -> str:
    """The reserved name of a sandbox, in the built-in plugin's format."""
    return f"{name}_{namespace}_{uid}_{attempt}"


def shares_node(*, mode: api_pb2.NamespaceMode) -> bool:
    """Whether the pod shares the node's namespace."""
    return mode == api_pb2.NODE


def untrusted(
    *,
    annotations: Mapping[str, str],
    network: api_pb2.NamespaceMode,
    pid: api_pb2.NamespaceMode,
    ipc: api_pb2.NamespaceMode,
) -> bool:
    """Whether the pod must run in the handler `UNTRUSTED`.

    Raises InvalidArgument if it shares a namespace of the node as well.
    """
    if annotations.get(_UNTRUSTED_ANNOTATION) != "true":
        return False
    if api_pb2.NODE in (network, pid, ipc):
        raise InvalidArgument(
            "an untrusted pod must not share a namespace of the node",
            field=f"config.annotations[{_UNTRUSTED_ANNOTATION}]",
        )
    return True


def handler_name(
    *,
    requested: str,
    annotations: Mapping[str, str],
    network: api_pb2.NamespaceMode,
    pid: api_pb2.NamespaceMode,
    ipc: api_pb2.NamespaceMode,
) -> str:
    """The runtime handler of a pod: `UNTRUSTED` for an untrusted one, else the requested one.

    Raises InvalidArgument for an untrusted pod that requests another handler, and as `untrusted`.
    """
    if not untrusted(annotations=annotations, network=network, pid=pid, ipc=ipc):
        return requested
    if requested not in ("", UNTRUSTED):
        raise InvalidArgument(
            f'an untrusted pod runs in the handler "{UNTRUSTED}", not in "{requested}"; leave out'
            f" the handler or the annotation {_UNTRUSTED_ANNOTATION}",
            field="runtime_handler",
        )
    return UNTRUSTED


def etc_hostname(*, hostname: str, node_hostname: str) -> str:
    """The content of /etc/hostname: the pod's own name, or the node's for a host-network pod."""
    return f"{hostname or node_hostname}\n"


def resolv_conf(
    *,
    servers: Sequence[str] | None,
    searches: Sequence[str],
    options: Sequence[str],
) -> str | None:
    """The content of /etc/resolv.conf; None without a DNS config (``servers`` is None)."""
    if servers is None:
        return None
    lines = [
        *([f"search {' '.join(searches)}"] if searches else []),
        *(f"nameserver {server}" for server in servers),
        *([f"options {' '.join(options)}"] if options else []),
    ]
    return "".join(f"{line}\n" for line in lines)
