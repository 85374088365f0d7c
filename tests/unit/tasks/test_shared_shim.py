"""Pods are announced to daemons with a sandbox store, and the record is deleted with the pod."""

from __future__ import annotations

from typing import Any, cast

import grpc
import pytest
from grpc import aio

from generated.cri import api_pb2
from runtime.containerd.capabilities import Capabilities
from runtime.containerd.client import Containerd
from runtime.store import records
from runtime.tasks import shared_shim
from runtime.transforms import facts
from tests.unit.sandboxes.fakes import FakeContainerd, rpc_error

POD = facts.SandboxMetadata(id="pod", name="a_b_c_0", config=api_pb2.PodSandboxConfig())


def real(fake: FakeContainerd) -> Containerd:
    return cast(Containerd, fake)


async def test_a_pod_is_announced_and_withdrawn() -> None:
    daemon = FakeContainerd()
    await shared_shim.announce(real(daemon), facts.Handler(name="runc"), POD)
    assert daemon.announced == {"pod"}
    for _ in range(2):  # a deleted record stays deleted
        await shared_shim.withdraw(real(daemon), "pod")
    assert daemon.announced == set()


async def test_the_record_is_that_of_the_builtin_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    daemon = FakeContainerd()
    seen: list[Any] = []
    monkeypatch.setattr(daemon, "sandboxes_create", seen.append)
    await shared_shim.announce(real(daemon), facts.Handler(name="runc"), POD)
    (request,) = seen
    assert request.sandbox.sandboxer == "podsandbox"
    assert request.sandbox.runtime.name == "io.containerd.runc.v2"
    assert records.sandbox_metadata(request.sandbox.extensions["metadata"].value) == POD


async def test_announcing_again_succeeds() -> None:
    daemon = FakeContainerd()
    daemon.fail["sandboxes.Create"] = grpc.StatusCode.ALREADY_EXISTS
    await shared_shim.announce(real(daemon), facts.Handler(name="runc"), POD)
    daemon.fail["sandboxes.Create"] = grpc.StatusCode.UNAVAILABLE
    with pytest.raises(aio.AioRpcError):
        await shared_shim.announce(real(daemon), facts.Handler(name="runc"), POD)


async def test_a_daemon_without_a_sandbox_store_is_not_called() -> None:
    daemon = FakeContainerd()
    daemon.capabilities = Capabilities()
    assert not shared_shim.offered(real(daemon))
    await shared_shim.withdraw(real(daemon), "pod")
    assert daemon.calls == []


async def test_the_error_of_containerd_1_7_for_a_missing_record(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    daemon = FakeContainerd()

    def refuse(details: str) -> None:
        def delete(_: object) -> None:
            raise rpc_error(grpc.StatusCode.UNKNOWN, details)

        monkeypatch.setattr(daemon, "sandboxes_delete", delete)

    refuse('failed to delete sandbox "pod": bucket not found')
    await shared_shim.withdraw(real(daemon), "pod")
    refuse("the disk is full")
    with pytest.raises(aio.AioRpcError, match="the disk is full"):
        await shared_shim.withdraw(real(daemon), "pod")
