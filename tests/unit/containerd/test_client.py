"""The containerd client against a small daemon that goes away and comes back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.empty_pb2 import Empty
from grpc import aio

from generated.containerd import (
    introspection_pb2,
    introspection_pb2_grpc,
    rpc_status_pb2,
    runc_options_pb2,
    snapshots_pb2_grpc,
    version_pb2,
    version_pb2_grpc,
)
from generated.oci import types
from runtime.containerd import capabilities, values
from runtime.containerd import client as containerd
from runtime.containerd.client import Containerd
from runtime.containerd.deletions import remove_snapshot
from runtime.errors import Unknown
from tests.harness.waiting import PATIENCE, until


def plugin(kind: str, name: str, **fields: Any) -> introspection_pb2.Plugin:
    return introspection_pb2.Plugin(type=f"io.containerd.{kind}.v1", id=name, **fields)


class Daemon(
    introspection_pb2_grpc.IntrospectionServicer,
    version_pb2_grpc.VersionServicer,
    snapshots_pb2_grpc.SnapshotsServicer,
):
    """Implements introspection, version and the removal of snapshots, and records the metadata of
    every call."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.tells_runtimes = False
        self.metadata: list[dict[str, str]] = []
        self.plugins = [
            plugin("snapshotter", "overlayfs", exports={"root": "/r"}, capabilities=["rebase"]),
            plugin("snapshotter", "zfs", init_err=rpc_status_pb2.Status(message="no zfs")),
            plugin("grpc", "content"),
        ]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        server = aio.server()
        introspection_pb2_grpc.add_IntrospectionServicer_to_server(self, server)
        version_pb2_grpc.add_VersionServicer_to_server(self, server)
        snapshots_pb2_grpc.add_SnapshotsServicer_to_server(self, server)
        server.add_insecure_port(self.address)
        await server.start()
        try:
            yield
        finally:
            await server.stop(0)

    def _note(self, context: Any) -> None:
        self.metadata.append(dict(context.invocation_metadata()))

    async def Plugins(self, request: Any, context: Any) -> introspection_pb2.PluginsResponse:
        self._note(context)
        return introspection_pb2.PluginsResponse(plugins=self.plugins)

    async def PluginInfo(self, request: Any, context: Any) -> introspection_pb2.PluginInfoResponse:
        known = grpc.StatusCode.NOT_FOUND
        await context.abort(known if self.tells_runtimes else grpc.StatusCode.UNIMPLEMENTED, "")
        raise AssertionError

    async def Remove(self, request: Any, context: Any) -> Empty:
        self._note(context)
        return Empty()

    async def Version(self, request: Any, context: Any) -> version_pb2.VersionResponse:
        self._note(context)
        return version_pb2.VersionResponse(version="9.9")


@pytest.fixture
def daemon(tmp_path: Path) -> Daemon:
    return Daemon(f"unix://{tmp_path}/containerd.sock")


@pytest.fixture
async def client(daemon: Daemon) -> AsyncIterator[Containerd]:
    made = await Containerd.connect(daemon.address)
    yield made
    await made.close()


async def test_every_call_carries_the_namespace(daemon: Daemon, client: Containerd) -> None:
    async with daemon.running():
        assert await containerd.daemon_version(client) == "9.9"
        await client.version.Version(Empty(), metadata=client.with_lease("l1"))
    plain, leased = daemon.metadata
    assert plain["containerd-namespace"] == leased["containerd-namespace"] == "k8s.io"
    assert leased["containerd-lease"] == "l1"


async def test_a_snapshot_is_removed_in_the_namespace_with_and_without_a_lease(
    daemon: Daemon, client: Containerd
) -> None:
    async with daemon.running():
        await remove_snapshot(client, "overlayfs", "key")
        await remove_snapshot(client, "overlayfs", "key", lease=client.with_lease("l1"))
    plain, leased = daemon.metadata
    assert plain["containerd-namespace"] == leased["containerd-namespace"] == "k8s.io"
    assert "containerd-lease" not in plain and leased["containerd-lease"] == "l1"


