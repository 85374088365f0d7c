"""Commands that an earlier server left, on a shim in memory with real FIFOs."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from generated.containerd import task_types_pb2, tasks_pb2
from runtime.containers import exec, orphaned_commands
from runtime.linux import signals
from tests.harness.waiting import PATIENCE
from tests.unit.containers import samples
from tests.unit.containers.failing_opens import descriptors
from tests.unit.sandboxes.fakes import rpc_error

OUTPUT = 3 << 20  # bytes: far more than a FIFO holds


class Shim:
    """Holds both ends of a command's FIFOs, as the real one does, until the command ends."""

    def __init__(self, fifos: list[Path]) -> None:
        self.calls: list[str] = []
        self.status: task_types_pb2.Status | None = task_types_pb2.RUNNING
        self.input_gone = False
        self.away = 0
        self.ends = [os.open(path, os.O_RDWR | os.O_NONBLOCK) for path in fifos]
        self.exit = asyncio.Event()

    def close(self) -> None:
        while self.ends:
            os.close(self.ends.pop())

    async def Get(self, request: tasks_pb2.GetRequest) -> tasks_pb2.GetResponse:
        if self.away:
            self.away -= 1
            raise rpc_error(grpc.StatusCode.UNAVAILABLE, "restarting")
        if self.status is None:
            raise rpc_error(grpc.StatusCode.NOT_FOUND, "no such process")
        process = task_types_pb2.Process(status=self.status, pid=4321)
        return tasks_pb2.GetResponse(process=process)

    async def Wait(self, request: tasks_pb2.WaitRequest) -> tasks_pb2.WaitResponse:
        await self.exit.wait()
        return tasks_pb2.WaitResponse()

    async def Kill(self, request: tasks_pb2.KillRequest) -> None:
        self.calls.append(signal.Signals(request.signal).name)
        if request.signal == signal.SIGKILL:
            self.exit.set()

    async def CloseIO(self, request: tasks_pb2.CloseIORequest) -> None:
        self.calls.append("close input")
        if self.input_gone:
            raise rpc_error(grpc.StatusCode.NOT_FOUND, "no such process")

    async def DeleteProcess(self, request: tasks_pb2.DeleteProcessRequest) -> None:
        self.calls.append("delete")


class World:
    def __init__(self, directory: Path, *streams: str, exec_id: str = "1f") -> None:
        store = samples.store(directory)
        samples.sandbox(store, "pod")
        self.container = samples.container(store, "c")
        self.directory = store.layout.container_state("c") / "exec"
        self.directory.mkdir(parents=True)
        for stream in streams:
            os.mkfifo(self.directory / f"{exec_id}-{stream}")
        self.shim = Shim(list(self.directory.iterdir()))
        self.containerd: Any = SimpleNamespace(tasks=self.shim)
        services: Any = SimpleNamespace(store=store, runs_on_node=lambda _: True)
        self.found = orphaned_commands.found(services, self.container)

    def drain_to_end(self) -> asyncio.Task[None]:
        (left,) = self.found
        return asyncio.create_task(
            orphaned_commands.drain_to_end(self.containerd, self.container, left)
        )

    async def write(self, stream: str) -> None:
        fd = os.open(self.directory / f"1f-{stream}", os.O_WRONLY | os.O_NONBLOCK)
        left = OUTPUT
        while left:
            try:
                left -= os.write(fd, bytes(min(left, 1 << 16)))
            except BlockingIOError:
                await asyncio.sleep(0.001)
        os.close(fd)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orphaned_commands, "_PAUSE", 0.01)


def test_a_container_without_commands_has_none_left(tmp_path: Path) -> None:
    store = samples.store(tmp_path)
    samples.sandbox(store, "pod")
    services: Any = SimpleNamespace(store=store, runs_on_node=lambda _: True)
    assert orphaned_commands.found(services, samples.container(store, "c")) == []


async def test_its_output_is_dropped_and_its_input_ended(tmp_path: Path) -> None:
    world = World(tmp_path, "stdin", "stdout", "stderr")
    world.shim.away = 2
    work = world.drain_to_end()
    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(world.write("stdout"), world.write("stderr"))
        assert not work.done()
        world.shim.exit.set()
        await work
    assert world.shim.calls == ["close input", "delete"]
    assert not list(world.directory.iterdir())
    world.shim.close()


async def test_a_command_that_exits_meanwhile_is_deleted_too(tmp_path: Path) -> None:
    world = World(tmp_path, "stdin", "stdout", "stderr")
    world.shim.input_gone = True
    world.shim.exit.set()
    await asyncio.wait_for(world.drain_to_end(), PATIENCE)
    assert world.shim.calls == ["close input", "delete"]
    world.shim.close()


async def test_a_terminal_is_hung_up(tmp_path: Path) -> None:
    world = World(tmp_path, "stdin", "stdout")
    world.shim.exit.set()
    await asyncio.wait_for(world.drain_to_end(), PATIENCE)
    assert world.shim.calls == ["SIGHUP", "SIGCONT", "delete"]
    world.shim.close()


@pytest.mark.parametrize(
    ("status", "calls"),
    [
        pytest.param(task_types_pb2.CREATED, ["delete"], id="never started"),
        pytest.param(task_types_pb2.STOPPED, ["delete"], id="ended meanwhile"),
        pytest.param(None, [], id="forgotten by the shim"),
    ],
)
async def test_a_command_that_does_not_run_is_deleted(
    tmp_path: Path, status: Any, calls: list[str]
) -> None:
    world = World(tmp_path, "stdout", "stderr")
    world.shim.status = status
    world.shim.close()
    await asyncio.wait_for(world.drain_to_end(), PATIENCE)
    assert world.shim.calls == calls
    assert not list(world.directory.iterdir())


async def test_a_server_that_stops_leaves_it_to_the_next(tmp_path: Path) -> None:
    world = World(tmp_path, "stdout", "stderr")
    before = descriptors()
    work = world.drain_to_end()
    await asyncio.sleep(0.05)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert descriptors() <= before
    assert len(list(world.directory.iterdir())) == 2
    world.shim.close()


@pytest.mark.parametrize("seconds", [-5, 1])
async def test_a_command_with_a_timeout_is_killed_when_its_time_is_over(
    tmp_path: Path, seconds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    trees: list[tuple[int, str]] = []

    def not_of_this_node(pid: int, container_id: str) -> bool:
        trees.append((pid, container_id))
        return False

    monkeypatch.setattr(signals, "kill_tree", not_of_this_node)
    exec_id = exec._new_id(seconds)
    world = World(tmp_path, "stdout", "stderr", exec_id=exec_id)
    began = time.monotonic()
    await asyncio.wait_for(world.drain_to_end(), PATIENCE)
    assert trees == [(4321, "c")]
    assert world.shim.calls == ["SIGKILL", "delete"]
    assert time.monotonic() - began >= seconds - 1
    assert not list(world.directory.iterdir())
    world.shim.close()
