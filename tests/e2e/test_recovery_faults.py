"""Kills, unresponsive shims and missing daemons during the server's start or in the middle of a
call."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator

import grpc
import pytest

from generated.cri import api_pb2
from tests.harness import cni_recorder
from tests.harness.cri import container_config, pod_config
from tests.harness.leaks import OWN_PROGRAMS, Holdings
from tests.harness.machine import Machine, log_text, processes, started
from tests.harness.waiting import PATIENCE, became_true, wait_until

from .conftest import BUSYBOX, newest_only

TICK = "i=0; while :; do i=$((i+1)); echo tick $i; sleep 0.05; done"


@contextlib.contextmanager
def silent(pid: int) -> Iterator[None]:
    """Stop a process (SIGSTOP) meanwhile."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def begun(call: Callable[[], object]) -> threading.Thread:
    """A call that the server does not live to finish."""

    def run() -> None:
        with contextlib.suppress(grpc.RpcError):
            call()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def begin_recovery(machine: Machine) -> None:
    """Start a server, which waits for a silent shim or a held runc when this returns."""
    started = machine.log().count("event=listening")
    machine.begin_server()
    wait_until(lambda: machine.log().count("event=listening") > started)
    time.sleep(0.5)  # a slower machine is earlier in the recovery, which changes no result


def assert_nothing_is_left(machine: Machine, idle: Holdings) -> None:
    """Objects of pods; shims and namespaces may take a moment to disappear, and our processes
    differ now."""

    def left() -> dict[str, list[str]]:
        held = machine.holdings().since(idle)
        held.pop("links", None)  # the bridge, which the first pod creates
        processes = held.pop("processes", [])
        pods = [one for one in processes if not any(own in one for own in OWN_PROGRAMS)]
        return held | {"processes": pods, "runc states": sorted(machine.runc_states())}

    assert became_true(lambda: not any(left().values())), left()


def test_a_shim_that_is_silent_at_the_start_loses_nothing(served: Machine) -> None:
    pod, container = started(served.cri, served, TICK)
    other, healthy = started(served.cri, served, TICK, name="healthy")
    served.cri.exec_sync(container, "touch", "/dev/shm/kept")
    with silent(served.shim(pod)):
        served.end("server")
        served.start_server()
        assert served.cri.pod_status(other).state == api_pb2.SANDBOX_READY
        assert served.cri.status(healthy).state == api_pb2.CONTAINER_RUNNING
        assert served.cri.pod_status(pod).state == api_pb2.SANDBOX_NOTREADY
        assert served.cri.status(container).state == api_pb2.CONTAINER_UNKNOWN
        files = served.directory / "root/io.containerd.grpc.v1.cri/sandboxes" / pod
        assert (files / "hosts").exists()
    wait_until(lambda: served.cri.pod_status(pod).state == api_pb2.SANDBOX_READY)
    wait_until(lambda: served.cri.status(container).state == api_pb2.CONTAINER_RUNNING)
    assert served.cri.exec_sync(container, "ls", "/dev/shm").stdout == b"kept\n"
    seen = len(log_text(served, "app"))
    wait_until(lambda: len(log_text(served, "app")) > seen)
    served.cri.stop(container)
    assert served.cri.status(container).exit_code == 137


@pytest.mark.parametrize("again", [True, False], ids=["started again", "removed"])
def test_a_kill_during_a_container_start_leaves_nothing(served: Machine, again: bool) -> None:
    idle = served.holdings()
    spec = pod_config(log_directory=str(served.logs))
    pod = served.cri.run_pod(spec)
    container = served.cri.create(pod, container_config(BUSYBOX, "sleep", "1000"), spec)
    with served.held_runc() as waits:
        call = begun(lambda: served.cri.start(container))
        wait_until(waits)
        served.end("server", signal.SIGKILL)
        call.join()
        begin_recovery(served)
    served.cri.wait_until_ready()
    assert served.cri.status(container).state == api_pb2.CONTAINER_CREATED
    if again:
        (output,) = served.directory.glob(f"**/{container}-stdout")
        shim = begun(lambda: output.open("wb").close())  # as that of the interrupted start may
        served.cri.start(container)
        os.close(os.open(output, os.O_RDONLY | os.O_NONBLOCK))  # it may still wait for a reader
        shim.join()
        assert served.cri.status(container).state == api_pb2.CONTAINER_RUNNING
    served.cri.stop_pod(pod)
    served.cri.remove_pod(pod)
    assert_nothing_is_left(served, idle)


