"""A signal reaches only processes of the intended container."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.linux import signals
from tests.harness.waiting import wait_until


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


# A process and its descendants


@contextlib.contextmanager
def shell(script: str, lines: int) -> Iterator[tuple[subprocess.Popen[bytes], list[int]]]:
    """A shell in a session of its own, once it and its children have printed so many PIDs."""
    with subprocess.Popen(
        ["sh", "-c", script], stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        assert process.stdout is not None
        try:
            yield process, [int(process.stdout.readline()) for _ in range(lines)]
        finally:
            for pid in in_session(process.pid):
                os.kill(pid, signal.SIGKILL)
            process.kill()


def in_session(sid: int) -> list[int]:
    """The processes of a session that have not exited."""
    found = []
    for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))):
        with contextlib.suppress(OSError):
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            if os.getsid(pid) == sid and state not in "ZX":
                found.append(pid)
    return found


def test_what_descends_from_a_process_is_killed_with_it() -> None:
    nested = "sh -c 'sleep 600 & echo $!; set -m; sleep 600 & echo $!; echo $$; wait'"
    with shell(f"sleep 600 & echo $!; {nested} & wait", 4) as (process, pids):
        assert set(in_session(process.pid)) == {process.pid, *pids}
        assert signals.kill_tree(process.pid, own_cgroup())
        assert process.wait(10) == -signal.SIGKILL
        wait_until(lambda: in_session(process.pid) == [])


def test_a_daemon_that_has_left_its_parents_is_not_killed() -> None:
    # the shell waits for the process that started it
    script = "daemon=$(sleep 600 >/dev/null & echo $!); sleep 600 & echo $daemon; wait"
    with shell(script, 1) as (process, [daemon]):
        assert signals.kill_tree(process.pid, own_cgroup())
        wait_until(lambda: in_session(process.pid) == [daemon])


def test_a_tree_of_another_cgroup_is_left_alone() -> None:
    with shell("sleep 600 & echo $!; wait", 1) as (process, pids):
        assert not signals.kill_tree(process.pid, "f" * 64)
        assert set(in_session(process.pid)) == {process.pid, *pids}
        assert not stopped(process.pid)


def test_out_of_descriptors_what_was_found_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    with shell("sleep 600 & echo $!; wait", 1) as (process, [child]):
        opened = os.pidfd_open

        def failing(pid: int) -> int:
            if pid == child:
                raise OSError(errno.EMFILE, "Too many open files")
            return opened(pid)

        monkeypatch.setattr(os, "pidfd_open", failing)
        assert signals.kill_tree(process.pid, own_cgroup())
        assert process.wait(10) == -signal.SIGKILL


def stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
