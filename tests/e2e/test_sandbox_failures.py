"""A pod that cannot be created or stopped leaves nothing behind, or stays listed to be stopped
again.

The node's network has a third plugin here, which fails or hangs on demand, and a runtime handler
whose runc does.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from generated.cri import api_pb2
from tests.harness import cni_recorder, containerd_objects
from tests.harness.cri import pod_config
from tests.harness.leaks import OWN_PROGRAMS, Holdings
from tests.harness.node import Containerd, Node, containerds
from tests.harness.waiting import PATIENCE, became_true, wait_until

from .conftest import newest_only

_RUNC = """#!/bin/sh
# runc, except for what the file beside it names
for word in "$@"; do
  if [ "$word" = "$(cat {fault})" ]; then echo "told to fail" >&2; exit 1; fi
done
exec {runc} "$@"
"""


_PLUGIN = """#!{python} -IS
# the recording plugin, with the ways that the file beside it names
import io, json, sys
config = json.load(sys.stdin) | json.load(open({fault!r}))
sys.stdin = io.StringIO(json.dumps(config))
exec(compile(open({recorder!r}).read(), {recorder!r}, "exec"))
"""


class FaultyNode:
    """A node, the settings of its faulty parts, and what it held when it was idle."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.cri = node.cri
        self._record = node.directory / "cni.log"
        self._cni_fault = node.directory / "cni.fault"
        self._runc_fault = node.directory / "runc.fault"
        self.work()
        self._make_bridge()
        self.idle = self.holdings()

    def tell_cni(self, **how: object) -> None:
        """Change the behaviour of the third plugin: ``fail={"ADD": …}``, ``hang=["ADD"]``."""
        whole = self._cni_fault.with_suffix(".new")
        whole.write_text(json.dumps({"record": str(self._record), **how}))
        whole.rename(self._cni_fault)  # a plugin of a call that is being undone may read it now

    def tell_runc(self, fault: str) -> None:
        """Let the handler ``faulty`` fail its runc command of this name."""
        self._runc_fault.write_text(fault)

    def work(self) -> None:
        """Let every part work normally."""
        self.tell_cni()
        self.tell_runc("nothing")
        self._record.unlink(missing_ok=True)

    def called(self, command: str) -> bool:
        """Whether the third plugin was called with this command."""
        return any(call["command"] == command for call in cni_recorder.calls(self._record))

    def holdings(self) -> tuple[Holdings, set[str]]:
        """What the machine and the node's containerd hold."""
        return Holdings.now(), containerd_objects.of(self.node)

    def ensure_running(self) -> None:
        """Let everything work again, whatever a failed test has left."""
        self.work()
        self.node.ensure_running()

    def assert_idle(self) -> None:
        """Nothing is left; shims and namespaces may take a moment to disappear, and the server
        continues with a rollback when the client has given up."""

        def left() -> dict[str, list[str]]:
            machine, daemon = self.holdings()
            held = machine.since(self.idle[0])
            # the server, its log keeper and its containerd may be other processes now
            processes = held.pop("processes", [])
            pods = [one for one in processes if not any(own in one for own in OWN_PROGRAMS)]
            listed = self.cri.runtime.ListPodSandbox(api_pb2.ListPodSandboxRequest()).items
            directories = self.node.directory.glob("*/io.containerd.grpc.v1.cri/sandboxes/*")
            return held | {
                "processes": pods,
                "containerd": sorted(daemon - self.idle[1]),
                "pods": [pod.id for pod in listed],
                "directories": [str(path) for path in directories],
            }

        assert became_true(lambda: not any(left().values())), left()

    def _make_bridge(self) -> None:
        """The first pod creates the bridge and the image's files, which stay."""
        pod = self.cri.run_pod(pod_config())
        self.cri.stop_pod(pod)
        self.cri.remove_pod(pod)


def install_plugin(node: Node) -> None:
    """Add the third plugin to the network of a node that is not running."""
    directory = node.directory / "plugins"
    directory.mkdir()
    program = _PLUGIN.format(
        python=sys.executable,
        fault=str(node.directory / "cni.fault"),
        recorder=str(Path(cni_recorder.__file__).resolve()),
    )
    (directory / "faulty").write_text(program)
    (directory / "faulty").chmod(0o755)
    path = node.directory / "net.d" / "10-test.conflist"
    conflist = json.loads(path.read_text())
    conflist["plugins"].append({"type": "faulty"})
    path.write_text(json.dumps(conflist))


@pytest.fixture(scope="module", params=containerds(), ids=lambda containerd: containerd.name)
def faulty_node(request: pytest.FixtureRequest, nothing_is_left: None) -> Iterator[FaultyNode]:
    containerd: Containerd = request.param
    with Node(containerd=containerd) as node:
        wrapper = node.directory / "runc"
        fault = node.directory / "runc.fault"
        wrapper.write_text(_RUNC.format(fault=fault, runc=containerd.runc))
        wrapper.chmod(0o755)
        fault.write_text("none")
        node.stop()
        install_plugin(node)
        options = (
            f'{{ BinaryName = "{wrapper}", SystemdCgroup = {str(node.systemd_cgroup).lower()} }}'
        )
        node.extra_config = f"[containerd.runtimes.faulty]\noptions = {options}\n"
        node.start()
        yield FaultyNode(node)


@pytest.fixture
def faulty(faulty_node: FaultyNode) -> Iterator[FaultyNode]:
    faulty_node.ensure_running()
    yield faulty_node
    faulty_node.ensure_running()
    faulty_node.node.remove_pods()


FAIL = {"code": 999, "msg": "told to fail"}


def refused(call: Callable[[], object]) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value


