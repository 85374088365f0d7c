"""The listener, its clients and their sessions, with fake commands and containers."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from generated.cri import api_pb2
from generated.lifecycle import ContainerEvent
from generated.plans import plan_attach, plan_exec, plan_port_forward
from generated.validators import port_forward_request
from runtime.config.tables import Config, ConfigError, Duration, KeyPair, StreamingTable
from runtime.errors import InvalidArgument, ResourceExhausted, Unknown
from runtime.frame import refuse_if_any
from runtime.store.objects import Container
from runtime.streaming import client as client_module
from runtime.streaming import listener as listener_module
from runtime.streaming import port_forward, sessions, spdy_link, tokens
from runtime.streaming.listener import default_address
from runtime.streaming.operations import Streaming
from runtime.streaming.wire import Wire
from tests.harness.streams import (
    Refused,
    SpdyStreams,
    Streams,
    WebSocketStreams,
    connected,
    forward,
    ports,
    upgraded,
)
from tests.harness.waiting import PATIENCE, until
from tests.unit.containers import samples

both = pytest.mark.parametrize("transport", ["spdy", "websocket"])
NAMES = ("error", "stdin", "stdout")


class Pipe:
    """One direction of a fake command."""

    def __init__(self) -> None:
        self.parts: asyncio.Queue[bytes] = asyncio.Queue()
        self.taken = bytearray()
        self.broken = False
        self.closed = False
        self.takes = asyncio.Event()
        self.takes.set()

    async def read(self, take: Callable[[bytes], bytes] | None = None) -> bytes:
        return await self.parts.get()

    def write_now(self, data: bytes) -> bytes:
        if self.broken or not self.takes.is_set():
            return data
        self.taken += data
        return b""

    async def write(self, data: bytes) -> None:
        await self.takes.wait()
        if self.broken:
            raise BrokenPipeError
        self.taken += data

    def close(self) -> None:
        self.closed = True


class FakeCommand:
    def __init__(self, cmd: list[str], stdin: bool, tty: bool):
        self.cmd, self.tty = cmd, tty
        self.stdin = Pipe() if stdin else None
        self.stdout = Pipe()
        self.stderr = None if tty else Pipe()
        self.code: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.calls: list[str] = []
        self.refuse_start = ""
        self.started = False

    async def start(self) -> None:
        if self.refuse_start:
            raise Unknown(self.refuse_start)
        self.started = True

    @property
    def input(self) -> Pipe:
        assert self.stdin is not None
        return self.stdin

    def exit(self, code: int) -> None:
        self.code.set_result(code)
        for pipe in (self.stdout, self.stderr):
            if pipe is not None:
                pipe.parts.put_nowait(b"")

    async def wait(self) -> int:
        return await self.code

    async def end_input(self) -> None:
        self.calls.append("end input")

    async def resize(self, width: int, height: int) -> None:
        self.calls.append(f"resize {width}x{height}")

    async def hang_up(self) -> None:
        self.calls.append("hang up")

    def close(self) -> None:
        self.calls.append("close")

    def leave(self) -> None:
        self.calls.append("leave")


class FakeAttachment:
    closes_input = False

    def __init__(self) -> None:
        self.pipe: Pipe | None = Pipe()
        self.parts: asyncio.Queue[tuple[str, bytes] | None] = asyncio.Queue()
        self.calls: list[str] = []

    async def open_input(self) -> Pipe | None:
        return self.pipe

    @asynccontextmanager
    async def output(
        self, *, stdout: bool, stderr: bool
    ) -> AsyncIterator[AsyncIterator[tuple[str, bytes]]]:
        yield self._output()

    async def _output(self) -> AsyncIterator[tuple[str, bytes]]:
        while part := await self.parts.get():
            yield part

    async def end_input(self) -> None:
        self.calls.append("end input")

    async def resize(self, width: int, height: int) -> None:
        self.calls.append(f"resize {width}x{height}")


class FakeContainers:
    def __init__(self) -> None:
        self.commands: list[FakeCommand] = []
        self.attached = FakeAttachment()
        self.refuse = ""
        self.refuse_start = ""
        self.preparing = asyncio.Event()
        self.preparing.set()

    async def prepare_command(
        self, container: Container, cmd: list[str], *, stdin: bool, tty: bool
    ) -> FakeCommand:
        await self.preparing.wait()
        if self.refuse:
            raise Unknown(self.refuse)
        command = FakeCommand(cmd, stdin, tty)
        command.refuse_start = self.refuse_start
        self.commands.append(command)
        return command

    def attachment(self, container: Container) -> FakeAttachment:
        return self.attached


class Counts:
    def __init__(self) -> None:
        self.sessions = 0
        self.faults = 0

    def stream_began(self, kind: str, transport: str) -> None:
        self.sessions += 1

    def stream_ended(self, kind: str, transport: str, seconds: float) -> None:
        self.sessions -= 1

    def stream_fault(self) -> None:
        self.faults += 1


class World:
    def __init__(self, directory: Path, **streaming: Any):
        self.store = samples.store(directory)
        self.pod = samples.sandbox(self.store, "pod")
        self.container = samples.container(self.store, "c")
        self.containers = FakeContainers()
        self.counts = Counts()
        self.streaming = Streaming(
            config=Config(streaming=StreamingTable(**streaming)),
            store=self.store,
            containers=self.containers,
            metrics=self.counts,
        )

    async def exec(self, *cmd: str, **streams: bool) -> str:
        wanted = streams or {"stdin": True, "stdout": True}
        plan = plan_exec(api_pb2.ExecRequest(cmd=cmd or ("sh",), **cast(Any, wanted)))
        return str((await self.streaming.exec(self.container, plan)).url)

    async def attach(self, **streams: bool) -> str:
        plan = plan_attach(api_pb2.AttachRequest(**cast(Any, streams)))
        return str((await self.streaming.attach(self.container, plan)).url)

    async def forward(self, *port: int) -> str:
        request = api_pb2.PortForwardRequest(port=port)
        refuse_if_any(port_forward_request.check(request))
        plan = plan_port_forward(request)
        return str((await self.streaming.port_forward(self.pod, plan)).url)

    async def command(self) -> FakeCommand:
        """The last command, once it was started."""
        await until(lambda: self.containers.commands and self.containers.commands[-1].started)
        return self.containers.commands[-1]


@asynccontextmanager
async def serving(directory: Path, **streaming: Any) -> AsyncIterator[World]:
    world = World(directory, **streaming)
    await world.streaming.start()
    try:
        yield world
    finally:
        await world.streaming.stop(0)
        assert world.counts.sessions == 0


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with serving(tmp_path) as world:
        yield world


# Exec


@both
async def test_a_client_and_a_command_are_connected(world: World, transport: str) -> None:
    async with connected(await world.exec(), transport, names=NAMES) as streams:
        command = await world.command()
        await streams.send("stdin", b"in")
        await until(lambda: command.input.taken == b"in")
        command.stdout.parts.put_nowait(b"out")
        await streams.until(lambda: streams.received["stdout"] == b"out")
        await streams.end("stdin")
        await until(lambda: command.calls == ["end input"])
        command.exit(3)
        await streams.all_ended(("error", "stdout"))
        assert streams.exit_code == 3
    await until(lambda: "close" in command.calls)


async def test_streams_may_come_in_any_order(world: World) -> None:
    async with connected(await world.exec(), names=("stdout", "stdin")) as streams:
        await until(lambda: world.containers.commands)
        await asyncio.sleep(0.05)
        assert not world.containers.commands[0].started  # it is only prepared
        await streams.open("error")
        command = await world.command()
        command.exit(0)
        await streams.all_ended(NAMES)


@both
async def test_output_that_was_not_requested_is_read_and_dropped(
    world: World, transport: str
) -> None:
    url = await world.exec(stdout=True)
    async with connected(url, transport, names=("error", "stdout")) as streams:
        command = await world.command()
        assert command.stderr is not None
        command.stderr.parts.put_nowait(b"err")
        command.stdout.parts.put_nowait(b"out")
        command.exit(0)
        await streams.all_ended(("error", "stdout"))
        assert streams.received["stdout"] == b"out"
        assert streams.received["stderr"] == b""


@both
async def test_a_client_that_leaves_a_terminal_hangs_up(world: World, transport: str) -> None:
    url = await world.exec(tty=True, stdin=True, stdout=True)
    async with connected(url, transport, names=(*NAMES, "resize")) as streams:
        command = await world.command()
        await streams.send("resize", b'{"Width":80,"Height":24} {"Width":0,"Height":5}{"Wid')
        await until(lambda: command.calls == ["resize 80x24"])
        await streams.send("resize", b'th":5,"Height":6}')
        await until(lambda: command.calls == ["resize 80x24", "resize 5x6"])
        await streams.send("resize", b"nonsense")
        await streams.send("stdin", b"still")
        await until(lambda: command.input.taken == b"still")
        streams.vanish()
    await until(lambda: "hang up" in command.calls and "end input" in command.calls)
    assert "close" not in command.calls
    command.stdout.parts.put_nowait(b"x" * 1000)
    await until(lambda: command.stdout.parts.empty())
    command.exit(129)
    await until(lambda: "close" in command.calls)


@both
async def test_without_a_terminal_it_runs_to_its_end(world: World, transport: str) -> None:
    async with connected(await world.exec(), transport, names=NAMES) as streams:
        command = await world.command()
        streams.vanish()
    await until(lambda: command.calls == ["end input"])
    for _ in range(100):
        command.stdout.parts.put_nowait(b"x" * 100_000)
    await until(lambda: command.stdout.parts.empty())
    assert command.calls == ["end input"]
    command.exit(0)
    await until(lambda: "close" in command.calls)


@both
async def test_a_client_that_leaves_output_that_is_held_open_causes_no_error(
    world: World, transport: str
) -> None:
    faults: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, fault: faults.append(fault))
    async with connected(await world.exec(), transport, names=NAMES) as streams:
        command = await world.command()
        command.code.set_result(0)
        await asyncio.sleep(0.05)
        assert command.calls == []
        streams.vanish()
    await until(lambda: "close" in command.calls)
    gc.collect()  # reports exceptions that nothing has read
    assert faults == []


@both
async def test_input_that_nothing_reads_is_dropped(world: World, transport: str) -> None:
    async with connected(await world.exec(), transport, names=NAMES) as streams:
        command = await world.command()
        command.input.broken = True
        await streams.send("stdin", b"x" * 2_000_000)
        command.exit(0)
        await streams.all_ended(("error", "stdout"))
        assert streams.exit_code == 0


async def fill_input(streams: Streams, command: FakeCommand, size: int) -> None:
    """Send input that the command does not take, and let the server pause its reading."""
    command.input.takes.clear()
    await streams.send("stdin", b"x" * size)
    await asyncio.sleep(0.1)


@both
async def test_input_is_read_on_after_the_command_closed_its_input(
    world: World, transport: str
) -> None:
    url = await world.exec(tty=True, stdin=True, stdout=True)
    async with connected(url, transport, names=(*NAMES, "resize")) as streams:
        command = await world.command()
        await fill_input(streams, command, 1_000_000)
        await streams.send("resize", b'{"Width":5,"Height":6}')
        await asyncio.sleep(0.1)
        assert command.calls == []  # the resize was not read
        command.input.broken = True
        command.input.takes.set()
        await until(lambda: "resize 5x6" in command.calls)
        command.exit(0)


@both
async def test_input_is_read_on_when_the_command_has_exited(
    world: World, transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed_by_client = client_module.Client.closed_by_client
    monkeypatch.setattr(
        client_module.Client, "closed_by_client", lambda self, _: closed_by_client(self, 60)
    )
    async with connected(await world.exec(), transport, names=NAMES) as streams:
        command = await world.command()
        await fill_input(streams, command, 1_000_000)
        command.stdout.parts.put_nowait(b"y" * 200_000)
        command.exit(3)
        await streams.until(lambda: streams.received["error"].endswith(b"}"))
        assert (streams.exit_code, len(streams.received["stdout"])) == (3, 200_000)
    await until(lambda: world.counts.sessions == 0)  # it has read that the client left


@both
@pytest.mark.parametrize("name", ["stdout", "error"])
async def test_what_is_sent_on_an_output_is_dropped(
    world: World, transport: str, name: str
) -> None:
    async with connected(await world.exec(), transport, names=NAMES) as streams:
        command = await world.command()
        await streams.send(name, b"x" * 1_000_000)
        await streams.send("stdin", b"in")
        await until(lambda: command.input.taken == b"in")
        command.exit(0)


async def test_what_is_sent_after_the_end_of_input_is_dropped(world: World) -> None:
    url = await world.exec(tty=True, stdin=True, stdout=True)
    async with connected(url, "websocket") as streams:
        command = await world.command()
        await streams.end("stdin")
        await until(lambda: command.calls == ["end input"])
        await streams.send("stdin", b"x" * 1_000_000)
        await streams.send("resize", b'{"Width":5,"Height":6}')
        await until(lambda: "resize 5x6" in command.calls)
        command.exit(0)


@both
async def test_a_client_that_closes_without_reading_is_cut_off(
    world: World, transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "HUNG_UP_LIMIT", 0.2)
    url = await world.exec(tty=True, stdin=True, stdout=True)
    async with connected(url, transport, names=(*NAMES, "resize")) as streams:
        command = await world.command()
        streams.stop_reading()
        for _ in range(1000):
            command.stdout.parts.put_nowait(b"x" * 65536)
        await asyncio.sleep(0.3)
        assert not command.stdout.parts.empty()  # every buffer is full
        descriptors = len(os.listdir("/proc/self/fd"))
        if isinstance(streams, WebSocketStreams):
            streams.socket.close()
            streams.flush()
        else:
            streams.writer.write_eof()
        await until(lambda: "hang up" in command.calls)
        await until(lambda: len(os.listdir("/proc/self/fd")) < descriptors)
        command.exit(0)
    await until(lambda: "close" in command.calls)


@both
@pytest.mark.parametrize("step", ["refuse", "refuse_start"])
async def test_a_command_that_cannot_start(world: World, transport: str, step: str) -> None:
    setattr(world.containers, step, "no such file")
    async with connected(await world.exec(), transport, names=NAMES) as streams:
        await streams.all_ended(("error",))
        assert streams.status["message"] == "Internal error occurred: no such file"
        assert streams.status["code"] == 500


@both
async def test_a_client_that_disconnects_while_paused_is_detected(
    world: World, transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "HUNG_UP_LIMIT", 0.2)
    url = await world.exec(tty=True, stdin=True, stdout=True)
    async with connected(url, transport, names=(*NAMES, "resize")) as streams:
        command = await world.command()
        # more than we buffer, less than the kernel does
        await fill_input(streams, command, 300_000)
        assert command.calls == []
        streams.vanish()
    await until(lambda: "hang up" in command.calls)
    command.input.takes.set()
    command.exit(0)
    await until(lambda: "close" in command.calls)


@both
async def test_a_client_that_reads_nothing_blocks_only_its_command(
    world: World, transport: str
) -> None:
    async with connected(await world.exec(), transport, names=NAMES) as slow:
        command = await world.command()
        slow.stop_reading()
        for _ in range(1000):
            command.stdout.parts.put_nowait(b"x" * 65536)
        await asyncio.sleep(0.5)
        assert command.stdout.parts.qsize() > 800
        async with connected(await world.exec(), transport, names=NAMES) as other:
            second = world.containers.commands
            await until(lambda: len(second) == 2)
            second[1].stdout.parts.put_nowait(b"quick")
            await other.until(lambda: other.received["stdout"] == b"quick")
            second[1].exit(0)
            await other.all_ended(("error",))
        slow.vanish()
        command.exit(0)
        await until(lambda: "close" in command.calls)


@both
async def test_unread_input_is_bounded(world: World, transport: str) -> None:
    async with connected(await world.exec(), transport, names=NAMES) as streams:
        command = await world.command()
        command.input.takes.clear()
        sent = 0
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                while True:
                    await streams.send("stdin", b"x" * 65536)
                    sent += 65536
        assert sent < 16 << 20  # the kernel's buffers and ours
        command.input.takes.set()
        await until(lambda: len(command.input.taken) >= sent - 65536)
        command.exit(0)
        await streams.all_ended(("error", "stdout"))
    await until(lambda: "close" in command.calls)


async def test_missing_streams_end_the_session(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spdy_link, "CREATION_LIMIT", 0.1)
    async with connected(await world.exec(), names=("error",)) as streams:
        await streams.gone()
    assert world.counts.faults == 1
    (command,) = world.containers.commands
    assert (command.started, command.calls) == (False, ["close"])


async def test_a_command_is_not_prepared_to_the_end_for_a_client_without_streams(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spdy_link, "CREATION_LIMIT", 0.1)
    world.containers.preparing.clear()
    async with connected(await world.exec(), names=("error",)) as streams:
        await streams.gone()
    world.containers.preparing.set()
    await asyncio.sleep(0.01)
    assert not world.containers.commands


async def test_10_000_streams_affect_only_their_client(world: World) -> None:
    async with connected(await world.exec(), names=NAMES) as streams:
        assert isinstance(streams, SpdyStreams)
        command = await world.command()
        for number in range(10_000):
            await streams.open(f"extra{number}", streamType="stdout")
        await streams.until(lambda: len(streams.resets) == 10_000)
        command.exit(0)
        await streams.all_ended(NAMES)
        assert streams.exit_code == 0
    assert 1 <= world.counts.faults <= 10_000


@pytest.mark.parametrize("noise", [b"\x80\x02\0\1\0\0\0\0", b"\x80\3\0\4\0\xff\xff\xff"])
async def test_invalid_spdy_ends_only_its_connection(world: World, noise: bytes) -> None:
    async with connected(await world.exec(), names=NAMES) as streams:
        command = await world.command()
        streams.writer.write(noise * 3)
        await streams.gone()
    await until(lambda: command.calls == ["end input"])
    command.exit(0)
    await until(lambda: "close" in command.calls)
    assert world.counts.faults == 1


async def test_an_invalid_websocket_message_is_explained(world: World) -> None:
    reader, writer = await upgraded(await world.exec(), "websocket", "v5.channel.k8s.io")
    command = await world.command()
    writer.write(b"\x82\x01\0")  # without a mask
    answer = await asyncio.wait_for(reader.read(), PATIENCE)
    assert b"\x88" in answer and b"\x03\xea" in answer  # close, 1002
    writer.close()
    command.exit(0)
    await until(lambda: world.counts.faults == 1)


async def test_a_client_that_ignores_replies_is_not_read(world: World) -> None:
    async with connected(await world.exec(), names=NAMES) as streams:
        assert isinstance(streams, SpdyStreams)
        command = await world.command()
        streams.stop_reading()
        ping = b"\x80\3\0\6\0\0\0\4\0\0\0\1" * 10_000
        sent = 0
        with pytest.raises(TimeoutError):
            while True:
                streams.writer.write(ping)
                async with asyncio.timeout(0.5):
                    await streams.writer.drain()
                sent += len(ping)
        assert sent < 64 << 20  # the kernel's buffers and ours
        streams.vanish()
        command.exit(0)
        await until(lambda: "close" in command.calls)


# Attach


@both
async def test_the_end_of_input_ends_the_session(world: World, transport: str) -> None:
    url = await world.attach(stdin=True, stdout=True)
    attached = world.containers.attached
    async with connected(url, transport, names=NAMES) as streams:
        await streams.send("stdin", b"in")
        pipe = attached.pipe
        assert pipe is not None
        await until(lambda: pipe.taken == b"in")
        attached.parts.put_nowait(("stdout", b"out"))
        await streams.until(lambda: streams.received["stdout"] == b"out")
        await streams.end("stdin")
        await streams.all_ended(("error", "stdout"))
        assert streams.exit_code == 0
    assert pipe.closed and not attached.calls


@both
async def test_input_for_a_container_without_one_is_dropped(world: World, transport: str) -> None:
    url = await world.attach(stdin=True, stdout=True)
    attached = world.containers.attached
    attached.pipe = None
    async with connected(url, transport, names=NAMES) as streams:
        await streams.send("stdin", b"x" * 1_000_000)
        attached.parts.put_nowait(("stdout", b"out"))
        await streams.until(lambda: streams.received["stdout"] == b"out")


@both
async def test_stdin_once_ends_the_container_s_input(world: World, transport: str) -> None:
    url = await world.attach(stdin=True, stdout=True)
    attached = world.containers.attached
    attached.closes_input = True
    async with connected(url, transport, names=NAMES) as streams:
        await streams.end("stdin")
        await until(lambda: attached.calls == ["end input"])
        attached.parts.put_nowait(("stdout", b"the last"))
        attached.parts.put_nowait(None)
        await streams.all_ended(("error", "stdout"))
        assert streams.received["stdout"] == b"the last"


# PortForward


@pytest.fixture
async def echo() -> AsyncIterator[int]:
    """The port of an echo server on the node's localhost."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield int(server.sockets[0].getsockname()[1])


