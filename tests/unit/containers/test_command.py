"""A command that a client talks to, on a shim in memory that handles FIFOs like the real one."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage

from generated.containerd import tasks_pb2
from generated.lifecycle import ContainerEvent
from runtime.containers import command as module
from runtime.containers.command import KILLED, Command, Streams
from runtime.errors import CriError, NotFound
from tests.harness.waiting import until
from tests.unit.containers import samples
from tests.unit.containers.failing_opens import descriptors, every_failure, failing_opens
from tests.unit.sandboxes.fakes import rpc_error


class Shim:
    """Opens outputs when it starts a process, and its input a moment later."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.asked = tasks_pb2.ExecProcessRequest()
        self.fail = ""
        self.input = -1
        self.output = -1
        self.input_closed = asyncio.Event()
        self.exit: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.opening: asyncio.Task[None] | None = None

    def note(self, call: str) -> None:
        self.calls.append(call)
        if call == self.fail:
            raise rpc_error(grpc.StatusCode.NOT_FOUND, "no such thing")

    async def Exec(self, request: tasks_pb2.ExecProcessRequest) -> None:
        self.asked = request
        self.note("exec")

    async def Start(self, request: tasks_pb2.StartRequest) -> tasks_pb2.StartResponse:
        self.note("start")
        self.output = os.open(self.asked.stdout, os.O_WRONLY | os.O_NONBLOCK)
        if self.asked.stdin:
            self.opening = asyncio.create_task(self._open_input())
        return tasks_pb2.StartResponse()

    async def _open_input(self) -> None:
        await asyncio.sleep(0.05)
        self.input = os.open(self.asked.stdin, os.O_RDONLY | os.O_NONBLOCK)

    async def Wait(self, request: tasks_pb2.WaitRequest) -> tasks_pb2.WaitResponse:
        return tasks_pb2.WaitResponse(exit_status=await asyncio.shield(self.exit))

    async def Kill(self, request: tasks_pb2.KillRequest) -> None:
        self.note(f"kill {signal.Signals(request.signal).name}")
        if request.signal == signal.SIGKILL and not self.exit.done():
            self.exit.set_result(137)

    async def CloseIO(self, request: tasks_pb2.CloseIORequest) -> None:
        self.note("close input")

    async def ResizePty(self, request: tasks_pb2.ResizePtyRequest) -> None:
        self.note(f"resize {request.width}x{request.height}")

    async def DeleteProcess(self, request: tasks_pb2.DeleteProcessRequest) -> None:
        self.note("delete")
        for fd in (self.input, self.output):
            if fd >= 0:
                os.close(fd)


class Specs:
    async def process(self, container_id: str, command: list[str], *, terminal: bool) -> AnyMessage:
        return AnyMessage(value=f"{command} {terminal}".encode())


class World:
    def __init__(self, directory: Path):
        self.store = samples.store(directory)
        samples.sandbox(self.store, "pod")
        self.container = samples.container(self.store, "c")
        self.shim = Shim()
        self.services: Any = SimpleNamespace(
            store=self.store,
            specs=Specs(),
            containerd=SimpleNamespace(tasks=self.shim),
            starting=lambda _: asyncio.Semaphore(),
        )
        self.directory = self.store.layout.container_state("c") / "exec"

    async def start(self, *, stdin: bool = True, tty: bool = False) -> Command:
        command = await self.prepared(stdin=stdin, tty=tty)
        await command.start()
        return command

    async def prepared(self, *, stdin: bool = True, tty: bool = False) -> Command:
        return await module.prepared(self.services, self.container, ["cat"], Streams(stdin, tty))

    def fifos(self) -> list[str]:
        return sorted(path.name.partition("-")[2] for path in self.directory.iterdir())


@pytest.fixture
async def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def test_a_command_has_both_outputs_and_an_input_if_requested(world: World) -> None:
    command = await world.start(stdin=False)
    assert world.fifos() == ["stderr", "stdout"]
    assert (world.shim.asked.stdin, command.stdin) == ("", None)
    command.close()
    await until(lambda: world.fifos() == [])