def test_a_failing_network_leaves_nothing(faulty: FaultyNode) -> None:
    faulty.tell_cni(fail={"ADD": FAIL})
    error = refused(lambda: faulty.cri.run_pod(pod_config()))
    assert "told to fail" in str(error.details())
    assert faulty.called("DEL")
    faulty.assert_idle()


@pytest.mark.parametrize("command", ["create", "start"])
def test_a_failing_runc_leaves_nothing(faulty: FaultyNode, command: str) -> None:
    faulty.tell_runc(command)
    refused(lambda: faulty.cri.run_pod(pod_config(), handler="faulty"))
    faulty.assert_idle()


def test_the_same_attempt_works_after_a_failure(faulty: FaultyNode) -> None:
    config = pod_config()
    faulty.tell_runc("create")
    refused(lambda: faulty.cri.run_pod(config, handler="faulty"))
    faulty.work()
    pod = faulty.cri.run_pod(config, handler="faulty")
    assert faulty.cri.pod_status(pod).state == api_pb2.SANDBOX_READY


def test_a_pod_whose_network_cannot_be_released_stays_listed(faulty: FaultyNode) -> None:
    config = pod_config()
    faulty.tell_cni(fail={"ADD": FAIL, "DEL": FAIL})
    refused(lambda: faulty.cri.run_pod(config))
    (kept,) = faulty.cri.runtime.ListPodSandbox(api_pb2.ListPodSandboxRequest()).items
    assert kept.state == api_pb2.SANDBOX_NOTREADY
    assert kept.metadata == config.metadata
    again = refused(lambda: faulty.cri.run_pod(config))
    assert again.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert kept.id in str(again.details())
    faulty.tell_cni()
    faulty.cri.stop_pod(kept.id)
    faulty.cri.remove_pod(kept.id)
    faulty.assert_idle()


def test_a_client_that_disconnects_leaves_nothing(faulty: FaultyNode) -> None:
    faulty.tell_cni(hang=["ADD"])
    request = api_pb2.RunPodSandboxRequest(config=pod_config())
    error = refused(lambda: faulty.cri.runtime.RunPodSandbox(request, timeout=1))
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    faulty.tell_cni()
    faulty.assert_idle()


def kill_the_server_during_an_add(faulty: FaultyNode) -> None:
    """While a plugin of the pod hangs, and the shim of its pause task runs already."""
    faulty.tell_cni(hang=["ADD"])
    request = api_pb2.RunPodSandboxRequest(config=pod_config())
    call = threading.Thread(
        target=lambda: refused(lambda: faulty.cri.runtime.RunPodSandbox(request, timeout=PATIENCE))
    )
    call.start()
    wait_until(lambda: faulty.called("ADD"))
    wait_until(lambda: any("containerd-shim" in c for c in faulty.node.processes().values()))
    faulty.node.stop(signal.SIGKILL)
    call.join()
    kill_hanging_plugins(faulty.node)


def test_a_killed_server_leaves_no_partial_pod(faulty: FaultyNode) -> None:
    kill_the_server_during_an_add(faulty)
    faulty.tell_cni()
    faulty.node.start()
    faulty.assert_idle()
    assert faulty.called("DEL")
    leases = Path(f"/var/lib/cni/networks/net-{faulty.node.bridge}").glob("*.*.*.*")
    assert not list(leases)


@newest_only
def test_a_recovery_that_times_out_does_not_block_the_start(faulty: FaultyNode) -> None:
    kill_the_server_during_an_add(faulty)
    faulty.tell_cni(hang=["DEL"])
    assert faulty.node.start() < PATIENCE / 2
    (kept,) = faulty.cri.runtime.ListPodSandbox(api_pb2.ListPodSandboxRequest()).items
    assert kept.state == api_pb2.SANDBOX_NOTREADY
    faulty.tell_cni()
    faulty.cri.stop_pod(kept.id)
    faulty.cri.remove_pod(kept.id)
    faulty.assert_idle()


def test_a_stop_whose_network_fails_is_repeated(faulty: FaultyNode) -> None:
    pod = faulty.cri.run_pod(pod_config())
    faulty.tell_cni(fail={"DEL": FAIL})
    refused(lambda: faulty.cri.stop_pod(pod))
    faulty.tell_cni()
    faulty.cri.stop_pod(pod)
    faulty.cri.stop_pod(pod)
    faulty.cri.remove_pod(pod)
    faulty.cri.remove_pod(pod)
    faulty.assert_idle()


@newest_only
def test_a_second_stop_does_not_wait_for_a_hanging_one(faulty: FaultyNode) -> None:
    pod = faulty.cri.run_pod(pod_config())
    faulty.tell_cni(hang=["DEL"])
    request = api_pb2.StopPodSandboxRequest(pod_sandbox_id=pod)
    first = refused(lambda: faulty.cri.runtime.StopPodSandbox(request, timeout=1))
    assert first.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    faulty.tell_cni()
    faulty.cri.stop_pod(pod)
    assert faulty.cri.pod_status(pod).state == api_pb2.SANDBOX_NOTREADY
    faulty.cri.remove_pod(pod)
    faulty.assert_idle()


def test_an_unknown_handler_is_refused_with_the_known_ones(faulty: FaultyNode) -> None:
    error = refused(lambda: faulty.cri.run_pod(pod_config(), handler="kata"))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "runtime_handler" in str(error.details())
    assert "faulty, runc" in str(error.details())


def kill_hanging_plugins(node: Node) -> None:
    """A killed server's plugins keep running; an administrator would end them, too."""
    for proc in Path("/proc").glob("[0-9]*"):
        try:
            command = (proc / "cmdline").read_bytes().decode(errors="replace")
            children = (proc / "task" / proc.name / "children").read_text().split()
        except OSError:
            continue
        if f"{node.directory}/plugins/faulty" in command:
            for pid in (proc.name, *children):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
