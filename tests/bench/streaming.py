"""Exec and port-forward, with a minimal client that counts bytes without reading them.

All measurements use SPDY, which the built-in plugin supports too.
"""

from __future__ import annotations

import socket
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from generated.cri import api_pb2
from runtime.streaming.spdy import Data, Spdy
from tests.harness.cri import Cri, container_config, pod_config
from tests.harness.node import Node

GIGABYTE = 1 << 30
PORT = 8080
Samples = defaultdict[str, list[float]]


class Client:
    """A blocking SPDY client."""

    def __init__(self, url: str, protocol: str):
        parts = urlsplit(url)
        self.socket = socket.create_connection((parts.hostname, parts.port), timeout=120)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.sendall(
            f"POST {parts.path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n"
            f"Upgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: {protocol}\r\n\r\n".encode()
        )
        head = b""
        while b"\r\n\r\n" not in head:
            head += self.socket.recv(1)
        assert head.startswith(b"HTTP/1.1 101"), head
        self.spdy = Spdy(client=True)
        self.spdy.output()  # no settings: like Go's client

    def open(self, headers: Mapping[str, str]) -> int:
        stream = self.spdy.open(headers)
        self.socket.sendall(self.spdy.output())
        return stream

    def send(self, stream: int, data: bytes) -> None:
        self.spdy.send(stream, data)
        self.socket.sendall(self.spdy.output())

    def data(self) -> list[Data]:
        """The next data; empty at the end."""
        while received := self.socket.recv(1 << 16):
            found = [event for event in self.spdy.receive(received) if isinstance(event, Data)]
            if found:
                return found
        return []

    def count(self, least: int) -> None:
        """Read this many bytes and discard them."""
        buffer = bytearray(1 << 20)
        while least > 0:
            count = self.socket.recv_into(buffer)
            assert count, f"{least} bytes did not come"
            least -= count

    def close(self) -> None:
        self.socket.close()


def exec_url(cri: Cri, container: str, *cmd: str, tty: bool = False, stdin: bool = False) -> str:
    request = api_pb2.ExecRequest(
        container_id=container, cmd=cmd, stdout=True, stdin=stdin, tty=tty
    )
    return str(cri.runtime.Exec(request).url)


def run(cri: Cri, container: str, *cmd: str) -> None:
    """Run a command to its end."""
    client = Client(exec_url(cri, container, *cmd), "v4.channel.k8s.io")
    error = client.open({"streamType": "error"})
    client.open({"streamType": "stdout"})
    while not any(event.stream == error and event.data for event in client.data()):
        pass
    client.close()


def echo(cri: Cri, container: str, samples: Samples, times: int) -> None:
    """Type one byte on a terminal and wait for its echo."""
    url = exec_url(cri, container, "cat", tty=True, stdin=True)
    client = Client(url, "v4.channel.k8s.io")
    for name in ("error", "stdout", "resize"):
        client.open({"streamType": name})
    stdin = client.open({"streamType": "stdin"})
    for number in range(times):
        started = time.perf_counter()
        client.send(stdin, b"x")
        client.data()
        if number >= 10:
            samples["tty echo of a byte"].append((time.perf_counter() - started) * 1000)
    client.close()


def exec_gigabyte(cri: Cri, container: str) -> None:
    url = exec_url(cri, container, "dd", "if=/dev/zero", "bs=1M", "count=1024")
    client = Client(url, "v4.channel.k8s.io")
    client.open({"streamType": "error"})
    client.open({"streamType": "stdout"})
    client.count(GIGABYTE)
    client.close()


def forward_gigabyte(cri: Cri, pod: str) -> None:
    url = cri.runtime.PortForward(api_pb2.PortForwardRequest(pod_sandbox_id=pod)).url
    client = Client(url, "portforward.k8s.io")
    for name in ("error", "data"):
        client.open({"streamType": name, "port": str(PORT), "requestID": "0"})
    client.count(GIGABYTE)
    client.close()


def resident_kb(node: Node) -> int:
    status = Path(f"/proc/{node.process.pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))


def measure(node: Node, samples: Samples, image: str, execs: int) -> None:
    """All measurements, in a pod of their own."""
    cri = node.cri
    config = pod_config("streams")
    config.linux.cgroup_parent = node.cgroup_parent
    pod = cri.run_pod(config)
    server = ("nc", "-ll", "-p", str(PORT), "-e", "dd", "if=/dev/zero", "bs=1M", "count=1024")
    container = cri.create(pod, container_config(image, *server), config)
    cri.start(container)
    for number in range(execs):
        started = time.perf_counter()
        run(cri, container, "true")
        samples["exec of true, streamed"].append((time.perf_counter() - started) * 1000)
        if number == execs // 10:  # warm up
            before = resident_kb(node)
    samples[f"memory after {execs} execs, % more"].append(
        (resident_kb(node) - before) / before * 100
    )
    echo(cri, container, samples, 300)
    for _ in range(3):
        started = time.perf_counter()
        exec_gigabyte(cri, container)
        samples["1 GiB of exec stdout"].append((time.perf_counter() - started) * 1000)
        started = time.perf_counter()
        forward_gigabyte(cri, pod)
        samples["1 GiB through port-forward"].append((time.perf_counter() - started) * 1000)
    cri.stop_pod(pod)
    cri.remove_pod(pod)
