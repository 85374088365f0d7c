"""RunPodSandbox: what runs in parallel, and that every failure undoes everything."""

from __future__ import annotations

import asyncio
import errno
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from generated.cri import api_pb2
from generated.lifecycle import SandboxState
from generated.oci import types
from generated.plans import RunPodSandboxPlan
from runtime.containerd.runtime_options import stored_options
from runtime.errors import CriError, FailedPrecondition, InvalidArgument, Unavailable
from runtime.linux import kernel, netns, userns
from runtime.lookups.handlers import Handlers
from runtime.sandboxes import files as sandbox_files
from runtime.sandboxes import run as sandbox_run
from runtime.sandboxes import unfinished
from runtime.sandboxes.services import Services
from runtime.store import records
from runtime.transforms import facts, sysctls

from .fakes import World, run_request

NOTHING: set[str] = set()


@pytest.fixture
def namespaces(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The existing network namespaces; none is real."""
    existing: set[str] = set()

    async def create(path: str) -> str:
        existing.add(path)
        return path

    async def remove(path: str) -> None:
        existing.discard(path)

    monkeypatch.setattr(netns, "create", create)
    monkeypatch.setattr(netns, "remove", remove)
    return existing


@pytest.fixture
async def world(tmp_path: Path, namespaces: set[str]) -> World:
    return World(tmp_path)


async def test_a_pod_becomes_ready(world: World) -> None:
    answer = await sandbox_run.run(world.services, run_request())
    sandbox = world.store.sandboxes.get(answer.pod_sandbox_id)
    assert sandbox is not None
    assert (sandbox.state, sandbox.status.pid) == (SandboxState.READY, 7)
    assert (sandbox.metadata.ip, sandbox.metadata.additional_ips) == ("10.0.0.2", ("fd00::2",))
    assert files_in(sandbox.files.root_dir) == {
        "hostname": "node\n",
        "hosts": files_in("/etc")["hosts"],
        "resolv.conf": "nameserver 10.0.0.10\n",
    }
    record = world.containerd.records[sandbox.id]
    saved = records.sandbox_metadata(record.extensions[records.SANDBOX_EXTENSION].value)
    assert saved == sandbox.metadata


SELINUX = facts.SelinuxPolicy(process="u:r:container_t:s0", file="u:object_r:container_file_t:s0")


async def test_a_pod_has_a_selinux_level_of_its_own(tmp_path: Path, namespaces: set[str]) -> None:
    world = World(tmp_path, SELINUX)
    answer = await sandbox_run.run(world.services, run_request())
    sandbox = world.store.sandboxes.get(answer.pod_sandbox_id)
    assert sandbox is not None
    label = sandbox.metadata.process_label
    level = label.removeprefix("u:r:container_t:")
    spec = types.Spec.from_json(world.containerd.records[sandbox.id].spec.value)
    assert spec.process.selinuxLabel == label and level.startswith("s0:c")
    assert spec.linux.mountLabel == f"u:object_r:container_file_t:{level}"
    assert world.services.levels._used() == {level}


async def test_a_pod_that_fails_leaves_its_selinux_level_free(
    tmp_path: Path, namespaces: set[str]
) -> None:
    world = World(tmp_path, SELINUX)
    world.network.fail.add("ADD")
    with pytest.raises(CriError):
        await sandbox_run.run(world.services, run_request())
    assert world.services.levels._used() == set()


async def test_a_namespace_is_recorded_before_it_is_made(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded: list[str] = []

    def note() -> facts.SandboxMetadata:
        (directory,) = world.directories
        return records.sandbox_metadata(Path(directory, unfinished.NAME).read_bytes())

    async def create(path: str) -> str:
        recorded.append(note().netns_path)
        assert recorded == [path]
        return path

    monkeypatch.setattr(netns, "create", create)
    await sandbox_run.run(world.services, run_request())
    assert recorded


async def test_the_network_is_set_up_in_parallel_with_the_task(world: World) -> None:
    world.containerd.hold["tasks.Create"] = asyncio.Event()
    run = asyncio.ensure_future(sandbox_run.run(world.services, run_request()))
    await world.containerd.called("containers.Update")
    assert "tasks.Start" not in world.containerd.calls
    world.containerd.hold["tasks.Create"].set()
    await run


async def test_the_wait_is_issued_before_the_start(world: World) -> None:
    await sandbox_run.run(world.services, run_request())
    calls = world.containerd.calls
    assert calls.index("tasks.Wait") < calls.index("tasks.Start")


async def test_an_interface_sysctl_waits_for_the_interface(world: World) -> None:
    request = run_request()
    request.pod_config.linux.sysctls["net.ipv4.conf.eth0.arp_filter"] = "1"
    world.network.fail.add("ADD")
    with pytest.raises(CriError):
        await sandbox_run.run(world.services, request)
    assert "tasks.Create" not in world.containerd.calls


@pytest.mark.parametrize(
    ("key", "named"),
    [
        ("net.ipv4.conf.eth0.arp_filter", True),
        ("net/ipv6/conf/eth1/disable_ipv6", True),
        ("net.ipv4.neigh.eth0.gc_stale_time", True),
        ("net.ipv4.conf.all.arp_filter", False),
        ("net.ipv6.conf.default.disable_ipv6", False),
        ("net.ipv4.conf.lo.arp_filter", False),
        ("net.ipv4.ip_forward", False),
        ("kernel.shm_rmid_forced", False),
    ],
)
def test_which_sysctls_name_an_interface(key: str, named: bool) -> None:
    assert sysctls.names_interface(sysctls={key: "1"}) is named


async def test_a_pod_on_the_nodes_network_needs_no_cni(world: World, namespaces: set[str]) -> None:
    world.network.not_ready = "no config"
    answer = await sandbox_run.run(world.services, run_request(api_pb2.NODE))
    sandbox = world.store.sandboxes.get(answer.pod_sandbox_id)
    assert sandbox is not None
    assert sandbox.metadata.netns_path == ""
    assert (world.network.calls, namespaces) == ([], set())


@pytest.mark.parametrize(
    "call",
    [
        "leases.Create",
        "snapshots.Prepare",
        "containers.Create",
        "containers.Update",
        "tasks.Create",
        "tasks.Start",
    ],
)
async def test_a_failing_call_undoes_everything(
    world: World, namespaces: set[str], call: str
) -> None:
    world.containerd.fail[call] = grpc.StatusCode.INTERNAL
    with pytest.raises(CriError, match="told to fail"):
        await sandbox_run.run(world.services, run_request())
    assert_nothing_is_left(world, namespaces)
    del world.containerd.fail[call]
    await sandbox_run.run(world.services, run_request())


async def test_a_full_disk_is_named_and_undoes_everything(
    world: World, namespaces: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(files: facts.SandboxFiles, metadata: facts.SandboxMetadata) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(unfinished, "write", write)
    with pytest.raises(Unavailable, match=r"files are below .*: No space left on device"):
        await sandbox_run.run(world.services, run_request())
    assert not world.directories
    assert namespaces == NOTHING


async def test_a_hosts_file_of_the_node_that_is_no_file_is_named(
    world: World, namespaces: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fifo = tmp_path / "hosts"
    os.mkfifo(fifo)
    monkeypatch.setattr(sandbox_files, "_HOST_HOSTS", fifo)
    with pytest.raises(Unavailable, match=rf"{fifo}: it is not a regular file"):
        await sandbox_run.run(world.services, run_request())
    assert not world.directories
    assert namespaces == NOTHING


async def test_a_failing_network_undoes_everything(world: World, namespaces: set[str]) -> None:
    world.network.fail.add("ADD")
    with pytest.raises(CriError, match="told to fail"):
        await sandbox_run.run(world.services, run_request())
    assert world.network.calls == ["ADD", "DEL strict"]
    assert_nothing_is_left(world, namespaces)


async def test_a_client_that_disconnects_undoes_everything(
    world: World, namespaces: set[str]
) -> None:
    world.network.hang = True
    run = asyncio.ensure_future(sandbox_run.run(world.services, run_request()))
    await world.containerd.called("tasks.Start")
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert_nothing_is_left(world, namespaces)


async def test_a_pod_that_cannot_be_undone_stays_listed(world: World, namespaces: set[str]) -> None:
    world.network.fail = {"ADD", "DEL"}
    with pytest.raises(CriError):
        await sandbox_run.run(world.services, run_request())
    (kept,) = world.store.sandboxes
    assert kept.state is SandboxState.UNKNOWN
    assert kept.metadata.netns_path in namespaces
    with pytest.raises(FailedPrecondition, match=kept.id):
        await sandbox_run.run(world.services, run_request())


async def test_a_pod_that_stays_listed_keeps_its_addresses(world: World) -> None:
    """Stop then requires a successful CNI DEL."""
    world.containerd.fail["tasks.Start"] = grpc.StatusCode.INTERNAL
    world.containerd.fail["snapshots.Remove"] = grpc.StatusCode.INTERNAL
    with pytest.raises(CriError):
        await sandbox_run.run(world.services, run_request())
    (kept,) = world.store.sandboxes
    assert (kept.metadata.ip, kept.metadata.cni_result) == ("10.0.0.2", {"Interfaces": {}})


async def test_recovery_undoes_a_pod_as_the_rollback_does(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    undone: list[unfinished.Part] = []
    known: list[facts.SandboxMetadata] = []
    undo_part = unfinished.undo_part

    async def noted(remains: unfinished.Remains, part: unfinished.Part) -> None:
        undone.append(part)
        known.append(remains.metadata)
        await undo_part(remains, part)

    monkeypatch.setattr(unfinished, "undo_part", noted)
    world.containerd.fail["tasks.Start"] = grpc.StatusCode.INTERNAL
    with pytest.raises(CriError):
        await sandbox_run.run(world.services, run_request())
    by_rollback, undone[:] = list(undone), []
    await unfinished.undo(unfinished.Remains(world.services, known[0]))
    assert by_rollback == undone == list(reversed(unfinished.Part))


async def test_a_repeated_request_is_refused_with_the_holder(world: World) -> None:
    answer = await sandbox_run.run(world.services, run_request())
    with pytest.raises(FailedPrecondition, match=f'reserved for "{answer.pod_sandbox_id}"'):
        await sandbox_run.run(world.services, run_request())


async def test_a_missing_network_is_refused_before_anything_is_made(
    world: World, namespaces: set[str]
) -> None:
    world.network.not_ready = "no config in /etc/cni/net.d"
    with pytest.raises(Unavailable, match=r"no config in /etc/cni/net\.d"):
        await sandbox_run.run(world.services, run_request())
    assert world.containerd.calls == []
    assert_nothing_is_left(world, namespaces)


async def test_an_unknown_handler_names_the_known(world: World) -> None:
    request = replace(run_request(), runtime_handler="kata")
    with pytest.raises(InvalidArgument, match="use one of: runc"):
        await sandbox_run.run(world.services, request)


def files_in(directory: str) -> dict[str, str]:
    """The text files there by name, without notes of unfinished creations."""
    return {
        path.name: path.read_text(errors="replace")
        for path in Path(directory).iterdir()
        if path.is_file()
    }


def assert_nothing_is_left(world: World, namespaces: set[str]) -> None:
    assert world.containerd.holdings == NOTHING
    assert (world.network.attached, namespaces, world.directories) == (set(), set(), [])
    assert len(world.store.sandboxes) == 0
    assert world.store.names.holder("pod_ns_u_1") is None


# User namespaces


def in_user_namespace(**others: Any) -> RunPodSandboxPlan:
    request = run_request()
    uids = [api_pb2.IDMapping(host_id=100000, length=65536)]
    gids = [api_pb2.IDMapping(host_id=200000, length=65536)]
    users = api_pb2.UserNamespace(mode=api_pb2.POD, uids=uids, gids=gids)
    request.pod_config.linux.security_context.namespace_options.CopyFrom(
        api_pb2.NamespaceOption(userns_options=users, **others)
    )
    return request


def offering(world: World, problem: str = "") -> Services:
    """The services, with a handler that offers user namespaces or says why it does not."""
    handler = facts.Handler(name="runc", user_namespaces_problem=problem)
    return replace(world.services, handlers=Handlers(handler))


@pytest.fixture
def tmpfs(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What would be mounted for /dev/shm."""
    mounted: list[Any] = []
    monkeypatch.setattr(kernel, "mount_tmpfs", lambda *arguments: mounted.append(arguments))
    return mounted


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
async def test_a_user_namespace_owns_everything_of_its_pod(
    world: World, monkeypatch: pytest.MonkeyPatch, tmpfs: list[Any]
) -> None:
    created: list[Any] = []

    async def create(*arguments: Any) -> None:
        created.extend(arguments)

    monkeypatch.setattr(userns, "create", create)
    answer = await sandbox_run.run(offering(world), in_user_namespace())
    sandbox = world.store.sandboxes.get(answer.pod_sandbox_id)
    assert sandbox is not None
    files = sandbox.files
    maps = userns.MapLines("0 100000 65536", "0 200000 65536")
    assert created == [sandbox.metadata.netns_path, files.userns, maps]
    assert files.userns == f"{files.state_dir}/pinned-namespaces/user"
    for path in (files.hostname, files.hosts, files.resolv_conf):
        assert (os.stat(path).st_uid, os.stat(path).st_gid) == (100000, 200000)
    assert tmpfs == [(files.shm, 64 << 20, (100000, 200000))]
    record = world.containerd.records[sandbox.id]
    spec = types.Spec.from_json(record.spec.value)
    assert {one.type: one.path for one in spec.linux.namespaces or []}["user"] == files.userns
    assert spec.linux.uidMappings == [types.LinuxIDMapping(0, 100000, 65536)]
    options = stored_options(record.runtime)
    assert options is not None
    # of the pause image, whose user is 1
    assert (options.io_uid, options.io_gid) == (100001, 200001)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
async def test_on_the_nodes_network_the_oci_runtime_makes_the_user_namespace(
    world: World, tmpfs: list[Any]
) -> None:
    answer = await sandbox_run.run(offering(world), in_user_namespace(network=api_pb2.NODE))
    sandbox = world.store.sandboxes.get(answer.pod_sandbox_id)
    assert sandbox is not None
    assert sandbox.files.userns == ""
    spec = types.Spec.from_json(world.containerd.records[sandbox.id].spec.value)
    assert [one for one in spec.linux.namespaces or [] if one.type == "user"] == [
        types.LinuxNamespace(type="user")
    ]


async def test_a_handler_without_user_namespaces_says_why_before_anything_is_made(
    world: World,
) -> None:
    with pytest.raises(InvalidArgument, match=r"userns_options: .* user namespaces: old runc"):
        await sandbox_run.run(offering(world, "old runc"), in_user_namespace())
    assert (world.containerd.calls, world.directories) == ([], [])


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
async def test_a_node_that_makes_no_user_namespace_leaves_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(Unavailable, match="no program unshare; install util-linux"):
        await sandbox_run.run(offering(world), in_user_namespace())
    assert (world.directories, world.containerd.records) == ([], {})