def test_a_kill_during_a_pod_creation_leaves_nothing(served: Machine) -> None:
    idle = served.holdings()
    with served.held_runc() as waits:
        call = begun(lambda: served.cri.run_pod(pod_config()))
        wait_until(waits)
        served.end("server", signal.SIGKILL)
        call.join()
        begin_recovery(served)
    served.cri.wait_until_ready()
    assert not served.cri.runtime.ListPodSandbox(api_pb2.ListPodSandboxRequest()).items
    assert_nothing_is_left(served, idle)


def test_a_shutdown_waits_for_the_undoing_of_a_call_that_its_client_gave_up(
    served: Machine,
) -> None:
    idle = served.holdings()
    logged = len(served.log())
    with served.held_runc() as waits:
        request = api_pb2.RunPodSandboxRequest(config=pod_config())
        call = served.cri.runtime.RunPodSandbox.future(request)
        wait_until(waits)
        call.cancel()
        served.begin_to_end("server", signal.SIGTERM)
        wait_until(lambda: "shutting down" in served.log()[logged:])
    assert served.server_ended() == 0
    assert "rollback is incomplete" not in served.log()[logged:]
    served.start_server()
    assert not served.cri.runtime.ListPodSandbox(api_pb2.ListPodSandboxRequest()).items
    assert_nothing_is_left(served, idle)


def test_a_pod_whose_records_are_damaged_can_be_removed(served: Machine) -> None:
    idle = served.holdings()
    pod, container = started(served.cri, served, TICK)
    for record in (pod, container):
        served.damage_record(record)
    served.end("server")
    served.start_server()
    status = served.cri.pod_status(pod)
    assert (status.metadata.name, status.state) == ("pod-app", api_pb2.SANDBOX_NOTREADY)
    assert served.cri.status(container).state == api_pb2.CONTAINER_RUNNING
    served.cri.stop_pod(pod)
    served.cri.remove_pod(pod)
    assert_nothing_is_left(served, idle)


@newest_only
def test_a_plugin_that_hangs_when_the_server_is_killed_ends_with_it(served: Machine) -> None:
    served.end("server")
    with served.recorded_network(hang=["ADD"]) as record:
        served.start_server()
        call = begun(lambda: served.cri.run_pod(pod_config()))
        wait_until(lambda: bool(cni_recorder.calls(record)))
        served.end("server", signal.SIGKILL)
        call.join()
        plugins = str(served.directory / "bin")
        assert list(processes(plugins))
        served.start_server()
        assert not list(processes(plugins))
        assert not served.cri.runtime.ListPodSandbox(api_pb2.ListPodSandboxRequest()).items
    # what was added half is deleted after the plugin has ended, not beside it
    assert [call["command"] for call in cni_recorder.calls(record)] == ["ADD", "DEL"]
    served.end("server")


def test_a_server_stopped_during_recovery_exits_and_loses_nothing(served: Machine) -> None:
    tracebacks = served.log().count("Traceback")
    pod, container = started(served.cri, served, TICK)
    with silent(served.shim(pod)):
        served.end("server")
        begin_recovery(served)
        began = time.monotonic()
        served.end("server")
        assert time.monotonic() - began < PATIENCE / 2
    assert served.log().count("Traceback") == tracebacks
    served.start_server()
    assert served.cri.pod_status(pod).state == api_pb2.SANDBOX_READY
    assert served.cri.status(container).state == api_pb2.CONTAINER_RUNNING


def test_recovery_waits_for_a_daemon_that_goes_away(served: Machine) -> None:
    tracebacks = served.log().count("Traceback")
    pod, container = started(served.cri, served, TICK)
    recovered = served.log().count("event=serving")
    with silent(served.shim(pod)):
        served.end("server")
        begin_recovery(served)
        served.end("containerd", signal.SIGKILL)
    too_late = served.log().count("event=serving") > recovered
    time.sleep(1)
    assert served.is_running("server")
    served.start_containerd()
    served.cri.wait_until_ready()
    if too_late:  # the recovery had given the shim up, and finds the pod again
        wait_until(lambda: served.cri.pod_status(pod).state == api_pb2.SANDBOX_READY)
        wait_until(lambda: served.cri.status(container).state == api_pb2.CONTAINER_RUNNING)
    assert served.cri.pod_status(pod).state == api_pb2.SANDBOX_READY
    assert served.cri.status(container).state == api_pb2.CONTAINER_RUNNING
    assert served.log().count("Traceback") == tracebacks
