"""The arguments of CNI plugins for a pod: CNI_ARGS and the capabilities of ``runtimeConfig``.

Pure.  Keys follow the CNI conventions (lower camel case); plugins in Go accept any case, others do
not.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import ROUND_CEILING, Decimal
from typing import Any, Final

from generated.cri import api_pb2
from generated.items import dns_config, port_mapping
from runtime.errors import InvalidArgument

POD_ANNOTATIONS: Final = "io.kubernetes.cri.pod-annotations"
"""Capability with which a plugin requests all annotations of the pod."""

INGRESS: Final = "kubernetes.io/ingress-bandwidth"
EGRESS: Final = "kubernetes.io/egress-bandwidth"

_BURST: Final = 2**32 - 1
"""Burst in bits: the maximum of the bandwidth plugin, so that only the rate limits traffic."""
_LEAST_RATE: Final = 1_000
_MOST_RATE: Final = 1_000_000_000_000_000

_QUANTITY: Final = re.compile(
    r"([+-]?(?:\d+\.?\d*|\.\d+))(?:([numkMGTPE]|[KMGTPE]i)|[eE]([+-]?\d{1,3}))?"
)
_SCALE: Final = {
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("1e-3"),
    "": Decimal(1),
    "k": Decimal("1e3"),
    **{suffix: Decimal(10) ** (6 + 3 * power) for power, suffix in enumerate("MGTPE")},
    **{f"{suffix}i": Decimal(1024) ** (1 + power) for power, suffix in enumerate("KMGTPE")},
}


def cni_args(sandbox_id: str, metadata: api_pb2.PodSandboxMetadata) -> dict[str, str]:
    """Return CNI_ARGS: the pod's identity, and that plugins can ignore unknown keys."""
    return {
        "IgnoreUnknown": "1",
        "K8S_POD_NAMESPACE": metadata.namespace,
        "K8S_POD_NAME": metadata.name,
        "K8S_POD_INFRA_CONTAINER_ID": sandbox_id,
        "K8S_POD_UID": metadata.uid,
    }


def capability_args(config: api_pb2.PodSandboxConfig) -> dict[str, Any]:
    """Return the values of all capabilities; raises InvalidArgument."""
    offered = {
        "portMappings": port_mappings(config),
        "bandwidth": bandwidth(config.annotations),
        "dns": dns_config.item(config.dns_config) if config.HasField("dns_config") else None,
        "cgroupPath": config.linux.cgroup_parent,
        POD_ANNOTATIONS: dict(config.annotations),
    }
    return {name: value for name, value in offered.items() if value}


def port_mappings(config: api_pb2.PodSandboxConfig) -> list[dict[str, Any]]:
    """Return the ports that the node forwards; a mapping without a host port forwards nothing."""
    return port_mapping.items(config.port_mappings)


def bandwidth(annotations: Mapping[str, str]) -> dict[str, int] | None:
    """Return the rates in a pod's annotations, in bits per second; None if there are none."""
    limits: dict[str, int] = {}
    for direction, annotation in (("ingress", INGRESS), ("egress", EGRESS)):
        if annotation in annotations:
            limits[f"{direction}Rate"] = _rate(annotation, annotations[annotation])
            limits[f"{direction}Burst"] = _BURST
    return limits or None


def _rate(annotation: str, text: str) -> int:
    field = f"config.annotations[{annotation}]"
    bits = quantity(text)
    if bits is None:
        raise InvalidArgument(f"{text!r} is not a quantity such as 10M", field=field)
    if not _LEAST_RATE <= bits <= _MOST_RATE:
        raise InvalidArgument(f"must be between 1k and 1P bits per second, not {text}", field=field)
    return bits


def quantity(text: str) -> int | None:
    """Return a Kubernetes quantity, rounded up to an integer; None if ``text`` is not one."""
    match = _QUANTITY.fullmatch(text)
    if match is None:
        return None
    number, suffix, exponent = match.groups()
    scale = Decimal(10) ** int(exponent) if exponent else _SCALE[suffix or ""]
    return int((Decimal(number) * scale).to_integral_value(ROUND_CEILING))
