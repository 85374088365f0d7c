"""Exec, attach and port-forward on the real daemon, over SPDY and WebSocket.

crictl, if it is on PATH, is the standard client; ``tests.harness.streams`` does what crictl never
does.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import io
import os
import shutil
import signal
import socket
import struct
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from generated.cri import api_pb2
from tests.harness.cri import Cri, container_config, pod_config
from tests.harness.node import Node
from tests.harness.streams import (
    Refused,
    Streams,
    connected,
    forward,
    ports,
    upgraded,
)
from tests.harness.waiting import PATIENCE, until

from .conftest import BUSYBOX, newest_only

TRANSPORTS = ("spdy", "websocket")
both = pytest.mark.parametrize("transport", TRANSPORTS)


class App:
    """A pod and a container that sleeps."""

    def __init__(self, cri: Cri, node: Node):
        self.cri, self.node = cri, node
        self.config = pod_config(log_directory=str(node.logs))
        self.pod = cri.run_pod(self.config)
        self.container = self.run("sleep", "1000", name="sleeper")

    def run(self, *command: str, **fields: Any) -> str:
        container = self.cri.create(
            self.pod, container_config(BUSYBOX, *command, **fields), self.config
        )
        self.cri.start(container)
        return container

    def exec(self, *cmd: str, container: str = "", **streams: bool) -> str:
        request = api_pb2.ExecRequest(
            container_id=container or self.container,
            cmd=cmd,
            **(streams or {"stdout": True, "stderr": True}),
        )
        return str(self.cri.runtime.Exec(request).url)

    def attach(self, container: str, **streams: bool) -> str:
        request = api_pb2.AttachRequest(container_id=container, **streams)
        return str(self.cri.runtime.Attach(request).url)

    def forward(self, *port: int, pod: str = "") -> str:
        request = api_pb2.PortForwardRequest(pod_sandbox_id=pod or self.pod, port=port)
        return str(self.cri.runtime.PortForward(request).url)

    def processes(self, words: str) -> str:
        """The commands in the sleeper's pid namespace that contain these words."""
        listed = self.cri.exec_sync(self.container, "ps").stdout.decode()
        return "\n".join(line for line in listed.splitlines() if words in line)


@pytest.fixture
def app(cri: Cri, node: Node) -> Iterator[App]:
    yield App(cri, node)


def fifos(node: Node) -> list[Path]:
    """The existing FIFOs of commands."""
    containers = node.directory / "state/io.containerd.grpc.v1.cri/containers"
    return list(containers.glob("*/exec/*-std*"))


def descriptors(node: Node) -> int:
    return len(os.listdir(f"/proc/{node.process.pid}/fd"))


async def run(
    url: str, transport: str, *names: str, stdin: bytes | None = None, protocol: str = ""
) -> Streams:
    """Run a command with input and read it to its end."""
    opened = ("error", *names, *(("stdin",) if stdin is not None else ()))
    async with connected(url, transport, protocol, opened) as streams:
        if stdin is not None:
            await streams.send("stdin", stdin)
            await streams.end("stdin")
        await streams.all_ended(("error", *names), 3 * PATIENCE)  # it may be one of a hundred
        return streams


# Exec


@both
async def test_exec_gives_output_and_exit_code(app: App, transport: str) -> None:
    url = app.exec("sh", "-c", "echo out; echo err >&2; exit 7")
    streams = await run(url, transport, "stdout", "stderr")
    assert streams.received["stdout"] == b"out\n"
    assert streams.received["stderr"] == b"err\n"
    assert streams.exit_code == 7
    assert await run_true(app, transport) == 0


async def run_true(app: App, transport: str) -> int:
    return (await run(app.exec("true", stdout=True), transport, "stdout")).exit_code


@both
async def test_the_end_of_stdin_reaches_the_command(app: App, transport: str) -> None:
    url = app.exec("cat", stdin=True, stdout=True)
    streams = await run(url, transport, "stdout", stdin=b"from the client")
    assert streams.received["stdout"] == b"from the client"
    assert streams.exit_code == 0


