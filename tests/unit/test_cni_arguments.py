"""What plugins are told of a pod."""

from __future__ import annotations

import pytest

from generated.cri import api_pb2
from runtime.cni.arguments import (
    EGRESS,
    INGRESS,
    POD_ANNOTATIONS,
    bandwidth,
    capability_args,
    cni_args,
    quantity,
)
from runtime.errors import InvalidArgument


def test_cni_args_name_the_pod() -> None:
    metadata = api_pb2.PodSandboxMetadata(name="n", uid="u", namespace="ns", attempt=1)
    assert cni_args("id", metadata) == {
        "IgnoreUnknown": "1",
        "K8S_POD_NAMESPACE": "ns",
        "K8S_POD_NAME": "n",
        "K8S_POD_INFRA_CONTAINER_ID": "id",
        "K8S_POD_UID": "u",
    }


def test_a_plain_pod_offers_nothing() -> None:
    assert capability_args(api_pb2.PodSandboxConfig()) == {}


def test_everything_a_pod_can_offer() -> None:
    config = api_pb2.PodSandboxConfig(
        annotations={INGRESS: "1M", "a": "b"},
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
    assert capability_args(config) == {
        "portMappings": [
            {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
            {"hostPort": 53, "containerPort": 53, "protocol": "udp", "hostIP": "127.0.0.1"},
        ],
        "bandwidth": {"ingressRate": 1000000, "ingressBurst": 4294967295},
        "dns": {"servers": ["1.1.1.1"], "searches": ["x"], "options": ["ndots:5"]},
        "cgroupPath": "/kubepods/x",
        POD_ANNOTATIONS: {INGRESS: "1M", "a": "b"},
    }


def test_both_directions_of_bandwidth() -> None:
    assert bandwidth({INGRESS: "1k", EGRESS: "1P"}) == {
        "ingressRate": 10**3,
        "ingressBurst": 2**32 - 1,
        "egressRate": 10**15,
        "egressBurst": 2**32 - 1,
    }
    assert bandwidth({}) is None


@pytest.mark.parametrize("text", ["", "ten", "10 M", "10Mbit", "1e", "--1", "0x10"])
def test_bandwidth_that_is_no_quantity_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="is not a quantity such as 10M") as caught:
        bandwidth({EGRESS: text})
    assert caught.value.field == "config.annotations[kubernetes.io/egress-bandwidth]"


@pytest.mark.parametrize("text", ["0", "999", "-5M", "2P"])
def test_bandwidth_out_of_reason_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match=f"must be between 1k and 1P .*, not {text}"):
        bandwidth({EGRESS: text})


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