@both
async def test_connections_of_one_session(world: World, echo: int, transport: str) -> None:
    async with ports(await world.forward(), transport) as streams:
        for request in range(20):
            data, _ = await forward(streams, echo, request)
            await streams.send(data, b"%d" % request * 1000)
            await streams.end(data)
        for request in range(20):
            await streams.all_ended((f"data{request}", f"error{request}"))
            assert streams.received[f"data{request}"] == b"%d" % request * 1000


async def test_a_refused_port_is_an_error_on_its_own_stream(world: World, echo: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    async with ports(await world.forward()) as streams:
        data, error = await forward(streams, port, 1)
        await streams.until(lambda: error in streams.ended and data in streams.resets)
        assert streams.received[error].decode() == (
            f"failed to connect to port {port} of the pod: 127.0.0.1: Connection refused; "
            "::1: Connection refused"
        )
        other, _ = await forward(streams, echo, 2)
        await streams.send(other, b"goes on")
        await streams.until(lambda: streams.received[other] == b"goes on")


async def test_a_pair_without_request_ids(world: World, echo: int) -> None:
    async with ports(await world.forward()) as streams:
        await streams.open("error", streamType="error", port=str(echo))
        await streams.open("data", streamType="data", port=str(echo))
        await streams.send("data", b"old client")
        await streams.until(lambda: streams.received["data"] == b"old client")


async def test_half_a_pair_is_reset(
    world: World, echo: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spdy_link, "CREATION_LIMIT", 0.1)
    async with ports(await world.forward()) as streams:
        await streams.open("half", streamType="data", port=str(echo), requestID="1")
        await streams.until(lambda: streams.resets == {"half"})
        data, _ = await forward(streams, echo, 2)
        await streams.send(data, b"whole")
        await streams.until(lambda: streams.received[data] == b"whole")


@pytest.mark.parametrize("port", ["0", "65536", "-1", "http", "", "9" * 5000])
async def test_an_invalid_port(world: World, port: str) -> None:
    async with ports(await world.forward()) as streams:
        await streams.open("bad", streamType="data", port=port, requestID="1")
        await streams.until(lambda: streams.resets == {"bad"})


async def test_a_silent_half_closed_connection_is_cut(world: World) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        async with ports(await world.forward()) as streams:
            data, error = await forward(streams, listener.getsockname()[1], 1)
            peer, _ = await asyncio.get_running_loop().sock_accept(listener)
            with peer:
                await streams.end(data)
                await streams.all_ended((data, error), 3)


async def test_what_a_server_answers_to_an_upload_that_it_does_not_read_is_received(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    near, far = socket.socketpair()
    near.setblocking(False)
    far.shutdown(socket.SHUT_RD)  # what is sent to it fails, as with a connection that was reset

    async def dial(port: int, netns_path: str) -> socket.socket:
        return near

    monkeypatch.setattr(port_forward, "_dial", dial)
    async with ports(await world.forward()) as streams:
        data, _ = await forward(streams, 80, 1)
        await streams.send(data, b"upload")
        await asyncio.sleep(0.1)
        with far:
            far.sendall(b"too large")
        await streams.until(lambda: data in streams.resets | streams.ended)
        assert streams.received[data] == b"too large"


async def test_an_upload_that_a_port_does_not_read_does_not_stop_the_session(
    world: World, echo: int
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        async with ports(await world.forward()) as streams:
            data, _ = await forward(streams, listener.getsockname()[1], 1)
            peer, _ = await asyncio.get_running_loop().sock_accept(listener)
            with peer:
                peer.shutdown(socket.SHUT_WR)
                uploading = asyncio.create_task(streams.send(data, b"x" * 16_000_000))
                await streams.until(lambda: data in streams.ended)  # after a second of silence
                await asyncio.wait_for(uploading, PATIENCE)
            other, _ = await forward(streams, echo, 2)
            await streams.send(other, b"goes on")
            await streams.until(lambda: streams.received[other] == b"goes on")


async def test_nothing_is_kept_of_connections_that_have_ended(
    world: World, echo: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    links: list[spdy_link.SpdyLink] = []

    class Seen(spdy_link.SpdyLink):
        def __init__(self, wire: Wire) -> None:
            super().__init__(wire)
            links.append(self)

    monkeypatch.setattr(sessions, "SpdyLink", Seen)
    async with ports(await world.forward()) as streams:
        for request in range(20):
            data, error = await forward(streams, echo, request)
            await streams.end(error)
            await streams.send(data, b"x")
            await streams.end(data)
            await streams.all_ended((data, error))
        (link,) = links
        assert link.channels == {}


# The listener


async def test_a_taken_port_stops_the_start_with_the_remedy(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port}: another process.*choose another port"):
            await World(tmp_path, stream_server_port=port).streaming.start()


async def test_an_address_of_another_node(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="choose an address of this node"):
        await World(tmp_path, stream_server_address="192.0.2.77").streaming.start()


async def test_an_empty_address_is_the_default_route_s(tmp_path: Path) -> None:
    async with serving(tmp_path, stream_server_address="") as world:
        assert f"//{default_address()}:" in await world.exec()


async def test_ipv6_urls(tmp_path: Path) -> None:
    async with serving(tmp_path, stream_server_address="::1") as world:
        url = await world.exec()
        assert url.startswith("http://[::1]:")
        async with connected(url, names=NAMES):
            (await world.command()).exit(0)


@both
async def test_tls_with_a_key_pair_made_at_the_start(tmp_path: Path, transport: str) -> None:
    async with serving(tmp_path, enable_tls_streaming=True) as world:
        url = await world.exec()
        assert url.startswith("https://127.0.0.1:")
        async with connected(url, transport, names=NAMES) as streams:
            command = await world.command()
            await streams.send("stdin", b"x" * 500_000)
            await until(lambda: len(command.input.taken) == 500_000)
            command.stdout.parts.put_nowait(b"y" * 500_000)
            command.exit(0)
            await streams.all_ended(("error", "stdout"))
            assert len(streams.received["stdout"]) == 500_000
        port = int(url.split(":")[2].split("/")[0])
        certificate = await asyncio.to_thread(ssl.get_server_certificate, ("127.0.0.1", port))
        assert "BEGIN CERTIFICATE" in certificate


async def test_a_client_that_does_not_finish_its_handshake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener_module, "_HANDSHAKE_LIMIT", 0.1)
    async with serving(tmp_path, enable_tls_streaming=True) as world:
        port = int((await world.exec()).split(":")[2].split("/")[0])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await asyncio.wait_for(reader.read(), PATIENCE) == b""
        writer.close()


async def test_a_key_pair_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "cert").write_text("nonsense")
    pair = KeyPair(tls_cert_file=str(tmp_path / "cert"), tls_key_file=str(tmp_path / "key"))
    world = World(tmp_path, enable_tls_streaming=True, x509_key_pair_streaming=pair)
    with pytest.raises(ConfigError, match="x509_key_pair_streaming: cannot use"):
        await world.streaming.start()


async def test_an_idle_client_is_disconnected(tmp_path: Path) -> None:
    limit = 0.3
    async with serving(tmp_path, stream_idle_timeout=Duration(limit)) as world:
        while True:
            async with connected(await world.exec(), names=NAMES) as streams:
                command = await world.command()
                longest, last = 0.0, time.monotonic()
                for _ in range(4):
                    await asyncio.sleep(0.1)
                    await streams.send("stdin", b"x")
                    longest, last = max(longest, time.monotonic() - last), time.monotonic()
                closed = streams.closed
                await streams.gone()
            command.exit(0)
            if longest < limit / 2:  # else this machine was too slow to keep the client active
                break
        assert not closed


async def test_a_client_that_sends_no_request(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "REQUEST_LIMIT", 0.1)
    url = await world.exec()
    port = int(url.split(":")[2].split("/")[0])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /exec/")
    assert (await asyncio.wait_for(reader.read(), PATIENCE)).startswith(b"HTTP/1.1 408 ")
    writer.close()


@both
@pytest.mark.parametrize("tty", [False, True])
async def test_a_shutdown_is_reported_and_leaves_the_command_running(
    tmp_path: Path, transport: str, tty: bool
) -> None:
    for grace in (0.2, 3.0, 30.0):  # seconds; a busy machine may need more than the first
        if await goes_on_until_the_shutdown(tmp_path / str(grace), transport, tty, grace):
            return
    pytest.fail("the session ended before its time")


async def goes_on_until_the_shutdown(
    directory: Path, transport: str, tty: bool, grace: float
) -> bool:
    """Whether output was passed on between the begin and the end of the shutdown."""
    async with serving(directory) as world:
        url = await world.exec(tty=tty, stdin=True, stdout=True)
        names = (*NAMES, "resize") if tty else NAMES
        async with connected(url, transport, names=names) as streams:
            command = await world.command()
            stopping = asyncio.create_task(world.streaming.stop(grace))
            await asyncio.sleep(grace / 4)
            command.stdout.parts.put_nowait(b"meanwhile")
            await streams.all_ended(("error",))
            went_on = streams.received["stdout"] == b"meanwhile"
            assert "the server is shutting down" in streams.status["message"]
            await streams.close()
            await stopping
            assert command.calls == (["hang up", "leave"] if tty else ["leave"])
            with pytest.raises((Refused, OSError)):
                await upgraded(url, transport, "v4.channel.k8s.io")
            return went_on


async def test_a_session_that_ends_in_time_is_not_cut(tmp_path: Path) -> None:
    async with serving(tmp_path) as world, connected(await world.exec(), names=NAMES) as streams:
        command = await world.command()
        stopping = asyncio.create_task(world.streaming.stop(PATIENCE))
        await asyncio.sleep(0.05)
        command.exit(0)
        await streams.all_ended(NAMES)
        assert streams.exit_code == 0
        await streams.close()
        await stopping


# URLs


async def test_each_url_can_be_used_once(world: World) -> None:
    url = await world.exec()
    async with connected(url, names=NAMES):
        (await world.command()).exit(0)
    with pytest.raises(Refused) as refused:
        await upgraded(url, "spdy", "v4.channel.k8s.io")
    assert refused.value.status == 404


async def test_a_container_removed_before_its_client_connects(world: World) -> None:
    url = await world.exec()
    await world.container.fire(ContainerEvent.EXITED, pid=0, exit_code=0, finished_at=1)
    async with connected(url, names=NAMES) as streams:
        await streams.all_ended(("error",))
        assert "container c is EXITED" in streams.status["message"]


async def test_tokens_are_long_and_all_different(world: World) -> None:
    found = {(await world.exec()).rpartition("/")[2] for _ in range(500)}
    assert len(found) == 500
    assert all(len(token) >= 22 for token in found)  # 128 bits in base64


def test_tokens_are_bounded_and_expire() -> None:
    now = 0.0
    all_: tokens.Tokens[int] = tokens.Tokens(lambda: now)
    issued = [all_.issue(number) for number in range(tokens.LIMIT)]
    with pytest.raises(ResourceExhausted, match="try again"):
        all_.issue(-1)
    all_.take(issued[3])
    assert all_.look(issued[3]) is None
    extra = all_.issue(-2)
    now = tokens.LIFETIME - 0.1
    assert all_.look(issued[0]) == 0 and all_.look(extra) == -2
    now = tokens.LIFETIME
    assert all_.look(issued[0]) is None
    all_.issue(5)


async def test_the_rules_of_the_requests(world: World) -> None:
    with pytest.raises(InvalidArgument, match="one of stdin, stdout and stderr"):
        await world.exec(tty=True)
    with pytest.raises(InvalidArgument, match=r"port\[1\]: must be 1 to 65535, not 70000"):
        await world.forward(80, 70000)


async def test_the_older_websocket_form_needs_its_ports(world: World) -> None:
    url = await world.forward()
    with pytest.raises(Refused) as refused:
        await upgraded(url, "websocket", "v4.channel.k8s.io")
    assert refused.value.status == 400
    many = await world.forward(*range(1, 7))
    with pytest.raises(Refused):
        await upgraded(many, "websocket", "v4.base64.channel.k8s.io")
