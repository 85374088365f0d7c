"""Every field of every request at its extremes, on a server in memory: a clear error or correct
work, soon, and nothing half made."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import structlog

from generated.cri import api_pb2
from generated.handlers.image_service import ImageService
from generated.handlers.runtime_service import RuntimeService
from runtime.frame import Frame
from tests.crashpoints import kubelet
from tests.crashpoints.machine import Life, Machine, Refused, _Context
from tests.crashpoints.points import quiet
from tests.extremes.cases import ENDING, RPCS, SERVICES, cases, message_of, set_field, unclear

from .fakes import Operations

SECONDS = 5
"""The longest that an answer may take, on a busy machine."""
_INTERNAL = (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)


class Served:
    """A server in memory with one pod and a running container in it. The operations on images,
    statistics, streams and the node are made up: of those RPCs, only what precedes the work is
    tried."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.life = Life(self.machine)
        self.operations = Operations()
        server = self.life.server
        frame = Frame(
            closed=lambda: None,
            observe=lambda *_: None,
            log=structlog.get_logger("cri"),
            debugging=False,
        )
        every: Any = self.operations
        every.any = lambda *_: _Nothing()

        def runtime(containers: Any) -> Any:
            return RuntimeService(
                frame=frame,
                find_container=server.store.containers,
                find_sandbox=server.store.sandboxes,
                containers=containers,
                sandboxes=server.sandboxes,
                events=every,
                node=every,
                stats=every,
                streaming=every,
            )

        self._runtime = runtime(server.containers)
        self._made_up = runtime(every)
        self._images: Any = ImageService(frame=frame, images=every)
        self.pod = self.call("RunPodSandbox", self._base("RunPodSandbox")).pod_sandbox_id
        self.container = self.call("CreateContainer", self._base("CreateContainer")).container_id
        self.call("StartContainer", api_pb2.StartContainerRequest(container_id=self.container))

    def call(self, rpc: str, request: Any) -> Any:
        """The answer of an RPC; raises Refused with the code."""
        service = self._made_up if rpc in ("ExecSync", "CheckpointContainer") else self._runtime
        if rpc in SERVICES["ImageService"].methods_by_name:
            service = self._images
        answer = getattr(service, rpc)(request, _Context())
        if hasattr(answer, "__aiter__"):
            return self.life.run(_first(answer))
        return self.life.run(answer)

    def base(self, rpc: str) -> Any:
        """A request that is served, for another object than those that are there."""
        request = self._base(rpc)
        if rpc == "RunPodSandbox":
            request.config.metadata.uid = "other"
        if rpc == "CreateContainer":
            request.config.metadata.name = "other"
        return request

    def _base(self, rpc: str) -> Any:
        request = message_of(rpc)()
        if rpc == "RunPodSandbox":
            request.config.CopyFrom(kubelet.pod_config())
        if rpc == "CreateContainer":
            request.pod_sandbox_id = self.pod
            request.config.CopyFrom(kubelet.container_config())
        for name, given in (
            ("container_id", "container"),
            ("pod_sandbox_id", "pod"),
        ):
            if name in request.DESCRIPTOR.fields_by_name and hasattr(self, given):
                setattr(request, name, getattr(self, given))
        return request

    def clean(self, rpc: str, answer: Any) -> None:
        """Remove what a served request made."""
        if rpc == "CreateContainer":
            identity = answer.container_id
            self.call("RemoveContainer", api_pb2.RemoveContainerRequest(container_id=identity))
        if rpc == "RunPodSandbox":
            identity = answer.pod_sandbox_id
            self.call("StopPodSandbox", api_pb2.StopPodSandboxRequest(pod_sandbox_id=identity))
            self.call("RemovePodSandbox", api_pb2.RemovePodSandboxRequest(pod_sandbox_id=identity))


class _Nothing:
    """An answer whose lists are empty."""

    def __getattr__(self, name: str) -> list[Any]:
        return []


async def _first(answers: Any) -> Any:
    async for answer in answers:
        return answer
    return None


def faults(served: Served, rpc: str) -> Iterator[str]:
    """What is wrong with the answers to one RPC."""
    before = served.machine.holdings
    for name, path, value in cases(rpc):
        request = served.base(rpc)
        set_field(request, path, value)
        began = time.monotonic()
        answer = None
        try:
            answer = served.call(rpc, request)
        except Refused as error:
            fault = unclear(error.code, str(error).partition(": ")[2], _INTERNAL)
            if fault:
                yield f"{name}: {fault}"
        except BaseException as error:  # what the frame lets through
            yield f"{name}: {error!r:.200}"
        if time.monotonic() - began > SECONDS:
            yield f"{name}: takes {time.monotonic() - began:.1f} s"
        if answer is not None:
            served.clean(rpc, answer)
        if rpc not in ENDING and served.machine.holdings != before:
            yield f"{name}: leaves {served.machine.holdings}"
            return


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    quiet()
    machine = Machine(tmp_path)
    with machine.in_place():
        made = Served(machine)
        yield made
        made.life.discard()
    structlog.reset_defaults()


@pytest.mark.parametrize("rpc", RPCS)
def test_extremes(served: Served, rpc: str) -> None:
    assert list(faults(served, rpc)) == []
