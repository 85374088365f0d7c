"""Containers' output when server and log keeper are stopped or die, on real shims."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest

from generated.cri import api_pb2
from tests.harness.cri import Cri, container_config, pod_config
from tests.harness.node import Node
from tests.harness.waiting import wait_until

from .conftest import BUSYBOX

COUNTING = "i=0; while [ $i -lt 100 ]; do echo line $i; i=$((i+1)); usleep 20000; done"

WAIT_FOR_FILE = "while [ ! -e /tmp/end ]; do usleep 20000; done"
"""The private daemon stops with the server, and containerd 1.7 and later delete a task that exits
meanwhile, with its exit code. So a container that must outlive both exits only when told to."""


@pytest.fixture
def logs(node: Node) -> Path:
    directory = node.logs / "drained"
    directory.mkdir(exist_ok=True)
    for file in directory.iterdir():
        file.unlink()
    return directory


def started(cri: Cri, logs: Path, script: str) -> str:
    pod_spec = pod_config(log_directory=str(logs))
    pod_spec.hostname = ""
    pod_spec.linux.security_context.namespace_options.network = api_pb2.NODE
    pod = cri.run_pod(pod_spec)
    container = cri.create(pod, container_config(BUSYBOX, "sh", "-c", script), pod_spec)
    cri.start(container)
    return container


def text(log: Path) -> str:
    """The output of the container, with partial lines joined."""
    records = log.read_text().splitlines()
    parts = (record.split(" ", 3)[2:] for record in records)
    return "".join(content + "\n" * (tag == "F") for tag, content in parts)


def numbers(log: Path) -> list[int]:
    return [int(number) for number in re.findall(r"line (\d+)\n", text(log))]


def keeper(node: Node) -> int:
    found = [pid for pid, command in node.processes().items() if "runtime.logs.keeper" in command]
    assert len(found) == 1
    return found[0]


def test_a_container_keeps_logging_while_the_server_is_down(
    cri: Cri, node: Node, logs: Path
) -> None:
    script = f"sleep 1; yes {'x' * 99} | head -n 20000; echo end; {WAIT_FOR_FILE}"
    container = started(cri, logs, script)
    node.stop()
    try:
        log = logs / "app.log"
        wait_until(lambda: log.read_text().endswith(" stdout F end\n"))
        assert text(log) == ("x" * 99 + "\n") * 20000 + "end\n"
    finally:
        node.start()
    cri.exec_sync(container, "touch", "/tmp/end")
    assert cri.wait_for_state(container, api_pb2.CONTAINER_EXITED, 30).exit_code == 0


def test_a_killed_keeper_is_replaced_while_containers_write(
    cri: Cri, node: Node, logs: Path
) -> None:
    container = started(cri, logs, COUNTING)
    wait_until(lambda: (logs / "app.log").stat().st_size > 0)
    killed = keeper(node)
    os.kill(killed, signal.SIGKILL)
    cri.wait_for_state(container, api_pb2.CONTAINER_EXITED, 30)
    assert keeper(node) != killed
    assert_all_but_one(numbers(logs / "app.log"))


def test_output_waits_in_the_pipe_when_server_and_keeper_are_killed(
    cri: Cri, node: Node, logs: Path
) -> None:
    container = started(cri, logs, f"{COUNTING}; {WAIT_FOR_FILE}")
    wait_until(lambda: (logs / "app.log").stat().st_size > 0)
    killed = keeper(node)
    node.stop(signal.SIGKILL)
    os.kill(killed, signal.SIGKILL)
    node.start()
    cri.exec_sync(container, "touch", "/tmp/end")
    status = cri.wait_for_state(container, api_pb2.CONTAINER_EXITED, 30)
    assert status.exit_code == 0
    assert_all_but_one(numbers(logs / "app.log"))


def assert_all_but_one(found: list[int]) -> None:
    """Only what had been read but not yet written may be lost: rarely one line."""
    assert found == sorted(set(found))
    assert len(found) >= 99
    assert found[-1] == 99


def test_rotation_under_load_loses_nothing(cri: Cri, node: Node, logs: Path) -> None:
    container = started(cri, logs, "sleep 0.5; " + COUNTING.replace("usleep 20000", "usleep 5000"))
    log, rotated = logs / "app.log", []
    for number in range(5):
        wait_until(lambda: log.stat().st_size > 0)
        rotated.append(log.rename(logs / f"app.log.{number}"))
        request = api_pb2.ReopenContainerLogRequest(container_id=container)
        cri.runtime.ReopenContainerLog(request, timeout=10)
    cri.wait_for_state(container, api_pb2.CONTAINER_EXITED, 30)
    found = [number for file in (*rotated, log) for number in numbers(file)]
    assert found == list(range(100))
