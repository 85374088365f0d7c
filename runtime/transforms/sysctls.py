"""The kernel parameters of a pod's namespaces."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from generated.cri import api_pb2
from runtime.errors import InvalidArgument
from runtime.transforms import paths
from runtime.transforms.namespaces import is_own_userns

_SYSCTLS_SINCE = (4, 11)
"""The first kernel with both sysctls."""
_ALL_PORTS = ("net.ipv4.ip_unprivileged_port_start", "0")
_ALL_GROUPS_PING = ("net.ipv4.ping_group_range", "0 2147483647")
_INTERFACE_SYSCTL: Final = re.compile(r"net[./]\w+[./](conf|neigh)[./](?!(all|default|lo)[./])")
"""Sysctls of one interface, which exists only after CNI ADD."""


def of_pod(
    *,
    sysctls: Mapping[str, str],
    network: api_pb2.NamespaceMode,
    userns_mode: api_pb2.NamespaceMode | None,
    kernel: tuple[int, int],
    unprivileged_ports: bool,
    unprivileged_icmp: bool,
    in_user_namespace: bool,
) -> dict[str, str]:
    """The requested sysctls, and two for pods with a network of their own, which replace a
    capability: low ports and ping.

    The kernel refuses a range with groups that do not exist in the user namespace of the pod or of
    this server; then ping keeps the kernel's default.
    """
    for name, value in sysctls.items():
        if not value or not name or ".." in name or name[0] in "./":
            raise InvalidArgument(
                "must be a kernel parameter, such as net.core.somaxconn, with a value, not"
                f" {name!r}: {value!r}",
                field="config.linux.sysctls",
            )
        # /proc/sys has no other parameters; runc would fail with an error that contains the name
        if why := paths.why_too_long(f"/proc/sys/{name.replace('.', '/')}"):
            raise InvalidArgument(f"has a parameter whose file {why}", field="config.linux.sysctls")
    found: dict[str, str] = {}
    if network != api_pb2.NODE and kernel >= _SYSCTLS_SINCE:
        if unprivileged_ports:
            found.update([_ALL_PORTS])
        if unprivileged_icmp and not in_user_namespace and not is_own_userns(userns_mode):
            found.update([_ALL_GROUPS_PING])
    return {**found, **sysctls}


def names_interface(*, sysctls: Mapping[str, str]) -> bool:
    """Whether a sysctl belongs to one network interface, which must exist first."""
    return any(_INTERFACE_SYSCTL.match(key) for key in sysctls)
