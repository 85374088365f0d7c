"""Every containerd call has a deadline, and all deadlines are in one table."""

from __future__ import annotations

import ast
import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.empty_pb2 import Empty
from grpc import aio

from generated.containerd import (
    containers_pb2_grpc,
    content_pb2_grpc,
    diff_pb2_grpc,
    events_pb2_grpc,
    images_pb2_grpc,
    introspection_pb2_grpc,
    leases_pb2_grpc,
    sandbox_pb2_grpc,
    snapshots_pb2_grpc,
    tasks_pb2_grpc,
    version_pb2,
    version_pb2_grpc,
)
from runtime.containerd import client, deadlines
from runtime.containerd.client import Containerd, Service
from runtime.containerd.deadlines import DEADLINES
from tests.harness.waiting import PATIENCE

STUBS: Mapping[str, Callable[[aio.Channel], object]] = {
    "containers": containers_pb2_grpc.ContainersStub,
    "content": content_pb2_grpc.ContentStub,
    "diff": diff_pb2_grpc.DiffStub,
    "events": events_pb2_grpc.EventsStub,
    "images": images_pb2_grpc.ImagesStub,
    "introspection": introspection_pb2_grpc.IntrospectionStub,
    "leases": leases_pb2_grpc.LeasesStub,
    "sandboxes": sandbox_pb2_grpc.StoreStub,
    "snapshots": snapshots_pb2_grpc.SnapshotsStub,
    "tasks": tasks_pb2_grpc.TasksStub,
    "version": version_pb2_grpc.VersionStub,
}
ENDLESS = {"tasks.Wait", "events.Subscribe"}
"""Calls that end only when something happens."""

RUNTIME = Path(deadlines.__file__).parents[len(deadlines.__name__.split(".")) - 2]


async def test_every_method_of_every_service_has_a_deadline() -> None:
    daemon = await Containerd.connect("unix:///nothing")
    services = {name: part for name, part in vars(daemon).items() if isinstance(part, Service)}
    assert set(services) == set(STUBS) == set(DEADLINES)
    async with aio.insecure_channel("unix:///nothing") as channel:
        for name, stub in STUBS.items():
            methods = set(vars(stub(channel)))
            assert set(DEADLINES[name]) == methods, name
            for method in methods:
                call = getattr(services[name], method)
                assert call.keywords["timeout"] == DEADLINES[name][method]
                assert (call.keywords["timeout"] is None) == (f"{name}.{method}" in ENDLESS)
    await daemon.close()


def containerd_calls() -> Iterator[tuple[Path, ast.Call]]:
    """Every containerd call in the server's own code."""
    for path in sorted(RUNTIME.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(func=ast.Attribute(value=ast.Attribute(attr=service), attr=method)):
                    if service in DEADLINES and method[0].isupper():
                        yield path, node


REQUESTED = {
    # CheckpointContainer has a time limit, and while the container is paused its calls are not
    # cancelled
    "checkpoint.py": 2,
}
"""Calls with a deadline from the request, by file."""


def test_no_call_sets_a_deadline_of_its_own() -> None:
    calls = list(containerd_calls())
    assert len(calls) > 40
    own = Counter(
        path.name
        for path, call in calls
        if any(keyword.arg == "timeout" for keyword in call.keywords)
    )
    assert own == REQUESTED


async def test_a_call_without_a_response_ends_at_its_deadline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Hanging(version_pb2_grpc.VersionServicer):
        async def Version(self, request: Any, context: Any) -> version_pb2.VersionResponse:
            await asyncio.sleep(60)
            raise AssertionError

    monkeypatch.setattr(client, "DEADLINES", {**DEADLINES, "version": {"Version": 0.05}})
    address = f"unix://{tmp_path}/d.sock"
    server = aio.server()
    version_pb2_grpc.add_VersionServicer_to_server(Hanging(), server)
    server.add_insecure_port(address)
    await server.start()
    daemon = await Containerd.connect(address)
    try:
        with pytest.raises(aio.AioRpcError) as failure:
            await asyncio.wait_for(daemon.version.Version(Empty()), PATIENCE)
        assert failure.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    finally:
        await daemon.close()
        await server.stop(0)
