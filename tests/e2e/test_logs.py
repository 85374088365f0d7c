"""Containers' output when server and log keeper are stopped or die, on real shims."""

from __future__ import annotations

import os
import re
import signal
import time
from datetime import datetime
from pathlib import Path

import pytest

from generated.cri import api_pb2
from tests.harness.cri import Cri, container_config, pod_config
from tests.harness.node import Node
from tests.harness.waiting import PATIENCE, wait_until

from .conftest import BUSYBOX

PAUSE = 0.02
"""Seconds between two lines of a counting container."""

COUNTING = "i=0; while [ $i -lt 100 ]; do echo line $i; i=$((i+1)); usleep 20000; done"

COUNTING_UNTIL_FILE = "i=0; while [ ! -e /tmp/end ]; do echo line $i; i=$((i+1)); usleep 5000; done"

WAIT_FOR_FILE = "while [ ! -e /tmp/end ]; do usleep 20000; done"
"""The private daemon stops with the server, and containerd 1.7 and later delete a task that exits
meanwhile, with its exit code. So a container that must outlive both exits only when told to."""


@pytest.fixture
def logs(node: Node) -> Path:
    directory = node.logs / "drained"
    directory.mkdir()
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
    assert cri.wait_for_state(container, api_pb2.CONTAINER_EXITED).exit_code == 0


def test_a_killed_keeper_is_replaced_while_containers_write(
    cri: Cri, node: Node, logs: Path
) -> None:
    container = started(cri, logs, COUNTING)
    wait_until(lambda: (logs / "app.log").stat().st_size > 0)
    killed = keeper(node)
    os.kill(killed, signal.SIGKILL)
    killed_at = time.time()
    cri.wait_for_state(container, api_pb2.CONTAINER_EXITED)
    assert keeper(node) != killed
    assert_all_but_one_read(logs / "app.log", killed_at)


def test_output_waits_in_the_pipe_when_server_and_keeper_are_killed(
    cri: Cri, node: Node, logs: Path
) -> None:
    container = started(cri, logs, f"{COUNTING}; {WAIT_FOR_FILE}")
    wait_until(lambda: (logs / "app.log").stat().st_size > 0)
    killed = keeper(node)
    node.stop(signal.SIGKILL)
    os.kill(killed, signal.SIGKILL)
    killed_at = time.time()
    node.start()
    cri.exec_sync(container, "touch", "/tmp/end")
    status = cri.wait_for_state(container, api_pb2.CONTAINER_EXITED)
    assert status.exit_code == 0
    assert_all_but_one_read(logs / "app.log", killed_at)


def assert_all_but_one_read(log: Path, killed_at: float) -> None:
    """Only what the keeper had read but not yet written may be lost: lines in a row, written
    between the last one in the log and the kill. That is one line, unless the keeper was delayed.
    """
    found = numbers(log)
    assert found == sorted(set(found))
    assert found[-1] == 99
    lost = sorted(set(range(100)) - set(found))
    if lost:
        assert lost == list(range(lost[0], lost[-1] + 1))
        in_hand = killed_at - time_of(log, lost[0] - 1)
        assert len(lost) <= 1 + in_hand / PAUSE, (lost, in_hand)


def time_of(log: Path, number: int) -> float:
    """When the keeper read this line."""
    end = f" stdout F line {number}"
    (line,) = (line for line in log.read_text().splitlines() if line.endswith(end))
    return datetime.fromisoformat(line.removesuffix(end)).timestamp()


def test_rotation_under_load_loses_nothing(cri: Cri, node: Node, logs: Path) -> None:
    container = started(cri, logs, COUNTING_UNTIL_FILE)
    log, rotated = logs / "app.log", []
    for number in range(5):
        wait_until(lambda: log.stat().st_size > 0)
        rotated.append(log.rename(logs / f"app.log.{number}"))
        request = api_pb2.ReopenContainerLogRequest(container_id=container)
        cri.runtime.ReopenContainerLog(request, timeout=PATIENCE)
    cri.exec_sync(container, "touch", "/tmp/end")
    cri.wait_for_state(container, api_pb2.CONTAINER_EXITED)
    found = [number for file in (*rotated, log) for number in numbers(file)]
    assert found == list(range(len(found)))
    assert len(found) > len(rotated)
