"""The same requests on a real containerd: a clear error or correct work, soon, and nothing is left.

Errors of containerd and runc have the code UNKNOWN, as they do with the built-in plugin.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from generated.cri import api_pb2
from tests.e2e.conftest import BUSYBOX
from tests.harness import cgroups
from tests.harness.cri import container_config, pod_config
from tests.harness.leaks import Holdings
from tests.harness.node import Node

from .cases import ENDING, RPCS, SERVICES, cases, message_of, set_field, unclear

SECONDS = 30
"""The longest that an answer may take; a shim that cannot start is given some time."""


class Served:
    """The node with one pod and a running container in it."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.cri = node.cri
        self.pod_config = pod_config("extremes")
        self.pod_config.log_directory = str(node.logs / "extremes")
        self.pod = self.cri.run_pod(self.pod_config)
        self.container = self.cri.create(self.pod, self._config("app"), self.pod_config)
        self.cri.start(self.container)

    def _config(self, name: str) -> api_pb2.ContainerConfig:
        return container_config(BUSYBOX, "sleep", "1000", name=name)

    def base(self, rpc: str) -> Any:
        """A request that is served, for another object than those that are there."""
        request = message_of(rpc)()
        if rpc == "RunPodSandbox":
            request.config.CopyFrom(pod_config("other"))
        if rpc == "CreateContainer":
            request.config.CopyFrom(self._config("other"))
        for name, given in (("container_id", self.container), ("pod_sandbox_id", self.pod)):
            if name in request.DESCRIPTOR.fields_by_name:
                setattr(request, name, given)
        return request

    def call(self, rpc: str, request: Any) -> Any:
        """The answer, of a stream the first one."""
        service = "runtime" if rpc in SERVICES["RuntimeService"].methods_by_name else "images"
        answer = getattr(getattr(self.cri, service), rpc)(request, timeout=SECONDS)
        if hasattr(answer, "cancel"):
            first = next(iter(answer), None)
            answer.cancel()
            return first
        return answer

    def clean(self, rpc: str, answer: Any) -> None:
        """Remove what a served request made."""
        if rpc == "CreateContainer":
            self.cri.remove(answer.container_id)
        if rpc == "RunPodSandbox":
            self.cri.stop_pod(answer.pod_sandbox_id)
            self.cri.remove_pod(answer.pod_sandbox_id)


@pytest.fixture
def served(node: Node) -> Iterator[Served]:
    yield Served(node)
    node.remove_pods()


def faults(served: Served, rpc: str) -> Iterator[str]:
    """What is wrong with the answers to one RPC."""
    for name, path, value in cases(rpc):
        request = served.base(rpc)
        set_field(request, path, value)
        made = cgroups.missing(request.config.linux.cgroup_parent) if rpc == "RunPodSandbox" else []
        began = time.monotonic()
        answer = None
        try:
            answer = served.call(rpc, request)
        except grpc.RpcError as error:
            fault = unclear(error.code(), error.details() or "", (grpc.StatusCode.INTERNAL,))
            if fault or error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                yield f"{name}: {fault or 'hangs'}"
        if time.monotonic() - began > SECONDS:
            yield f"{name}: takes {time.monotonic() - began:.0f} s"
        if answer is not None:
            try:
                served.clean(rpc, answer)
            except grpc.RpcError as error:
                yield f"{name}: cannot be removed: {(error.details() or '')[:200]}"
        cgroups.remove(made)
        pods = served.cri.runtime.ListPodSandbox(api_pb2.ListPodSandboxRequest()).items
        if rpc not in ENDING and len(pods) != 1:
            yield f"{name}: leaves {[pod.id for pod in pods]}"
            return


_WAITING = ("GetContainerEvents", "ImageFsInfo", "RemoveImage")
"""One answers when something happens; one has no fields; one removes what the others need."""


@pytest.mark.parametrize("rpc", [rpc for rpc in RPCS if rpc not in _WAITING])
def test_extremes(served: Served, node: Node, rpc: str) -> None:
    before = Holdings.now()
    assert list(faults(served, rpc)) == []
    if rpc not in ENDING:
        assert Holdings.now().since(before) == {}
    assert "Traceback" not in node.log()