@both
async def test_a_command_that_cannot_run_is_an_internal_error(app: App, transport: str) -> None:
    streams = await run(app.exec("nosuch", stdout=True), transport, "stdout")
    status = streams.status
    assert (status["reason"], status["code"]) == ("InternalError", 500)
    assert "executable file not found" in status["message"]
    await until(lambda: not fifos(app.node))


@pytest.mark.parametrize("protocol", ["channel.k8s.io", "v2.channel.k8s.io", "v3.channel.k8s.io"])
async def test_older_spdy_protocols_report_a_failure_as_text(app: App, protocol: str) -> None:
    url = app.exec("sh", "-c", "exit 3", stdout=True)
    streams = await run(url, "spdy", "stdout", protocol=protocol)
    assert streams.received["error"] == b"command terminated with non-zero exit code: exit code 3"
    streams = await run(app.exec("true", stdout=True), "spdy", "stdout", protocol=protocol)
    assert streams.received["error"] == b""


@pytest.mark.parametrize("protocol", ["v4.base64.channel.k8s.io", "v4.channel.k8s.io"])
async def test_older_websocket_protocols(app: App, protocol: str) -> None:
    streams = await run(app.exec("echo", "hi", stdout=True), "websocket", protocol=protocol)
    assert streams.received["stdout"] == b"hi\n"
    assert streams.exit_code == 0


@both
async def test_a_terminal_has_its_type_and_the_client_s_size(app: App, transport: str) -> None:
    url = app.exec("sh", stdin=True, stdout=True, tty=True)
    names = ("error", "stdin", "stdout", "resize")
    async with connected(url, transport, names=names) as streams:
        await streams.send("resize", b'{"Width":0,"Height":0}{"Width":111,"Height":37}')
        for _ in range(100):  # the size arrives in parallel with the input
            await streams.send("stdin", b"stty size; echo $TERM-$((1+1))\n")
            await asyncio.sleep(0.1)
            if b"37 111" in streams.received["stdout"]:
                break
        await streams.until(lambda: b"xterm-2" in streams.received["stdout"])
        assert b"37 111" in streams.received["stdout"]
        await streams.send("stdin", b"exit 5\n")
        await streams.gone()
        assert streams.exit_code == 5


@both
async def test_a_client_that_leaves_a_terminal_hangs_up(app: App, transport: str) -> None:
    url = app.exec("sh", "-c", "sleep 4321; echo", stdin=True, stdout=True, tty=True)
    async with connected(url, transport, names=("error", "stdin", "stdout", "resize")):
        await until(lambda: "sleep 4321" in app.processes("4321"))
    await until(lambda: app.processes("4321") == "")
    await until(lambda: not fifos(app.node))


@both
async def test_a_command_without_a_terminal_runs_on_when_its_client_leaves(
    app: App, transport: str
) -> None:
    script = (
        "cat >/dev/null; i=0; while [ $i -lt 3000 ]; do echo 0123456789012345678901234567890123456"
        "; i=$((i+1)); done; echo done >/tmp/done; sleep 1"
    )
    url = app.exec("sh", "-c", script, stdin=True, stdout=True)
    async with connected(url, transport, names=("error", "stdin", "stdout")) as streams:
        await until(lambda: "cat" in app.processes("cat"))
        streams.vanish()
    await until(lambda: app.cri.exec_sync(app.container, "cat", "/tmp/done").stdout == b"done\n")
    await until(lambda: not fifos(app.node))


async def test_output_held_open_by_a_left_process_ends_with_the_client(app: App) -> None:
    before = descriptors(app.node)
    url = app.exec("sh", "-c", "sleep 5432 & echo started", stdout=True)
    async with connected(url, "spdy", names=("error", "stdout")) as streams:
        await streams.until(lambda: streams.received["stdout"] == b"started\n")
        await asyncio.sleep(0.3)
        assert not streams.closed  # as with the built-in plugin: the output is still open
    await until(lambda: not fifos(app.node))
    await until(lambda: descriptors(app.node) <= before)


