"""Real CNI plugins on a node of their own: a network namespace plays the node, so that this
machine's network is not touched and everything a pod leaves behind is visible."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from generated.cri import api_pb2
from runtime.cni.cache import ResultCache
from runtime.cni.network import Network
from runtime.errors import Unknown
from runtime.linux import kernel, netns
from tests.harness import cni_recorder
from tests.harness.waiting import PATIENCE, until

PLUGINS = "/usr/lib/cni"

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(
        not Path(PLUGINS, "bridge").exists(), reason="needs Debian's containernetworking-plugins"
    ),
]


@dataclass(frozen=True, slots=True)
class Settings:
    bin_dirs: tuple[str, ...]
    conf_dir: str
    ip_pref: str = ""
    max_conf_num: int = 1
    setup_serially: bool = False


class Node:
    """A node with the pods' network only, and checks for what pods leave."""

    def __init__(self, directory: Path, *further: dict[str, Any], ip_pref: str = "") -> None:
        self._directory = directory
        self._ip_pref = ip_pref
        self.conf = directory / "conf"
        self.conf.mkdir()
        cni_recorder.install(directory / "bin", ("recorder",))
        bridge = {
            "type": "bridge",
            "bridge": "pods0",
            "isGateway": True,
            "ipMasq": True,
            "ipam": {
                "type": "host-local",
                "dataDir": str(directory / "leases"),
                "ranges": [[{"subnet": "10.77.0.0/24"}], [{"subnet": "fd77::/64"}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        }
        portmap = {"type": "portmap", "capabilities": {"portMappings": True}}
        listed = {"cniVersion": "1.0.0", "name": "pods", "plugins": [bridge, portmap, *further]}
        (self.conf / "10-pods.conflist").write_text(json.dumps(listed))

    def run(self, scenario: Callable[[Network], Awaitable[None]]) -> None:
        """Run a scenario on the node: its processes and threads start in the node's namespace."""
        failures: list[BaseException] = []

        def live() -> None:
            try:
                kernel.unshare(kernel.CLONE_NEWNET)
                netns.raise_loopback()
                asyncio.run(self._live(scenario))
            except BaseException as error:
                failures.append(error)

        thread = threading.Thread(target=live)
        thread.start()
        thread.join(2 * PATIENCE)
        assert not thread.is_alive(), "the scenario hangs"
        if failures:
            raise failures[0]

    async def _live(self, scenario: Callable[[Network], Awaitable[None]]) -> None:
        network = Network(
            Settings((PLUGINS, str(self._directory / "bin")), str(self.conf), self._ip_pref),
            cache=ResultCache(str(self._directory / "lib")),
        )
        await network.start()
        try:
            await scenario(network)
        finally:
            await network.stop()

    def left(self) -> list[str]:
        """Return what pods have left on the node; called in a scenario."""
        leases = [path.name for path in self._directory.glob("leases/*/*.*.*.*")]
        leases += [path.name for path in self._directory.glob("leases/*/*:*")]
        results = [path.name for path in self._directory.glob("lib/results/*")]
        links = [name for _, name in socket.if_nameindex() if name not in ("lo", "pods0")]
        rules = [
            line
            for save in ("iptables-save", "ip6tables-save")
            for line in output(save).splitlines()
            if "pod-" in line or line.startswith((":CNI-DN-", ":CNI-SN-"))
        ]
        return sorted(leases + results + links + rules)


def output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def pod(name: str, **keys: Any) -> api_pb2.PodSandboxConfig:
    metadata = api_pb2.PodSandboxMetadata(name=name, namespace="default", uid=name)
    return api_pb2.PodSandboxConfig(metadata=metadata, **keys)


async def serve_once(path: str, port: int, answer: bytes) -> asyncio.Task[None]:
    """Listen in a pod; the returned task ends when one client has been served."""

    def listen() -> socket.socket:
        listener = socket.create_server(("0.0.0.0", port))
        listener.settimeout(PATIENCE)
        return listener

    listener = await netns.inside(path, listen)

    def serve() -> None:
        with listener, listener.accept()[0] as client:
            client.sendall(answer)

    return asyncio.create_task(asyncio.to_thread(serve))


async def hear(address: str, port: int) -> bytes:
    reader, writer = await asyncio.wait_for(asyncio.open_connection(address, port), PATIENCE)
    heard = await reader.read()
    writer.close()
    return heard


def test_a_pod_is_reached_by_its_address_and_by_a_host_port(tmp_path: Path) -> None:
    node = Node(tmp_path)

    async def scenario(network: Network) -> None:
        path = await netns.create(netns.new_path())
        mapping = api_pb2.PortMapping(host_port=8080, container_port=80)
        config = pod("web", port_mappings=[mapping])
        got = await network.add("pod-web", path, config)
        assert got.ip == "10.77.0.2"
        assert got.additional_ips == ("fd77::2",)
        assert got.result["Interfaces"]["eth0"]["Sandbox"] == path
        for address, port in ((got.ip, 80), ("10.77.0.1", 8080)):
            answered = await serve_once(path, 80, b"hello from the pod")
            assert await hear(address, port) == b"hello from the pod"
            await answered
        assert node.left() != []
        await network.delete("pod-web", path, config, had_result=True)
        assert node.left() == []
        await network.delete("pod-web", path, config, had_result=True)
        await netns.remove(path)

    node.run(scenario)


def test_bandwidth_shapes_the_pods_link(tmp_path: Path) -> None:
    node = Node(tmp_path, {"type": "bandwidth", "capabilities": {"bandwidth": True}})

    async def scenario(network: Network) -> None:
        path = await netns.create(netns.new_path())
        annotations = {"kubernetes.io/ingress-bandwidth": "8M"}
        annotations["kubernetes.io/egress-bandwidth"] = "4M"
        config = pod("slow", annotations=annotations)
        await network.add("pod-slow", path, config)
        qdiscs = await asyncio.to_thread(output, "tc", "qdisc", "show")
        assert "rate 8Mbit" in qdiscs
        assert "rate 4Mbit" in qdiscs
        await network.delete("pod-slow", path, config, had_result=True)
        assert node.left() == []
        await netns.remove(path)

    node.run(scenario)


def test_ipv6_is_the_primary_address_if_preferred(tmp_path: Path) -> None:
    node = Node(tmp_path, ip_pref="ipv6")

    async def scenario(network: Network) -> None:
        path = await netns.create(netns.new_path())
        got = await network.add("pod-six", path, pod("six"))
        assert (got.ip, got.additional_ips) == ("fd77::2", ("10.77.0.2",))
        await network.delete("pod-six", path, pod("six"), had_result=True)
        await netns.remove(path)

    node.run(scenario)


def test_nothing_is_left_when_the_last_plugin_fails(tmp_path: Path) -> None:
    failing: dict[str, object] = {"type": "recorder", "record": str(tmp_path / "calls")}
    failing["fail"] = {"ADD": {"code": 7, "msg": "no"}, "DEL": {"code": 7, "msg": "no"}}
    node = Node(tmp_path, failing)

    async def scenario(network: Network) -> None:
        path = await netns.create(netns.new_path())
        mapping = api_pb2.PortMapping(host_port=8080, container_port=80)
        config = pod("bad", port_mappings=[mapping])
        with pytest.raises(Unknown, match="CNI plugin recorder failed at ADD: no"):
            await network.add("pod-bad", path, config)
        assert node.left() != []
        await network.delete("pod-bad", path, config, had_result=False)
        assert node.left() == []
        await netns.remove(path)

    node.run(scenario)


@pytest.mark.parametrize("milliseconds", [1, 10, 20, 30])
def test_nothing_is_left_of_a_cancelled_add(tmp_path: Path, milliseconds: int) -> None:
    node = Node(tmp_path)

    async def scenario(network: Network) -> None:
        path = await netns.create(netns.new_path())
        adding = asyncio.create_task(network.add("pod-cut", path, pod("cut")))
        await asyncio.sleep(milliseconds / 1000)
        adding.cancel()
        await asyncio.wait([adding])
        await network.delete("pod-cut", path, pod("cut"), had_result=False)
        assert node.left() == []
        await netns.remove(path)

    node.run(scenario)


def test_a_pod_without_its_namespace_releases_its_address(tmp_path: Path) -> None:
    node = Node(tmp_path)

    async def scenario(network: Network) -> None:
        path = await netns.create(netns.new_path())
        mapping = api_pb2.PortMapping(host_port=8080, container_port=80)
        config = pod("gone", port_mappings=[mapping])
        await network.add("pod-gone", path, config)
        await netns.remove(path)
        await network.delete("pod-gone", path, config, had_result=True)
        # the kernel removes the veth with the namespace, after a moment
        await until(lambda: set(node.left()) == set(of_bridge(node.left())))

    def of_bridge(left: list[str]) -> list[str]:
        """Masquerading, which this plugin undoes only while it can access the namespace."""
        return [rule for rule in left if 'name: \\"pods\\"' in rule and "DN-" not in rule]

    node.run(scenario)


def test_many_pods_at_once_get_addresses_of_their_own(tmp_path: Path) -> None:
    node = Node(tmp_path)

    async def live(network: Network, name: str) -> str:
        path = await netns.create(netns.new_path())
        got = await network.add(name, path, pod(name))
        await network.delete(name, path, pod(name), had_result=True)
        await netns.remove(path)
        return got.ip

    async def scenario(network: Network) -> None:
        addresses = await asyncio.gather(*(live(network, f"pod-{n}") for n in range(8)))
        assert len(set(addresses)) == 8
        assert node.left() == []

    node.run(scenario)
