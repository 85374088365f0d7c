"""Shims and OCI runtimes are found by their command lines, and only those are ended."""

from __future__ import annotations

import asyncio
import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runtime.tasks import shims
from tests.harness.waiting import PATIENCE
from tests.unit.sandboxes.fakes import FakeContainerd

POD = os.urandom(32).hex()
OTHER = os.urandom(32).hex()

Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a process of that name and arguments, which does nothing."""
    running = []

    def started(name: str, *arguments: str) -> subprocess.Popen[bytes]:
        command = [str(tmp_path / name), "-c", "import time; time.sleep(60)", *arguments]
        process = subprocess.Popen(command, executable=sys.executable)
        running.append(process)
        while not any(found.pid == process.pid for found in shims.running()):
            assert process.poll() is None
            time.sleep(0.005)  # still this process until its exec
        return process

    yield started
    for process in running:
        process.kill()
        process.wait()


@pytest.fixture
def sockets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of shim sockets."""
    directory = tmp_path / "s"
    directory.mkdir()
    monkeypatch.setattr(shims, "_SOCKETS", directory)
    return directory


def shim_of(start: Start, pod: str, **options: str) -> subprocess.Popen[bytes]:
    given = {"namespace": "k8s.io", "address": "/nowhere/containerd.sock"} | options
    return start(
        "containerd-shim-runc-v2",
        *("-namespace", given["namespace"], "-id", pod, "-address", given["address"]),
    )


async def test_only_the_shim_of_this_pod_daemon_and_namespace_is_ended(
    start: Start, sockets: Path
) -> None:
    socket = sockets / hashlib.sha256(f"/nowhere/containerd.sock/k8s.io/{POD}".encode()).hexdigest()
    socket.touch()
    mine = shim_of(start, POD)
    others = [
        shim_of(start, OTHER),
        shim_of(start, POD, namespace="moby"),
        shim_of(start, POD, address="/elsewhere/containerd.sock"),
        start("something-else", "-namespace", "k8s.io", "-id", POD),
    ]
    await shims.end(FakeContainerd(), POD)  # type: ignore[arg-type]
    assert mine.wait(5) == -9
    assert not socket.exists()
    assert [process.poll() for process in others] == [None] * 4


async def test_the_socket_of_a_shim_that_was_killed_is_removed(sockets: Path) -> None:
    path = f"/nowhere/containerd.sock/k8s.io/{POD}"
    socket = sockets / hashlib.sha256(path.encode()).hexdigest()
    socket.touch()
    await shims.end(FakeContainerd(), POD)  # type: ignore[arg-type]
    assert not socket.exists()


async def test_a_creation_under_way_is_waited_for(start: Start) -> None:
    runtime = start("runc", "--root", "/nowhere", "create", "--bundle", "/nowhere", POD)
    waiting = asyncio.create_task(shims.creation_ended(POD, 30))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    runtime.terminate()
    runtime.wait()
    await asyncio.wait_for(waiting, PATIENCE)


async def test_one_scan_finds_every_creation(start: Start) -> None:
    start("runc", "--root", "/nowhere", "create", "--bundle", "/nowhere", POD)
    start("runc", "--root", "/nowhere", "delete", OTHER)
    found = await shims.being_created()
    assert POD in found and OTHER not in found


async def test_a_creation_that_does_not_end_is_killed(start: Start) -> None:
    runtime = start("runc", "create", "--bundle", "/nowhere", POD)
    await shims.creation_ended(POD, 0.05)
    assert runtime.wait(5) == -9


async def test_a_reused_pid_is_not_killed(start: Start) -> None:
    process = shim_of(start, POD)
    await shims.kill([shims.Process(process.pid, ("containerd-shim-runc-v2", "-id", OTHER))])
    assert process.poll() is None


def test_the_socket_shows_whether_a_shim_may_run(sockets: Path) -> None:
    containerd = FakeContainerd()
    assert not shims.may_run(containerd, POD)  # type: ignore[arg-type]
    path = f"/nowhere/containerd.sock/k8s.io/{POD}"
    (sockets / hashlib.sha256(path.encode()).hexdigest()).touch()
    assert shims.may_run(containerd, POD)  # type: ignore[arg-type]