@both
async def test_a_file_of_100_mb_is_transferred_both_ways_unchanged(
    app: App, transport: str
) -> None:
    content = os.urandom(1 << 20) * 100
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        file = tarfile.TarInfo("file")
        file.size = len(content)
        archive.addfile(file, io.BytesIO(content))
    url = app.exec("tar", "-C", "/tmp", "-xf", "-", stdin=True, stdout=True, stderr=True)
    streams = await run(url, transport, "stdout", "stderr", stdin=packed.getvalue())
    assert streams.exit_code == 0, streams.received["stderr"]
    url = app.exec("tar", "-C", "/tmp", "-cf", "-", "file", stdout=True)
    streams = await run(url, transport, "stdout")
    with tarfile.open(fileobj=io.BytesIO(streams.received["stdout"])) as archive:
        found = archive.extractfile("file")
        assert found is not None
        assert hashlib.sha256(found.read()).digest() == hashlib.sha256(content).digest()
    app.cri.exec_sync(app.container, "rm", "/tmp/file")


@both
async def test_100_sessions_at_once(app: App, transport: str) -> None:
    before = descriptors(app.node)
    urls = [app.exec("sh", "-c", "read x; echo $x", stdin=True, stdout=True) for _ in range(100)]
    results = await asyncio.gather(
        *(run(url, transport, "stdout", stdin=b"%d\n" % n) for n, url in enumerate(urls))
    )
    assert [bytes(r.received["stdout"]) for r in results] == [b"%d\n" % n for n in range(100)]
    await until(lambda: not fifos(app.node))
    await until(lambda: descriptors(app.node) <= before + 2)


@both
async def test_a_client_that_reads_nothing_blocks_only_itself(app: App, transport: str) -> None:
    def resident() -> int:
        status = Path(f"/proc/{app.node.process.pid}/status").read_text()
        return next(int(x.split()[1]) for x in status.splitlines() if x.startswith("VmRSS"))

    before = resident()
    url = app.exec("cat", "/dev/zero", stdout=True)
    async with connected(url, transport, names=("error", "stdout")) as streams:
        await streams.until(lambda: streams.received["stdout"])
        streams.stop_reading()
        await asyncio.sleep(1)
        assert await run_true(app, transport) == 0  # or it waits for ever
        assert resident() - before < 16 << 10  # KiB
    await asyncio.to_thread(app.cri.stop, app.container)
    await until(lambda: not fifos(app.node))


async def test_the_command_runs_with_the_containers_settings(app: App) -> None:
    """User, groups, environment, capabilities and limits are those of its first process."""
    shown = "id; env | sort; grep Cap /proc/self/status; ulimit -n; echo that is all"
    container = app.run(
        *("sh", "-c", f"{shown}; sleep 1000"),
        name="limited",
        envs=[api_pb2.KeyValue(key="COLOUR", value=b"green")],
        linux=api_pb2.LinuxContainerConfig(
            security_context=api_pb2.LinuxContainerSecurityContext(
                run_as_user=api_pb2.Int64Value(value=1234),
                run_as_group=api_pb2.Int64Value(value=2345),
                supplemental_groups=[77, 88],
                capabilities=api_pb2.Capability(drop_capabilities=["ALL"]),
            )
        ),
    )
    log = app.node.logs / "limited.log"
    await until(lambda: log.exists() and log.read_text().endswith("that is all\n"))
    own = [line.split(" ", 3)[3] for line in log.read_text().splitlines()]
    assert "groups=77,88" in own[0] and "COLOUR=green" in own
    for _ in range(3):  # in runc 1.1, Go's start can change the limit, but rarely
        url = app.exec("sh", "-c", shown, container=container)
        streams = await run(url, "spdy", "stdout", "stderr")
        seen = streams.received["stdout"].decode().splitlines()
        if seen == own:
            break
    assert seen == own


# The end of sessions


