"""A client whose network is gone: no packet of it ever arrives again."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from runtime.streaming import client as client_module
from tests.harness.streams import V4, SpdyStreams
from tests.harness.waiting import until

from .test_server import NAMES, serving

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a network namespace")


@dataclass
class Far:
    """A network namespace at the end of a cable."""

    name: str
    near_address: str
    far_address: str
    link: str

    def cut(self) -> None:
        ip("link", "set", self.link, "down")


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@pytest.fixture
def far() -> Iterator[Far]:
    mark = secrets.token_hex(3)
    subnet = f"10.{secrets.randbelow(50) + 100}.{secrets.randbelow(256)}"
    found = Far(f"far{mark}", f"{subnet}.1", f"{subnet}.2", f"near{mark}")
    ip("netns", "add", found.name)
    try:
        ip("link", "add", found.link, "type", "veth", "peer", "name", "eth0", "netns", found.name)
        ip("address", "add", f"{found.near_address}/24", "dev", found.link)
        ip("link", "set", found.link, "up")
        ip("-n", found.name, "address", "add", f"{found.far_address}/24", "dev", "eth0")
        ip("-n", found.name, "link", "set", "eth0", "up")
        yield found
    finally:
        subprocess.run(["ip", "link", "del", found.link], check=False, capture_output=True)
        ip("netns", "del", found.name)


PROXY = """
import socket, sys, threading
near, far = socket.create_connection((sys.argv[1], int(sys.argv[2]))), None
listener = socket.socket(fileno=int(sys.argv[3]))
far, _ = listener.accept()
def copy(a, b):
    while data := a.recv(65536):
        b.sendall(data)
threading.Thread(target=copy, args=(far, near), daemon=True).start()
copy(near, far)
"""
"""Runs in the other namespace and forwards the bytes of a client here, over a unix socket."""


@pytest.mark.parametrize("what", ["idle", "waits for bytes"])
async def test_a_vanished_client_is_detected(
    tmp_path: Path, far: Far, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr(
        client_module,
        "_KEEPALIVE",
        {socket.TCP_KEEPIDLE: 1, socket.TCP_KEEPINTVL: 1, socket.TCP_KEEPCNT: 2},
    )
    monkeypatch.setattr(client_module, "_LIVENESS_INTERVAL", 0.3)
    monkeypatch.setattr(client_module, "_SILENCE_LIMIT", 1500)
    async with serving(tmp_path, stream_server_address=far.near_address) as world:
        url = await world.exec()
        port = url.split(":")[2].split("/")[0]
        with socket.create_server(str(tmp_path / "proxy"), family=socket.AF_UNIX) as listener:
            command = ["ip", "netns", "exec", far.name, "python3", "-c", PROXY]
            command += [far.near_address, port, str(listener.fileno())]
            proxy = await asyncio.create_subprocess_exec(*command, pass_fds=[listener.fileno()])
            try:
                reader, writer = await asyncio.open_unix_connection(str(tmp_path / "proxy"))
                path = url.partition(port)[2]
                writer.write(
                    f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n"
                    f"Upgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: {V4}\r\n\r\n".encode()
                )
                await reader.readuntil(b"\r\n\r\n")
                streams = SpdyStreams(reader, writer).start()
                for name in NAMES:
                    await streams.open(name)
                made_up = await world.command()
                far.cut()
                if what != "idle":
                    for _ in range(200):
                        made_up.stdout.parts.put_nowait(b"x" * 65536)
                await until(lambda: made_up.calls == ["end input"])
                made_up.exit(0)
                await until(lambda: "close" in made_up.calls)
                await streams.close()
            finally:
                proxy.kill()
                await proxy.wait()