async def test_a_terminal_has_one_output(world: World) -> None:
    command = await world.start(tty=True)
    assert world.fifos() == ["stdin", "stdout"]
    assert world.shim.asked.terminal
    assert command.stderr is None
    command.close()
    await until(lambda: world.fifos() == [])


async def test_a_short_input_is_not_lost_before_the_shim_reads(world: World) -> None:
    command = await world.start()
    assert command.stdin is not None
    await command.stdin.write(b"short")
    await command.end_input()
    assert world.shim.calls[-1] == "close input"
    assert os.read(world.shim.input, 100) == b"short"
    assert os.read(world.shim.input, 100) == b""
    command.close()
    await until(lambda: "delete" in world.shim.calls)


async def test_a_command_that_ends_before_its_input_is_opened(world: World) -> None:
    world.shim.exit.set_result(0)
    command = await world.start()
    assert await command.wait() == 0
    await command.end_input()
    command.close()
    await until(lambda: world.fifos() == [])


async def test_output_ends_when_the_shim_closes_its_end(world: World) -> None:
    command = await world.start()
    assert command.stdout is not None
    os.write(world.shim.output, b"out")
    assert await command.stdout.read() == b"out"
    os.close(world.shim.output)
    world.shim.output = -1
    assert await command.stdout.read() == b""
    world.shim.exit.set_result(4)
    assert await command.wait() == 4
    command.close()
    await until(lambda: "delete" in world.shim.calls)
    assert not any("kill" in call for call in world.shim.calls)


@pytest.mark.parametrize("step", ["exec", "start"])
async def test_a_command_that_cannot_run_leaves_nothing(world: World, step: str) -> None:
    before = descriptors()
    world.shim.fail = step
    with pytest.raises(NotFound, match="run the command in container c: no such thing"):
        await world.start()
    await until(lambda: world.fifos() == [] and "delete" in world.shim.calls)
    assert descriptors() <= before


async def test_a_prepared_command_that_never_starts_leaves_nothing(world: World) -> None:
    before = descriptors()
    command = await world.prepared()
    assert world.shim.calls == ["exec"]
    command.close()
    await until(lambda: world.fifos() == [] and "delete" in world.shim.calls)
    assert world.shim.calls == ["exec", "delete"]
    assert descriptors() <= before


@every_failure
async def test_a_command_whose_pipes_cannot_be_created_leaves_nothing(
    world: World, succeed: int, number: int, kind: type[CriError]
) -> None:
    before = descriptors()
    says = f"pipes of a command in .*: {os.strerror(number)}"
    with failing_opens(succeed, number), pytest.raises(kind, match=says):
        await world.start()
    await until(lambda: world.fifos() == [])
    assert descriptors() <= before


async def test_a_command_is_killed_with_its_container(world: World) -> None:
    """A process in the PID namespace of the host or the pod would keep running."""
    command = await world.start()
    waiting = asyncio.create_task(command.wait())
    await asyncio.sleep(0)
    await world.container.fire(ContainerEvent.EXITED, pid=0, exit_code=0, finished_at=1)
    assert await waiting == KILLED
    assert "kill SIGKILL" in world.shim.calls
    command.close()
    await until(lambda: "delete" in world.shim.calls)


async def test_hanging_up_is_sighup_and_sigcont(world: World) -> None:
    command = await world.start(tty=True)
    await command.hang_up()
    assert world.shim.calls[-2:] == ["kill SIGHUP", "kill SIGCONT"]
    await command.resize(80, 24)
    assert world.shim.calls[-1] == "resize 80x24"
    command.close()
    await until(lambda: "delete" in world.shim.calls)


async def test_leaving_a_command_does_not_end_it(world: World) -> None:
    before = descriptors()
    command = await world.start()
    command.leave()
    assert not any("kill" in call for call in world.shim.calls)
    assert not world.shim.exit.done()
    assert world.fifos() == ["stderr", "stdin", "stdout"]
    for fd in (world.shim.input, world.shim.output):
        os.close(fd)
    assert descriptors() <= before
