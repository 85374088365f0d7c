"""What is under way when the server is told to end, or when a start does not."""

from __future__ import annotations

import signal
import time

from generated.cri import api_pb2
from tests.harness.cri import container_config, pod_config
from tests.harness.machine import Machine, processes, wait_until

from .conftest import BUSYBOX
from .test_recovery_faults import assert_nothing_is_left, begun

MARK = "31415"


def created(machine: Machine, *command: str) -> tuple[str, str]:
    spec = pod_config(log_directory=str(machine.logs))
    pod = machine.cri.run_pod(spec)
    return pod, machine.cri.create(pod, container_config(BUSYBOX, *command), spec)


def sleepers() -> list[int]:
    """The processes of the containers of these tests."""
    return [pid for pid, command in processes(MARK) if command.startswith("sleep")]


def test_a_start_ends_before_the_server_that_is_told_to(served: Machine) -> None:
    _, container = created(served, "sleep", MARK)
    served.slow_runc(True)
    call = begun(lambda: served.cri.start(container))
    wait_until(served.create_began)
    served.end("server", signal.SIGTERM)
    call.join()
    served.slow_runc(False)
    served.start_server()
    assert served.cri.status(container).state == api_pb2.CONTAINER_RUNNING
    assert len(sleepers()) == 1


def test_a_pod_whose_container_does_not_get_started_is_stopped_and_removed(
    served: Machine,
) -> None:
    idle = served.holdings()
    pod, container = created(served, "sleep", MARK)
    served.slow_runc(True)
    call = begun(lambda: served.cri.start(container))
    wait_until(served.create_began)
    began = time.monotonic()
    served.cri.stop_pod(pod)
    assert time.monotonic() - began < 10
    assert served.cri.status(container).state == api_pb2.CONTAINER_EXITED
    served.cri.remove_pod(pod)
    call.join()
    served.slow_runc(False)
    assert sleepers() == []
    assert_nothing_is_left(served, idle)
