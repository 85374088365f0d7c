"""The pause program that is assembled in memory, and its image."""

from __future__ import annotations

import io
import json
import os
import platform
import shutil
import signal
import struct
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.images import pause
from runtime.images.pause import PauseSource
from tests.harness.waiting import PATIENCE

QEMU_ARM64 = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
SIGTIMEDWAIT = 137 if platform.machine() == "aarch64" else 128
needs_amd64 = pytest.mark.skipif(platform.machine() != "x86_64", reason="the program is for amd64")


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "pause"
    path.write_bytes(pause.program("amd64"))
    path.chmod(0o755)
    return path


@pytest.fixture
def paused(program: Path) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([program])
    yield process
    process.kill()
    process.wait()


def wait_until_it_waits(pid: int) -> None:
    """Return when the process is in its system call rt_sigtimedwait."""
    for _ in range(6000):
        if Path(f"/proc/{pid}/syscall").read_text().startswith(f"{SIGTIMEDWAIT} "):
            return
        time.sleep(0.01)
    raise AssertionError("the program does not wait for signals")


@needs_amd64
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_exits_with_0_on_a_signal(
    paused: subprocess.Popen[bytes], number: signal.Signals
) -> None:
    wait_until_it_waits(paused.pid)
    paused.send_signal(number)
    assert paused.wait(PATIENCE) == 0


@needs_amd64
@pytest.mark.skipif(os.geteuid() != 0, reason="a PID namespace needs root")
def test_as_pid_1_it_reaps_orphans_and_obeys_signals(program: Path) -> None:
    script = f"(sleep 0.05 & sleep 0.1 &) ; exec {program}"
    command = ["unshare", "--fork", "--pid", "--kill-child", "/bin/sh", "-c", script]
    with subprocess.Popen(command) as outer:
        try:
            first = 0
            for _ in range(6000):
                children = Path(f"/proc/{outer.pid}/task/{outer.pid}/children").read_text().split()
                if children and b"pause" in Path(f"/proc/{children[0]}/cmdline").read_bytes():
                    first = int(children[0])
                    break
                time.sleep(0.01)
            assert first
            wait_until_it_waits(first)
            kids = Path(f"/proc/{first}/task/{first}/children")
            for _ in range(6000):
                if not kids.read_text().split():
                    break
                time.sleep(0.01)
            assert kids.read_text().split() == []
            os.kill(first, signal.SIGTERM)
            assert outer.wait(PATIENCE) == 0
        finally:
            outer.kill()


@pytest.mark.parametrize(("architecture", "machine"), [("amd64", 62), ("arm64", 183)])
def test_it_is_a_static_program_of_its_architecture(architecture: str, machine: int) -> None:
    elf = pause.program(architecture)
    kind, found, _, entry, headers_at = struct.unpack_from("<HHIQQ", elf, 16)
    assert elf[:6] == b"\x7fELF\x02\x01"  # 64 bit, little-endian
    assert (kind, found, headers_at) == (2, machine, 64)  # ET_EXEC
    load = struct.unpack_from("<IIQQQQQQ", elf, headers_at)
    assert load == (1, 5, 0, 0x400000, 0x400000, len(elf), len(elf), 0x1000)  # PT_LOAD, r-x
    assert entry == 0x400000 + headers_at + 56


@pytest.mark.skipif(
    platform.machine() != "aarch64" and QEMU_ARM64 is None,
    reason="the program is for arm64, and there is no qemu-aarch64 (Debian's qemu-user)",
)
def test_on_arm64_it_waits_collects_and_ends(tmp_path: Path) -> None:
    path = tmp_path / "pause"
    path.write_bytes(pause.program("arm64"))
    path.chmod(0o755)
    native = platform.machine() == "aarch64"
    with subprocess.Popen([path] if native else [str(QEMU_ARM64), path]) as process:
        try:
            wait_until_it_waits(process.pid)
            process.send_signal(signal.SIGCHLD)  # it has no child: keeps waiting
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.3)
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE) == 0
        finally:
            process.kill()


def test_on_arm64_jumps_are_counted_in_words_from_the_instruction() -> None:
    code = (
        pause.Label("a"),
        b"\x00" * 8,
        pause.WordJump(0x1400_0000, "a", 0, 26),  # b
        pause.WordJump(0x1000_0001, "b", 5, 19),  # adr x1
        pause.Label("b"),
    )
    assert struct.unpack("<4I", pause.assembled(code))[2:] == (0x17FF_FFFE, 0x1000_0021)


def test_jumps_are_counted_from_the_next_instruction() -> None:
    code = (
        pause.Label("a"),
        b"\x90",
        pause.Jump(b"\xeb", "b", 1),
        pause.Jump(b"\xeb", "a", 1),
        pause.Label("b"),
    )
    assert pause.assembled(code) == b"\x90\xeb\x02\xeb\xfb"


def test_an_architecture_without_a_program_is_named_with_the_remedy() -> None:
    with pytest.raises(ValueError, match=r"riscv64.*images\.pinned_images\.sandbox"):
        pause.image("riscv64")


async def test_the_image_is_whole_and_the_same_every_time() -> None:
    source = PauseSource("amd64")
    target, text = await source.manifest()
    assert target == (await PauseSource("amd64").manifest())[0]
    manifest = json.loads(text)
    image = pause.image("amd64")
    for part in (manifest["config"], *manifest["layers"]):
        blob = image.blobs[part["digest"]]
        assert len(blob) == part["size"]
        assert pause.digest(blob) == part["digest"]
    config = json.loads(image.config)
    assert config["rootfs"]["diff_ids"] == [pause.digest(image.layer)]
    with tarfile.open(fileobj=io.BytesIO(image.layer)) as tar:
        assert [(member.name, member.mode) for member in tar] == [("pause", 0o755)]
