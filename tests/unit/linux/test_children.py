"""Programs that a killed server was running are ended by the next one, and nothing else is."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.linux import children
from tests.harness.waiting import PATIENCE, wait_until

SLEEP = ["sleep", "600"]


def has_begun(pid: int, program: str) -> bool:
    """Whether exec is over: for a moment the new program has no environment yet."""
    process = Path(f"/proc/{pid}")
    is_new = (process / "cmdline").read_bytes().startswith(program.encode())
    return is_new and bool((process / "environ").read_bytes())


@contextlib.contextmanager
def running(command: list[str], **how: bool) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(command, stdout=subprocess.PIPE, **how)  # type: ignore[call-overload]
    try:
        wait_until(lambda: has_begun(process.pid, command[0]))
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(autouse=True)
def marked(tmp_path: Path) -> Iterator[None]:
    before = set(os.environ)
    children.mark(tmp_path)
    yield
    for name in set(os.environ) - before:
        del os.environ[name]


@contextlib.contextmanager
def ends(pid: int) -> Iterator[None]:
    """This sleep, which need not be a child of the test, exits in the block."""
    handle = os.pidfd_open(pid)
    try:
        wait_until(lambda: has_begun(pid, SLEEP[0]))
        yield
        assert select.select([handle], [], [], PATIENCE)[0]
    finally:
        os.close(handle)


def test_a_program_of_an_earlier_server_is_killed(tmp_path: Path) -> None:
    with running(SLEEP) as left:
        children.end_left(tmp_path)
        assert left.wait(PATIENCE) == -signal.SIGKILL


def test_so_is_a_program_that_it_started(tmp_path: Path) -> None:
    with running(["sh", "-c", "sleep 600 & echo $!; wait"]) as left:
        assert left.stdout is not None
        with ends(int(left.stdout.readline())):
            children.end_left(tmp_path)


def test_a_daemon_with_a_session_of_its_own_is_left_alone(tmp_path: Path) -> None:
    with running(SLEEP, start_new_session=True) as daemon:
        children.end_left(tmp_path)
        assert daemon.poll() is None


def test_a_program_of_another_server_is_left_alone(tmp_path: Path) -> None:
    with running(SLEEP) as other:
        children.end_left(tmp_path / "other")
        assert other.poll() is None


def test_a_program_that_outlives_the_server_on_purpose_has_no_mark() -> None:
    assert len(os.environ) == len(children.unmarked()) + 1


def test_what_does_not_end_is_waited_for_no_longer_than_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(children, "_END_LIMIT", 0.01)
    monkeypatch.setattr(signal, "pidfd_send_signal", lambda *_: None)
    with running(SLEEP) as left:
        children.end_left(tmp_path)
        assert left.poll() is None


def test_what_a_killed_server_was_running_is_found_by_the_next(tmp_path: Path) -> None:
    server = (
        "import os, sys; from pathlib import Path; from runtime.linux import children;"
        f"children.mark(Path({str(tmp_path)!r}));"
        "print(os.posix_spawnp('sleep', ['sleep', '600'], os.environ, setpgroup=0), flush=True);"
        "sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", server], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as killed:
        assert killed.stdout is not None
        with ends(int(killed.stdout.readline())):
            killed.kill()
            children.end_left(tmp_path)
