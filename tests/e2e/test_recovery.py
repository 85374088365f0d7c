"""Recovery of what an earlier server, or the built-in plugin, left, and restarts of the daemon.

Here containerd is not the server's child: it outlives the server, and is restarted while it runs.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from pathlib import Path

import grpc
import pytest

from generated.cri import api_pb2
from tests.harness.cri import container_config, pod_config
from tests.harness.machine import Machine, log_text, processes, remove_pods, started
from tests.harness.streams import connected
from tests.harness.waiting import wait_until

from .conftest import BUSYBOX

TICK = "i=0; while :; do i=$((i+1)); echo tick $i; sleep 0.05; done"
WAIT_FOR_FILE = "while [ ! -e /tmp/end ]; do sleep 0.05; done; exit 7"


def is_alive(pid: int) -> bool:
    """Whether the process has not ended; its shim reaps it."""
    return Path(f"/proc/{pid}").exists()


def test_a_daemon_restart_is_not_an_exit(served: Machine) -> None:
    pod, container = started(served.cri, served, TICK)
    _, waiting = started(served.cri, served, WAIT_FOR_FILE, name="waiting")
    served.end("containerd", signal.SIGKILL)
    time.sleep(0.5)
    served.start_containerd()
    served.cri.wait_until_ready()
    seen = len(log_text(served, "app"))
    assert served.cri.status(container).state == api_pb2.CONTAINER_RUNNING
    assert served.cri.pod_status(pod).state == api_pb2.SANDBOX_READY
    wait_until(lambda: len(log_text(served, "app")) > seen)
    served.cri.exec_sync(waiting, "touch", "/tmp/end")
    status = served.cri.wait_for_state(waiting, api_pb2.CONTAINER_EXITED)
    assert (status.exit_code, status.reason) == (7, "Error")


def test_an_exit_while_the_daemon_is_away_is_not_missed(served: Machine) -> None:
    _, container = started(served.cri, served, "sleep 1; exit 9")
    served.end("containerd", signal.SIGKILL)
    time.sleep(1.5)
    served.start_containerd()
    served.cri.wait_until_ready()
    status = served.cri.wait_for_state(container, api_pb2.CONTAINER_EXITED)
    # containerd 1.7 and later delete tasks that exited before they were loaded, with their codes
    assert (status.exit_code, status.reason) in ((9, "Error"), (255, "Unknown"))


def test_an_exit_while_the_server_is_away_has_its_code_and_log(served: Machine) -> None:
    _, container = started(served.cri, served, "sleep 1; echo last words; exit 9")
    served.end("server", signal.SIGKILL)
    wait_until(lambda: served.task_has_ended(container))
    known = time.time_ns()
    served.start_server()
    status = served.cri.wait_for_state(container, api_pb2.CONTAINER_EXITED)
    assert (status.exit_code, status.reason) == (9, "Error")
    assert "last words" in log_text(served, "app")
    assert status.started_at < status.finished_at < known


def test_out_of_memory_kills_while_the_server_is_down_are_recognised(served: Machine) -> None:
    limit = api_pb2.LinuxContainerResources(memory_limit_in_bytes=16 << 20)
    linux = api_pb2.LinuxContainerConfig(resources=limit)
    _, killed = started(served.cri, served, "sleep 2; exec tail /dev/zero", "main", linux=linux)
    child = "sleep 1; sh -c 'tail /dev/zero; true'; echo over; exec sleep 1000"
    _, running = started(served.cri, served, child, "child", linux=linux)
    pid = served.first_process(killed)
    served.end("server", signal.SIGKILL)
    wait_until(lambda: not is_alive(pid) and "over" in log_text(served, "child"))
    served.start_server()
    status = served.cri.wait_for_state(killed, api_pb2.CONTAINER_EXITED)
    assert (status.exit_code, status.reason) == (137, "OOMKilled")
    served.cri.stop(running, 0)
    assert served.cri.status(running).reason == "OOMKilled"


def test_a_dead_shim_is_an_unobserved_exit(served: Machine) -> None:
    pod, container = started(served.cri, served, TICK)
    for pid, command in processes(str(served.directory)):
        if "containerd-shim" in command and pod in command:
            os.kill(pid, signal.SIGKILL)
    status = served.cri.wait_for_state(container, api_pb2.CONTAINER_EXITED)
    assert status.exit_code in (137, 255)
    wait_until(lambda: served.cri.pod_status(pod).state == api_pb2.SANDBOX_NOTREADY)
    served.cri.stop_pod(pod)
    served.cri.remove_pod(pod)


def test_a_command_that_a_killed_server_left_runs_to_its_end(served: Machine) -> None:
    _, container = started(served.cri, served, TICK)
    command = "cat >/tmp/read; head -c 3000000 /dev/zero; touch /tmp/done"
    asyncio.run(_kill_the_server_under(served, container, command))
    served.start_server()
    wait_until(lambda: served.cri.exec_sync(container, "test", "-e", "/tmp/done").exit_code == 0)
    assert served.cri.exec_sync(container, "cat", "/tmp/read").stdout == b"typed"
    fifos = served.directory / "state/io.containerd.grpc.v1.cri/containers" / container / "exec"
    wait_until(lambda: not list(fifos.glob("*")))


async def _kill_the_server_under(served: Machine, container: str, command: str) -> None:
    request = api_pb2.ExecRequest(
        container_id=container, cmd=["sh", "-c", command], stdin=True, stdout=True, stderr=True
    )

    def read() -> bytes:
        return served.cri.exec_sync(container, "cat", "/tmp/read").stdout

    async with connected(served.cri.runtime.Exec(request).url, "websocket") as streams:
        await streams.send("stdin", b"typed")
        while read() != b"typed":  # noqa: ASYNC110  it is another process's doing
            await asyncio.sleep(0.05)
        served.end("server", signal.SIGKILL)


def test_states_survive_the_server(served: Machine) -> None:
    spec = pod_config(log_directory=str(served.logs))
    pod = served.cri.run_pod(spec)
    created = served.cri.create(pod, container_config(BUSYBOX, "true", name="created"), spec)
    exited = served.cri.create(pod, container_config(BUSYBOX, "false", name="exited"), spec)
    served.cri.start(exited)
    before = served.cri.wait_for_state(exited, api_pb2.CONTAINER_EXITED)
    stopped, _ = started(served.cri, served, TICK, name="stopped")
    served.cri.stop_pod(stopped)
    status = served.cri.pod_status(pod)
    served.end("server")
    served.start_server()
    assert served.cri.pod_status(pod) == status
    assert served.cri.status(exited) == before
    assert served.cri.pod_status(stopped).state == api_pb2.SANDBOX_NOTREADY
    assert served.cri.status(created).state == api_pb2.CONTAINER_CREATED
    served.cri.start(created)
    assert served.cri.wait_for_state(created, api_pb2.CONTAINER_EXITED).exit_code == 0


def test_pods_of_the_built_in_plugin_are_taken_over(idle: Machine) -> None:
    idle.start_containerd(with_cri=True)
    idle.builtin.pull(BUSYBOX)
    pod, container = started(idle.builtin, idle, TICK, name="before")
    _, waiting = started(idle.builtin, idle, WAIT_FOR_FILE, name="waiting-before")
    before = idle.builtin.pod_status(pod)
    idle.end("containerd")
    idle.start_containerd()
    idle.start_server()
    after = idle.cri.pod_status(pod)
    assert after.state == api_pb2.SANDBOX_READY
    assert (after.network, after.metadata) == (before.network, before.metadata)
    assert idle.cri.status(container).state == api_pb2.CONTAINER_RUNNING
    seen = len(log_text(idle, "before"))
    wait_until(lambda: len(log_text(idle, "before")) > seen)
    idle.cri.exec_sync(waiting, "touch", "/tmp/end")
    status = idle.cri.wait_for_state(waiting, api_pb2.CONTAINER_EXITED)
    assert (status.exit_code, status.reason) == (7, "Error")
    remove_pods(idle.cri)


def test_pods_of_ours_are_taken_over_by_the_built_in_plugin(idle: Machine) -> None:
    idle.start_containerd()
    idle.start_server()
    idle.cri.pull(BUSYBOX)
    pod, container = started(idle.cri, idle, TICK, name="ours")
    before = idle.cri.pod_status(pod)
    idle.end("server")
    idle.end("containerd")
    idle.start_containerd(with_cri=True)
    after = idle.builtin.pod_status(pod)
    assert after.state == api_pb2.SANDBOX_READY
    assert (after.network, after.metadata) == (before.network, before.metadata)
    assert idle.builtin.status(container).state == api_pb2.CONTAINER_RUNNING
    remove_pods(idle.builtin)


def test_resources_of_a_resized_pod_outlive_the_server(served: Machine) -> None:
    pod = served.cri.run_pod(pod_config())
    request = api_pb2.UpdatePodSandboxResourcesRequest(pod_sandbox_id=pod[:20])
    request.overhead.memory_limit_in_bytes = 1 << 20
    request.resources.cpu_shares = 512
    served.cri.runtime.UpdatePodSandboxResources(request)
    expected = ({"memory_limit_in_bytes": 1 << 20}, {"cpu_shares": 512})
    assert shown_resources(served, pod) == expected
    served.end("server", signal.SIGKILL)
    served.start_server()
    assert shown_resources(served, pod) == expected
    request.pod_sandbox_id = "absent"
    with pytest.raises(grpc.RpcError) as caught:
        served.cri.runtime.UpdatePodSandboxResources(request)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def shown_resources(served: Machine, pod: str) -> tuple[dict[str, int], dict[str, int]]:
    """Overhead and resources in the verbose status of the pod."""
    request = api_pb2.PodSandboxStatusRequest(pod_sandbox_id=pod, verbose=True)
    info = json.loads(served.cri.runtime.PodSandboxStatus(request).info["info"])
    return info["overhead"], info["resources"]
