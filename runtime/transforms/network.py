"""The network settings sent by the kubelet."""

from __future__ import annotations

import ipaddress

from runtime.errors import InvalidArgument

_FIELD = "runtime_config.network_config.pod_cidr"


def pod_cidrs(*, pod_cidr: str) -> list[str]:
    """The pod CIDRs of a comma-separated list, with or without spaces; raises InvalidArgument."""
    cidrs = [cidr.strip() for cidr in pod_cidr.split(",")] if pod_cidr.strip() else []
    for cidr in cidrs:
        try:
            ipaddress.ip_network(cidr, strict=False)
        except ValueError as error:
            raise InvalidArgument(
                f"{cidr!r} is not a CIDR such as 10.244.1.0/24: {error}", field=_FIELD
            ) from error
        if "/" not in cidr:
            raise InvalidArgument(
                f"{cidr!r} has no prefix length; write it as in 10.244.1.0/24", field=_FIELD
            )
    return cidrs
