"""What CNI plugins are told about a pod."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import jsonschema
import pytest

from generated import cni
from generated.cri import api_pb2
from runtime.errors import InvalidArgument
from runtime.transforms.bandwidth import EGRESS, INGRESS, limits, quantity

_SCHEMA: Final = json.loads(
    (Path(__file__).parents[3] / "spec/cni/runtime_config.schema.json").read_text()
)


def _closed(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema, with other keys forbidden."""
    closed = {
        name: {**body, "additionalProperties": False} for name, body in schema["$defs"].items()
    }
    return {**schema, "$defs": closed}


def test_the_arguments_name_the_pod() -> None:
    metadata = api_pb2.PodSandboxMetadata(name="n", uid="u", attempt=1)
    assert cni.arguments(api_pb2.PodSandboxConfig(metadata=metadata)) == {
        "K8S_POD_NAMESPACE": "",
        "K8S_POD_NAME": "n",
        "K8S_POD_UID": "u",
    }


def test_a_plain_pod_offers_nothing() -> None:
    assert cni.runtime_config(api_pb2.PodSandboxConfig()) == {}


def test_everything_a_pod_can_offer() -> None:
    config = api_pb2.PodSandboxConfig(
        annotations={INGRESS: "1M", EGRESS: "2M", "a": "b"},
        dns_config=api_pb2.DNSConfig(servers=["1.1.1.1"], searches=["x"], options=["ndots:5"]),
        port_mappings=[
            api_pb2.PortMapping(container_port=80, host_port=8080),
            api_pb2.PortMapping(
                container_port=53, host_port=53, protocol=api_pb2.UDP, host_ip="127.0.0.1"
            ),
            api_pb2.PortMapping(container_port=99),
        ],
        linux=api_pb2.LinuxPodSandboxConfig(cgroup_parent="/kubepods/x"),
    )
    told = cni.runtime_config(config)
    jsonschema.validate(told, _closed(_SCHEMA))
    assert told == {
        "portMappings": [
            {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
            {"hostPort": 53, "containerPort": 53, "protocol": "udp", "hostIP": "127.0.0.1"},
        ],
        "bandwidth": {
            "ingressRate": 1000000,
            "ingressBurst": 4294967295,
            "egressRate": 2000000,
            "egressBurst": 4294967295,
        },
        "dns": {"servers": ["1.1.1.1"], "searches": ["x"], "options": ["ndots:5"]},
        "cgroupPath": "/kubepods/x",
        "io.kubernetes.cri.pod-annotations": {INGRESS: "1M", EGRESS: "2M", "a": "b"},
    }


def test_both_directions_of_bandwidth() -> None:
    assert limits(annotations={INGRESS: "1k", EGRESS: "1P"}) == {
        "ingressRate": 10**3,
        "ingressBurst": 2**32 - 1,
        "egressRate": 10**15,
        "egressBurst": 2**32 - 1,
    }
    assert limits(annotations={}) is None


@pytest.mark.parametrize("text", ["", "ten", "10 M", "10Mbit", "1e", "--1", "0x10"])
def test_invalid_bandwidth_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="is not a quantity such as 10M") as caught:
        limits(annotations={EGRESS: text})
    assert caught.value.field == "config.annotations[kubernetes.io/egress-bandwidth]"


@pytest.mark.parametrize("text", ["0", "999", "-5M", "2P"])
def test_bandwidth_out_of_range_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match=f"must be between 1k and 1P .*, not {text}"):
        limits(annotations={EGRESS: text})


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("10", 10),
        ("1.5", 2),
        ("100m", 1),
        ("1500m", 2),
        (".5k", 500),
        ("2.k", 2000),
        ("10M", 10**7),
        ("1G", 10**9),
        ("1E", 10**18),
        ("1Ki", 1024),
        ("1Ei", 2**60),
        ("1e3", 1000),
        ("1E3", 1000),
        ("12e-1", 2),
        ("+5", 5),
        ("5n", 1),
    ],
)
def test_quantities(text: str, value: int) -> None:
    assert quantity(text) == value