@both
async def test_a_stopped_container_ends_its_sessions_at_once(app: App, transport: str) -> None:
    container = app.run("sh", "-c", ECHO, name="short", stdin=True)
    exec_url = app.exec("sh", "-c", "echo begun; sleep 1000", container=container, stdout=True)
    attach_url = app.attach(container, stdout=True, stdin=True)
    async with (
        connected(exec_url, transport, names=("error", "stdout")) as command,
        connected(attach_url, transport, names=("error", "stdin", "stdout")) as attached,
    ):
        await command.until(lambda: command.received["stdout"] == b"begun\n")
        await attached.send("stdin", b"x\n")
        await attached.until(lambda: attached.received["stdout"] == b"got-x\n")
        waits = app.node.log().count("output not drained")
        await asyncio.to_thread(app.cri.remove, container)
        await asyncio.gather(command.gone(), attached.gone())
        assert app.node.log().count("output not drained") == waits
        assert command.exit_code == 137
        assert attached.exit_code == 0


async def test_a_stopped_pod_ends_its_port_forwards(app: App) -> None:
    async with ports(app.forward()) as streams:
        await asyncio.to_thread(app.cri.stop_pod, app.pod)
        await streams.gone()


# Attach

ECHO = "while read line; do echo got-$line; done; echo ended"


@both
async def test_attach_joins_live_output_and_feeds_the_container(app: App, transport: str) -> None:
    container = app.run("sh", "-c", ECHO, name="echo", stdin=True)
    streams_wanted = {"stdin": True, "stdout": True, "stderr": True}
    names = ("error", "stdin", "stdout", "stderr")
    async with (
        connected(app.attach(container, **streams_wanted), transport, names=names) as one,
        connected(app.attach(container, **streams_wanted), transport, names=names) as two,
    ):
        for number, client in enumerate((one, two)):  # its answer shows that it has joined
            await client.send("stdin", b"%d\n" % number)
            await client.until(lambda client=client: client.received["stdout"].endswith(b"\n"))
        await one.send("stdin", b"2\n")
        await two.until(lambda: two.received["stdout"].endswith(b"got-1\ngot-2\n"))
        await two.send("stdin", b"3\n")
        await one.until(lambda: one.received["stdout"].endswith(b"got-1\ngot-2\ngot-3\n"))
    # stdin was not created for one client only: a later one finds it open, and gets no old output
    async with connected(app.attach(container, **streams_wanted), transport, names=names) as one:
        await one.send("stdin", b"4\n")
        await one.until(lambda: one.received["stdout"] == b"got-4\n")


@both
async def test_stdin_once_ends_with_its_first_client(app: App, transport: str) -> None:
    container = app.run("sh", "-c", ECHO, name="once", stdin=True, stdin_once=True)
    url = app.attach(container, stdin=True, stdout=True)
    async with connected(url, transport, names=("error", "stdin", "stdout")) as streams:
        await streams.send("stdin", b"x\n")
        await streams.end("stdin")
        await streams.gone()
        assert streams.received["stdout"] == b"got-x\nended\n"
        assert streams.exit_code == 0
    app.cri.wait_for_state(container, api_pb2.CONTAINER_EXITED)


async def test_stdin_once_ends_for_all_clients_and_later_ones_get_the_output(app: App) -> None:
    container = app.run("sh", "-c", f"{ECHO}; sleep 1000", name="once", stdin=True, stdin_once=True)
    wanted = {"stdin": True, "stdout": True}
    names = ("error", "stdin", "stdout")
    async with (
        connected(app.attach(container, **wanted), "spdy", names=names) as one,
        connected(app.attach(container, **wanted), "spdy", names=names) as two,
    ):
        for number, client in enumerate((one, two)):  # its answer shows that it has joined
            await client.send("stdin", b"%d\n" % number)
            await client.until(lambda client=client: client.received["stdout"].endswith(b"\n"))
        await one.end("stdin")
        await two.until(lambda: two.received["stdout"].endswith(b"ended\n"))
        await two.send("stdin", b"2\n")
        async with connected(app.attach(container, **wanted), "spdy", names=names) as three:
            await three.send("stdin", b"3\n")
            await asyncio.to_thread(app.cri.stop, container)
            await asyncio.gather(*(client.gone() for client in (one, two, three)))
            assert [client.exit_code for client in (one, two, three)] == [0, 0, 0]


