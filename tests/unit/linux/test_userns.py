"""User namespaces, and changing the owners of root file systems (these tests need root, but no
containerd)."""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
import struct
from functools import partial
from pathlib import Path

import pytest

from generated.containerd import types_pb2
from runtime.linux import kernel, mountinfo, netns, owners, userns
from runtime.lookups.snapshot import mount_writable

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

IDS = userns.MapLines("0 100000 65536", "0 200000 65536")
NS_GET_USERNS = 0xB701


def owner_of(namespace: str) -> int:
    """The inode of the user namespace that a namespace belongs to."""
    with open(namespace, "rb") as file:
        descriptor = fcntl.ioctl(file, NS_GET_USERNS)
    try:
        return os.fstat(descriptor).st_ino
    finally:
        os.close(descriptor)


def files_below(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.rglob("*") if not path.is_dir())


def children() -> set[str]:
    return set(Path("/proc/thread-self/children").read_text().split())


async def test_the_network_namespace_belongs_to_the_user_namespace(tmp_path: Path) -> None:
    before = children()
    network, users = netns.new_path(str(tmp_path)), str(tmp_path / "state/user")
    await userns.create(network, users, IDS)
    assert netns.is_alive(network)
    assert owner_of(network) == os.stat(users).st_ino != os.stat("/proc/self/ns/user").st_ino
    parameter = "/proc/sys/net/ipv4/ip_forward"
    assert await netns.inside(network, lambda: os.stat(parameter).st_uid) == 100000
    assert children() == before

    def interfaces() -> list[str]:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
            one.connect(("127.0.0.1", 9))  # loopback is up
            return [name for _, name in socket.if_nameindex()]

    assert await netns.inside(network, interfaces) == ["lo"]
    for pin in (users, network):
        netns.unpin(pin)
    assert files_below(tmp_path) == []
    assert mountinfo.below(str(tmp_path), mountinfo.read()) == []


@pytest.mark.parametrize("ids", ["0 4294967290 100", "none"])
async def test_ids_that_the_kernel_refuses_leave_nothing(tmp_path: Path, ids: str) -> None:
    with pytest.raises(OSError, match=f"cannot map the uids of a user namespace to {ids}: Invalid"):
        await userns.create(
            str(tmp_path / "net"), str(tmp_path / "user"), userns.MapLines(ids, IDS.gids)
        )
    assert files_below(tmp_path) == []


async def test_a_failed_second_pin_removes_the_first(tmp_path: Path) -> None:
    (tmp_path / "user").touch()
    with pytest.raises(FileExistsError):
        await userns.create(str(tmp_path / "net"), str(tmp_path / "user"), IDS)
    assert files_below(tmp_path) == ["user"]
    assert mountinfo.below(str(tmp_path), mountinfo.read()) == []


async def test_a_failure_has_the_message_of_unshare(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "unshare"
    program.write_text("#!/bin/sh\necho 'unshare failed: No space left on device' >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(OSError, match=r"No space left on device \(is /proc/sys/user/max_user_"):
        await userns.create(str(tmp_path / "net"), str(tmp_path / "user"), IDS)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(OSError, match="no program unshare; install util-linux"):
        await asyncio.to_thread(lambda: userns.held(IDS).__enter__())


def test_a_namespace_ends_with_its_block() -> None:
    before = children()
    with userns.held(IDS) as namespace:
        assert os.stat(namespace).st_ino != os.stat("/proc/self/ns/user").st_ino
        uids = Path(namespace).parent.parent / "uid_map"
        assert uids.read_text().split() == ["0", "100000", "65536"]
    assert not os.path.exists(namespace)
    assert children() == before


def test_a_file_system_without_idmapped_mounts(tmp_path: Path) -> None:
    with userns.held(IDS) as namespace, open(namespace, "rb") as file:
        kernel.try_idmap(str(tmp_path), file.fileno())
        with pytest.raises(OSError, match="cannot map the IDs of a mount of /proc"):
            kernel.try_idmap("/proc", file.fileno())
        with pytest.raises(FileNotFoundError):
            kernel.try_idmap(str(tmp_path / "none"), file.fileno())


# Owners


def shifted(uid: int, gid: int) -> tuple[int, int]:
    return uid + 100000, gid + 200000


def owned(path: Path) -> tuple[int, int]:
    found = path.lstat()
    return found.st_uid, found.st_gid


async def test_all_files_of_an_overlay_change_owners_and_nothing_stays_mounted(
    tmp_path: Path,
) -> None:
    lower = [tmp_path / f"layers/{number}/fs" for number in range(150)]
    for directory in lower:
        directory.mkdir(parents=True)
    (lower[7] / "sub").mkdir()
    (lower[7] / "sub/file").write_text("content")
    os.chown(lower[7] / "sub/file", 33, 44)
    (lower[9] / "sub").mkdir()
    (lower[9] / "sub/escape").symlink_to(tmp_path / "outside")
    (tmp_path / "outside").write_text("of the node")
    upper, work, target = (tmp_path / name for name in ("upper", "work", "target"))
    for directory in (upper, work, target):
        directory.mkdir()
    paths = ":".join(map(str, lower))
    assert len(paths) > 4096  # more than the kernel accepts
    options = ["index=off", f"workdir={work}", f"upperdir={upper}", f"lowerdir={paths}"]
    here = os.getcwd()
    mount = types_pb2.Mount(type="overlay", source="overlay", options=options)
    await owners.change(partial(mount_writable, [mount], str(target)), str(target), shifted)
    assert owned(upper / "sub/file") == (100033, 200044)
    assert owned(upper / "sub") == owned(upper / "sub/escape") == (100000, 200000)
    assert (upper / "sub/file").read_text() == "content"
    assert owned(tmp_path / "outside") == (0, 0)
    assert mountinfo.below(str(tmp_path), mountinfo.read()) == []
    assert os.listdir(target) == []
    assert os.getcwd() == here


def test_a_file_keeps_its_set_id_bits_and_capabilities(tmp_path: Path) -> None:
    suid, capable = tmp_path / "suid", tmp_path / "capable"
    for file in (suid, capable):
        file.write_text("")
    suid.chmod(0o6755)
    # cap_net_raw, permitted and effective, revision 2
    os.setxattr(capable, "security.capability", struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0))
    for file in (suid, capable):
        owners.change_one(str(file), shifted)
    assert suid.stat().st_mode & 0o7777 == 0o6755
    assert owned(suid) == owned(capable) == (100000, 200000)
    seen = struct.unpack("<6I", os.getxattr(capable, "security.capability"))
    assert seen == (0x03000001, 1 << 13, 0, 0, 0, 100000)
