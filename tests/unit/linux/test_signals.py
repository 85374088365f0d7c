"""A signal reaches only processes of the intended container."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.linux import signals


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


def own_cgroup() -> str:
    """Any part of the path of this process's cgroup, which its children share."""
    return Path("/proc/self/cgroup").read_text().splitlines()[-1].rpartition(":")[2]


def test_a_process_of_the_container_is_signalled(process: subprocess.Popen[bytes]) -> None:
    assert signals.send(process.pid, own_cgroup(), signal.SIGTERM)
    assert process.wait(10) == -signal.SIGTERM


def test_a_process_of_another_cgroup_is_left_alone(process: subprocess.Popen[bytes]) -> None:
    assert not signals.send(process.pid, "f" * 64, signal.SIGKILL)
    assert process.poll() is None


def test_an_exited_process_is_left_to_containerd() -> None:
    with subprocess.Popen(["true"]) as process:
        process.wait()
    assert not signals.send(process.pid, own_cgroup(), signal.SIGKILL)
    assert not signals.send(0, own_cgroup(), signal.SIGKILL)


@pytest.mark.parametrize(
    ("state", "number", "left"),
    [
        ("FROZEN\n", signal.SIGKILL, "THAWED"),
        ("FREEZING\n", signal.SIGKILL, "THAWED"),
        ("THAWED\n", signal.SIGKILL, "THAWED\n"),
        # pending until it is thawed, with runc too
        ("FROZEN\n", signal.SIGTERM, "FROZEN\n"),
    ],
)
def test_a_kill_thaws_a_frozen_process(
    state: str,
    number: signal.Signals,
    left: str,
    process: subprocess.Popen[bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    own = next((line for line in lines if ":freezer:" in line), None)
    if own is None:
        pytest.skip("needs the freezer of cgroup v1")
    monkeypatch.setattr(signals, "_FREEZER", tmp_path)
    group = tmp_path / own.rpartition(":")[2].lstrip("/")
    group.mkdir(parents=True, exist_ok=True)
    (group / "freezer.state").write_text(state)
    assert signals.send(process.pid, own_cgroup(), number)
    assert process.wait(10) == -number
    assert (group / "freezer.state").read_text() == left