@both
async def test_stdin_once_ends_with_a_client_that_vanishes(app: App, transport: str) -> None:
    container = app.run("sh", "-c", ECHO, name="once", stdin=True, stdin_once=True)
    url = app.attach(container, stdin=True, stdout=True)
    async with connected(url, transport, names=("error", "stdin", "stdout")) as streams:
        await streams.send("stdin", b"x\n")
        await streams.until(lambda: streams.received["stdout"] == b"got-x\n")
        streams.vanish()
    await asyncio.to_thread(app.cri.wait_for_state, container, api_pb2.CONTAINER_EXITED)


@both
async def test_attach_to_a_terminal(app: App, transport: str) -> None:
    container = app.run("sh", name="terminal", stdin=True, tty=True)
    url = app.attach(container, stdin=True, stdout=True, tty=True)
    names = ("error", "stdin", "stdout", "resize")
    async with connected(url, transport, names=names) as streams:
        await streams.send("resize", b'{"Width":99,"Height":22}')
        for _ in range(100):  # the size arrives in parallel with the input
            await streams.send("stdin", b"stty size\n")
            await asyncio.sleep(0.1)
            if b"22 99" in streams.received["stdout"]:
                break
        await streams.until(lambda: b"22 99" in streams.received["stdout"])


@newest_only
async def test_attach_outlives_the_server_for_later_clients(app: App) -> None:
    container = app.run("sh", "-c", ECHO, name="echo", stdin=True)
    url = app.attach(container, stdin=True, stdout=True)
    async with connected(url, "spdy", names=("error", "stdin", "stdout")) as streams:
        await asyncio.to_thread(app.node.stop)
        await streams.gone()
        assert "server is shutting down" in streams.status["message"]
    app.node.start()
    url = app.attach(container, stdin=True, stdout=True)
    async with connected(url, "spdy", names=("error", "stdin", "stdout")) as streams:
        await streams.send("stdin", b"again\n")
        await streams.until(lambda: streams.received["stdout"] == b"got-again\n")


# PortForward


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_several_ports_and_connections_in_one_session(app: App, transport: str) -> None:
    app.run("nc", "-ll", "-p", "8080", "-e", "cat", name="echo8080")
    app.run("nc", "-ll", "-p", "8081", "-e", "tr", "a-z", "A-Z", name="upper8081")
    for port in (8080, 8081):
        await until(functools.partial(listens, app, port))
    async with ports(app.forward(), transport) as streams:
        for request in range(10):
            data, _ = await forward(streams, 8080 + request % 2, request)
            await streams.send(data, b"hello %d" % request)
            await streams.end(data)
        for request in range(10):
            expected = b"hello %d" % request
            expected = expected.upper() if request % 2 else expected
            name = f"data{request}"
            await streams.until(functools.partial(streams.ended.__contains__, name))
            assert streams.received[name] == expected
            assert streams.received[f"error{request}"] == b""
        # a refused port is an error on its own stream only
        _, error = await forward(streams, 9999, 77)
        await streams.until(lambda: error in streams.ended)
        assert b"port 9999" in streams.received[error]
        assert b"Connection refused" in streams.received[error]
        data, _ = await forward(streams, 8080, 78)
        await streams.send(data, b"still here")
        await streams.until(lambda: streams.received[data] == b"still here")


def listens(app: App, port: int) -> bool:
    listed = app.cri.exec_sync(app.container, "netstat", "-ltn").stdout.decode()
    return f":{port} " in listed


