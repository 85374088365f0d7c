"""Network namespaces and the system calls for them (these tests need root, but no containerd)."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from runtime.linux import kernel, mountinfo, netns
from tests.harness.waiting import until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def namespace_of_thread() -> int:
    return os.stat("/proc/thread-self/ns/net").st_ino


async def test_a_namespace_has_its_loopback_up_and_nothing_else(tmp_path: Path) -> None:
    path = await netns.create(netns.new_path(str(tmp_path)))
    assert re.fullmatch(r"cni-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", Path(path).name)
    assert netns.is_alive(path)

    def talk_over_loopback() -> tuple[list[str], bytes]:
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other,
        ):
            one.bind(("127.0.0.1", 0))
            other.sendto(b"hello", one.getsockname())
            return [name for _, name in socket.if_nameindex()], one.recv(9)

    assert await netns.inside(path, talk_over_loopback) == (["lo"], b"hello")
    await netns.remove(path)
    assert not netns.is_alive(path)
    assert os.listdir(tmp_path) == []


async def test_no_thread_stays_in_a_namespace(tmp_path: Path) -> None:
    before = namespace_of_thread()
    path = await netns.create(netns.new_path(str(tmp_path)))
    assert await netns.inside(path, namespace_of_thread) == os.stat(path).st_ino != before
    assert namespace_of_thread() == before
    assert await asyncio.to_thread(namespace_of_thread) == before
    await until(lambda: not [one for one in threading.enumerate() if one.name == "netns"])
    await netns.remove(path)


async def test_remove_is_repeatable_and_takes_what_a_reboot_left(tmp_path: Path) -> None:
    (tmp_path / "cni-left").touch()
    (tmp_path / "cni-replaced").mkdir()
    for name in ("cni-left", "cni-left", "cni-replaced"):
        await netns.remove(str(tmp_path / name))
    await netns.remove("")
    assert os.listdir(tmp_path) == []


async def test_a_file_is_not_a_namespace(tmp_path: Path) -> None:
    (tmp_path / "cni-file").touch()
    assert not netns.is_alive(str(tmp_path / "cni-file"))
    assert not netns.is_alive("")


async def test_a_failure_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(1, "no mounts today")

    monkeypatch.setattr(kernel, "mount", refuse)
    with pytest.raises(OSError, match="no mounts today"):
        await netns.create(netns.new_path(str(tmp_path)))
    assert os.listdir(tmp_path) == []


async def test_a_repeatedly_cancelled_create_ends_before_it_is_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_mount = threading.Event()
    mount = kernel.mount

    def slow_mount(source: str, target: str, **how: Any) -> None:
        may_mount.wait(10)
        mount(source, target, **how)

    monkeypatch.setattr(kernel, "mount", slow_mount)
    path = netns.new_path(str(tmp_path))
    creating = asyncio.create_task(netns.create(path))
    for _ in range(3):
        await asyncio.sleep(0.01)
        creating.cancel()
    assert not creating.done()
    may_mount.set()
    with pytest.raises(asyncio.CancelledError):
        await creating
    assert netns.is_alive(path)
    await netns.remove(path)
    assert os.listdir(tmp_path) == []


def test_mounts_are_listed_deepest_first_and_unmounted_in_that_order(tmp_path: Path) -> None:
    top = tmp_path / "a b"
    top.mkdir()
    kernel.mount_tmpfs(str(top), 1 << 20)
    (top / "deep").mkdir()
    kernel.mount("tmpfs", str(top / "deep"), "tmpfs", kernel.MS_RDONLY)
    kernel.mount_tmpfs(str(top), 1 << 20)  # covers the first
    assert os.statvfs(top).f_blocks * os.statvfs(top).f_frsize == 1 << 20
    assert mountinfo.below(str(top), mountinfo.read()) == [str(top / "deep"), str(top), str(top)]
    kernel.umount2(str(top), kernel.MNT_DETACH)
    with pytest.raises(OSError, match="Read-only file system"):
        (top / "deep/file").touch()
    for point in mountinfo.below(str(top), mountinfo.read()):
        kernel.umount2(point, kernel.MNT_DETACH)
    assert mountinfo.below(str(tmp_path), mountinfo.read()) == []


def test_failures_are_sentences(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=f"cannot unmount {tmp_path}: Invalid argument") as caught:
        kernel.umount2(str(tmp_path))
    assert caught.value.errno == 22
    with pytest.raises(OSError, match="cannot mount nofs x on /nowhere: No such"):
        kernel.mount("x", "/nowhere", "nofs")
    with pytest.raises(OSError, match="cannot enter the namespace: Bad file descriptor"):
        kernel.setns(-1, kernel.CLONE_NEWNET)
