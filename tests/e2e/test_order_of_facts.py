"""Work in progress when the server or containerd goes down, or when the disk is full."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from generated.cri import api_pb2
from tests.harness.cri import container_config, pod_config
from tests.harness.machine import Machine, log_text, processes, started
from tests.harness.waiting import PATIENCE, wait_until

from .conftest import BUSYBOX
from .test_recovery_faults import assert_nothing_is_left, begun, silent

TRAPS = "trap 'exit 9' TERM; echo ready; while :; do sleep 0.1; done"

MARK = str(10_000_000 + os.getpid())
"""The seconds that these tests' containers sleep, by which their processes are found."""


def created(machine: Machine, *command: str) -> tuple[str, str]:
    spec = pod_config(log_directory=str(machine.logs))
    pod = machine.cri.run_pod(spec)
    return pod, machine.cri.create(pod, container_config(BUSYBOX, *command), spec)


def log_keeper(machine: Machine) -> int:
    """The process of the machine's log keeper."""
    (pid,) = (
        pid
        for pid, command in processes(str(machine.directory))
        if "runtime.logs.keeper" in command
    )
    return pid


def traps(machine: Machine, name: str) -> str:
    """A container that exits with 9 when told to."""
    _, container = started(machine.cri, machine, TRAPS, name=name)
    wait_until(lambda: "ready" in log_text(machine, name))
    return container


def sleepers() -> list[int]:
    """The processes of these tests' containers."""
    return [pid for pid, command in processes(MARK) if command.startswith("sleep")]


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=["SIGTERM", "SIGKILL"])
def test_an_exit_code_outlives_a_server_that_ends_while_the_output_drains(
    served: Machine, how: signal.Signals
) -> None:
    container = traps(served, "app")
    said = served.log().count("container exited")
    with silent(log_keeper(served)):
        os.kill(served.first_process(container), signal.SIGTERM)
        wait_until(lambda: served.log().count("container exited") > said)
        wait_until(lambda: not served.bundle(container).exists())
        # the task is deleted; only the output is still awaited
        assert served.cri.status(container).state == api_pb2.CONTAINER_RUNNING
        served.end("server", how)
    served.start_server()
    status = served.cri.wait_for_state(container, api_pb2.CONTAINER_EXITED)
    assert (status.exit_code, status.reason) == (9, "Error")


def test_a_shutdown_waits_for_a_running_start(served: Machine) -> None:
    _, container = created(served, "sleep", MARK)
    shutdowns = served.log().count("shutting down")
    with served.held_runc() as waits:
        call = begun(lambda: served.cri.start(container))
        wait_until(waits)
        served.begin_to_end("server", signal.SIGTERM)
        wait_until(lambda: served.log().count("shutting down") > shutdowns)
    assert served.server_ended() == 0
    call.join()
    served.start_server()
    assert served.cri.status(container).state == api_pb2.CONTAINER_RUNNING
    wait_until(lambda: len(sleepers()) == 1)


@pytest.mark.parametrize("command", ["create", "start"])
def test_a_daemon_restarted_during_start_makes_nothing_run_twice(
    served: Machine, command: str
) -> None:
    idle = served.holdings()
    pod, container = created(served, "sleep", MARK)
    with served.held_runc(command) as waits:
        call = begun(lambda: served.cri.start(container))
        wait_until(waits)
        served.end("containerd", signal.SIGKILL)
        call.join(PATIENCE)
        assert not call.is_alive()
    wait_until(lambda: not served.runc_commands())  # the shim continues with the call
    served.start_containerd()
    served.cri.wait_until_ready()
    # the kubelet creates no other container while the state of this one is unknown
    wait_until(lambda: served.cri.status(container).state != api_pb2.CONTAINER_UNKNOWN)
    state = served.cri.status(container).state
    assert state in (api_pb2.CONTAINER_RUNNING, api_pb2.CONTAINER_EXITED)
    wait_until(lambda: len(sleepers()) == (state == api_pb2.CONTAINER_RUNNING))
    served.cri.stop_pod(pod)
    served.cri.remove_pod(pod)
    assert sleepers() == []
    assert_nothing_is_left(served, idle)


def test_a_pod_whose_container_does_not_get_started_is_stopped_and_removed(
    served: Machine,
) -> None:
    idle = served.holdings()
    pod, container = created(served, "sleep", MARK)
    with served.held_runc() as waits:
        call = begun(lambda: served.cri.start(container))
        wait_until(waits)
        kills = served.log().count("killing the container")
        stop = begun(lambda: served.cri.stop_pod(pod))
        wait_until(lambda: served.log().count("killing the container") > kills)
    stop.join()  # the kill waits in the shim until runc has created the container
    assert served.cri.pod_status(pod).state == api_pb2.SANDBOX_NOTREADY
    assert served.cri.status(container).state == api_pb2.CONTAINER_EXITED
    served.cri.remove_pod(pod)
    call.join()
    assert sleepers() == []
    assert_nothing_is_left(served, idle)


@contextlib.contextmanager
def small_disk(path: Path) -> Iterator[Path]:
    """A disk of 2 MiB at the path; `fill` uses all of it."""
    path.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", path], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)


def fill(path: Path) -> None:
    """Write a file until its disk is full."""
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def test_a_full_disk_blocks_no_stop_and_loses_no_exit_code(idle: Machine) -> None:
    with small_disk(idle.directory / "root/io.containerd.grpc.v1.cri") as disk:
        idle.start_containerd()
        idle.start_server()
        idle.cri.pull(BUSYBOX)
        container = traps(idle, "full")
        fill(disk / "full")
        began = time.monotonic()
        idle.cri.stop(container, int(PATIENCE))
        assert time.monotonic() - began < PATIENCE / 2
        assert idle.cri.status(container).exit_code == 9
        assert "status not saved" in idle.log()
        # a server that starts on the full disk knows the exit as well
        idle.end("server", signal.SIGKILL)
        idle.start_server()
        status = idle.cri.status(container)
        assert (status.state, status.exit_code) == (api_pb2.CONTAINER_EXITED, 9)
        (disk / "full").unlink()
        for pod in idle.cri.runtime.ListPodSandbox(api_pb2.ListPodSandboxRequest()).items:
            idle.cri.stop_pod(pod.id)
            idle.cri.remove_pod(pod.id)
        with pytest.raises(grpc.RpcError):
            idle.cri.status(container)


def test_a_status_is_saved_once_there_is_room(idle: Machine) -> None:
    with small_disk(idle.directory / "root/io.containerd.grpc.v1.cri") as disk:
        idle.start_containerd()
        idle.start_server()
        idle.cri.pull(BUSYBOX)
        container = traps(idle, "room")
        fill(disk / "full")
        idle.cri.stop(container, int(PATIENCE))
        (disk / "full").unlink()
        file = disk / "containers" / container / "status"
        wait_until(lambda: json.loads(file.read_bytes())["ExitCode"] == 9)
        for pod in idle.cri.runtime.ListPodSandbox(api_pb2.ListPodSandboxRequest()).items:
            idle.cri.stop_pod(pod.id)
            idle.cri.remove_pod(pod.id)