async def test_ipv6_is_tried_after_ipv4(app: App) -> None:
    app.run("httpd", "-f", "-h", "/etc", "-p", "[::1]:8086", name="six")
    await until(lambda: listens(app, 8086))
    async with ports(app.forward()) as streams:
        data, _ = await forward(streams, 8086, 1)
        await streams.send(data, b"GET /group HTTP/1.0\r\n\r\n")
        await streams.until(lambda: data in streams.ended)
        assert streams.received[data].startswith(b"HTTP/1.1 200 OK")


async def test_the_pod_s_end_of_a_connection_ends_the_client_s(app: App) -> None:
    app.run("nc", "-ll", "-p", "8087", "-e", "echo", "bye", name="bye")
    await until(lambda: listens(app, 8087))
    async with ports(app.forward()) as streams:
        data, error = await forward(streams, 8087, 1)
        await streams.until(lambda: {data, error} <= streams.ended)
        assert streams.received[data] == b"bye\n"


async def test_a_pod_on_the_node_s_network(app: App) -> None:
    node_network = api_pb2.NamespaceOption(network=api_pb2.NODE, pid=api_pb2.CONTAINER)
    context = api_pb2.LinuxSandboxSecurityContext(namespace_options=node_network)
    config = pod_config("host", linux=api_pb2.LinuxPodSandboxConfig(security_context=context))
    config.hostname = ""
    pod = app.cri.run_pod(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        async with ports(app.forward(pod=pod)) as streams:
            data, _ = await forward(streams, port, 1)
            await streams.send(data, b"to the node")
            peer, _ = await asyncio.to_thread(listener.accept)
            with peer:
                assert await asyncio.to_thread(peer.recv, 100) == b"to the node"


async def test_the_older_websocket_form_has_fixed_ports(app: App) -> None:
    app.run("nc", "-ll", "-p", "8080", "-e", "cat", name="echo8080")
    await until(lambda: listens(app, 8080))
    url = app.forward(8080, 9998)
    async with connected(url, "websocket", "v4.channel.k8s.io") as streams:
        # data of the first port is channel 0, its errors 1; of the second 2 and 3
        await streams.send("stdin", b"hello")
        first = struct.pack("<H", 8080)
        await streams.until(lambda: streams.received["stdin"] == first + b"hello")
        await streams.until(lambda: b"refused" in streams.received["error"])
        assert streams.received["error"][:2] == struct.pack("<H", 9998)


# Requests that are refused


def code(call: Callable[[], object]) -> grpc.StatusCode:
    with pytest.raises(grpc.RpcError) as error:
        call()
    found: grpc.StatusCode = error.value.code()
    return found


async def test_the_rules_of_the_cri(app: App) -> None:
    invalid, absent = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
    assert code(lambda: app.exec("sh", tty=True, stderr=True)) is invalid
    assert code(lambda: app.exec("sh", tty=True)) is invalid
    assert code(lambda: app.exec(stdout=True)) is invalid
    assert code(lambda: app.exec("sh", container="feed", stdout=True)) is absent
    assert code(lambda: app.attach(app.container, tty=True, stderr=True)) is invalid
    assert code(lambda: app.attach("feed", stdout=True)) is absent
    assert code(lambda: app.forward(0)) is invalid
    assert code(lambda: app.forward(65536)) is invalid
    assert code(lambda: app.forward(pod="feed")) is absent
    ended = app.run("true", name="ended")
    app.cri.wait_for_state(ended, api_pb2.CONTAINER_EXITED)
    precondition = grpc.StatusCode.FAILED_PRECONDITION
    assert code(lambda: app.exec("sh", container=ended, stdout=True)) is precondition
    assert app.exec("true", container=app.container[:12], stdout=True)


@both
async def test_a_url_serves_one_client(app: App, transport: str) -> None:
    url = app.exec("true", stdout=True)
    wrong = url.replace("/exec/", "/attach/")
    for other in (wrong, url[:-3] + "abc", url.rpartition("/")[0]):
        with pytest.raises(Refused) as refused:
            await upgraded(other, transport, "v4.channel.k8s.io")
        assert refused.value.status == 404
    with pytest.raises(Refused) as refused:
        await upgraded(url, transport, "v9.channel.k8s.io")
    assert refused.value.status == 403
    assert "X-Accepted-Stream-Protocol-Versions: v4.channel.k8s.io" in refused.value.headers
    # a refused upgrade leaves the URL valid for another attempt
    assert (await run(url, transport, "stdout")).exit_code == 0
    with pytest.raises(Refused) as refused:
        await upgraded(url, transport, "v4.channel.k8s.io")
    assert refused.value.status == 404


async def test_a_container_that_ended_after_its_url_was_given(app: App) -> None:
    container = app.run("sleep", "1000", name="short")
    url = app.exec("true", container=container, stdout=True)
    app.cri.stop(container)
    streams = await run(url, "spdy", "stdout")
    assert "EXITED" in streams.status["message"]


async def test_unexpected_streams_are_reset_without_harm_to_others(app: App) -> None:
    url = app.exec("sh", "-c", "read x; echo $x", stdin=True, stdout=True)
    async with connected(url, "spdy", names=("error", "stdin", "stdout")) as streams:
        for number in range(10_000):
            await streams.open(f"extra{number}", streamType="stdout")  # type: ignore[call-arg]
        await streams.until(lambda: len(streams.resets) == 10_000)
        await streams.send("stdin", b"fine\n")
        await streams.gone()
        assert streams.received["stdout"] == b"fine\n"


# Standard clients


def crictl(app: App, *arguments: str, **fields: Any) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        ["crictl", "--runtime-endpoint", f"unix://{app.node.socket}", *arguments],
        capture_output=True,
        timeout=60,
        check=False,
        **fields,
    )