async def test_capabilities_are_those_that_were_loaded(daemon: Daemon, client: Containerd) -> None:
    async with daemon.running():
        await client.wait_ready()
    able = client.capabilities
    assert able.snapshotters.keys() == {"overlayfs"}
    assert able.snapshotters["overlayfs"].root == "/r"
    assert able.snapshotters["overlayfs"].capabilities == {"rebase"}
    assert able.services == {"content"}
    assert not able.runtime_info
    assert not able.builtin_cri


@pytest.mark.parametrize(
    ("others", "root"),
    [
        ([], "/var/lib/containerd/io.containerd.snapshotter.v1.proxied"),
        (
            [
                ("metadata", "bolt", {}),
                ("content", "content", {"root": "/d/io.containerd.content.v1.content"}),
            ],
            "/d/io.containerd.snapshotter.v1.proxied",
        ),
    ],
)
async def test_directory_of_a_snapshotter_that_does_not_report_it(
    daemon: Daemon, client: Containerd, others: list[Any], root: str
) -> None:
    """The kubelet measures the disk of images by this path."""
    daemon.plugins = [plugin("snapshotter", "proxied")]
    daemon.plugins += [plugin(kind, name, exports=exports) for kind, name, exports in others]
    async with daemon.running():
        await client.wait_ready()
    assert client.capabilities.snapshotters["proxied"].root == root


async def test_newer_daemons_report_runtime_features(daemon: Daemon, client: Containerd) -> None:
    daemon.tells_runtimes = True
    async with daemon.running():
        await client.wait_ready()
    assert client.capabilities.runtime_info


@pytest.mark.parametrize(
    ("kind", "name", "whole", "parts"),
    [("grpc", "cri", True, False), ("cri", "images", False, True), ("cri", "runtime", False, True)],
)
async def test_an_enabled_built_in_plugin_is_detected(
    daemon: Daemon, client: Containerd, kind: str, name: str, whole: bool, parts: bool
) -> None:
    daemon.plugins.append(plugin(kind, name))
    async with daemon.running():
        await client.wait_ready()
    able = client.capabilities
    assert (able.builtin_cri, able.builtin_cri_parts) == (whole, parts)


def test_the_remedy_disables_every_part_of_the_built_in_plugin() -> None:
    assert all(f'"{name}"' in capabilities.BUILTIN_CRI_OFF for name in capabilities.BUILTIN_CRI)


async def test_a_missing_daemon_is_waited_for(daemon: Daemon, client: Containerd) -> None:
    waiting = asyncio.create_task(client.wait_ready())
    await asyncio.sleep(0.1)
    assert not client.connected
    assert not waiting.done()
    async with daemon.running(), asyncio.timeout(PATIENCE):
        await waiting
    assert client.connected


async def test_a_daemon_that_goes_away_is_detected_and_reconciled_with(
    daemon: Daemon, client: Containerd
) -> None:
    caught_up: list[bool] = []

    async def back() -> None:
        caught_up.append(client.connected)
        if len(caught_up) == 1:
            raise Unknown("not yet")

    async with daemon.running():
        await client.wait_ready()
        watching = asyncio.create_task(client.watch(back))
        await asyncio.sleep(0.05)
        assert client.connected
    await until(lambda: not client.connected)
    async with daemon.running():
        await until(lambda: client.connected)
    watching.cancel()
    # The first attempt failed and was repeated; the daemon was not reported as ready before.
    assert caught_up == [False, False]


def test_any_messages_have_the_names_that_containerd_knows() -> None:
    options = runc_options_pb2.Options(systemd_cgroup=True)
    packed = values.proto_any(options)
    assert packed.type_url == "containerd.runc.v1.Options"
    assert runc_options_pb2.Options.FromString(packed.value) == options
    spec = values.oci_any(types.Spec(hostname="h"))
    assert spec.type_url == "types.containerd.io/opencontainers/runtime-spec/1/Spec"
    assert b'"hostname":"h"' in spec.value