needs_crictl = pytest.mark.skipif(not shutil.which("crictl"), reason="crictl is not on PATH")


@needs_crictl
@both
def test_crictl_exec(app: App, transport: str) -> None:
    way = ("exec", "--transport", transport)
    done = crictl(app, *way, app.container, "echo", "hello")
    assert (done.returncode, done.stdout) == (0, b"hello\n")
    done = crictl(app, *way, "-i", app.container, "cat", input=b"piped")
    assert done.stdout == b"piped"
    done = crictl(app, *way, app.container, "sh", "-c", "exit 9")
    assert done.returncode != 0 and b"exit code 9" in done.stderr


@needs_crictl
@both
def test_crictl_exec_on_a_terminal(app: App, transport: str) -> None:
    command = ["crictl", "--runtime-endpoint", f"unix://{app.node.socket}", "exec", "-it"]
    command += ["--transport", transport, app.container, "sh"]
    # script(1) gives crictl a terminal of its own
    done = subprocess.run(
        ["script", "-qec", " ".join(command), "/dev/null"],
        input=b"echo a-$((40+2))\nexit\n",
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert b"a-42" in done.stdout


@needs_crictl
@both
def test_crictl_attach(app: App, transport: str) -> None:
    container = app.run("sh", "-c", ECHO, name="once", stdin=True, stdin_once=True)
    done = crictl(app, "attach", "--transport", transport, "-i", container, input=b"x\n")
    assert b"got-x" in done.stdout, done.stderr


@needs_crictl
@both
def test_crictl_port_forward(app: App, transport: str) -> None:
    app.run("nc", "-ll", "-p", "8080", "-e", "cat", name="echo8080")
    command = ["crictl", "--runtime-endpoint", f"unix://{app.node.socket}", "port-forward"]
    command += ["--transport", transport, app.pod, "0:8080"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as forwarding:
        assert forwarding.stdout is not None
        try:
            line = forwarding.stdout.readline()  # Forwarding from 127.0.0.1:41234 -> 8080
            port = int(line.split(" -> ")[0].rpartition(":")[2])
            with socket.create_connection(("127.0.0.1", port), timeout=10) as peer:
                peer.sendall(b"through crictl")
                assert peer.recv(100) == b"through crictl"
        finally:
            forwarding.send_signal(signal.SIGTERM)
