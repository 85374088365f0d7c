"""Blocking work has threads by class; a hung place is refused by name and starves no other work."""

from __future__ import annotations

import ast
import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.errors import InvalidArgument, Unavailable
from runtime.lookups.security import read_seccomp
from runtime.steps import threads
from runtime.steps.threads import Threads
from tests.harness.hung_mount import HungMount, needs_fuse
from tests.harness.waiting import PATIENCE, until
from tests.unit.codegen.project import ROOT


@pytest.fixture
def hung() -> Iterator[threading.Event]:
    """Accesses wait for this; set at the end, so that no thread outlives the test."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture(autouse=True)
def _short_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "HANGS", 0.1)


async def test_an_answer_and_an_error_come_back() -> None:
    pool = Threads("looks", size=2)
    assert await pool.run(int, "7") == 7
    with pytest.raises(ValueError, match="invalid literal"):
        await pool.run(int, "seven")


async def test_a_thread_is_used_again_and_others_are_made_when_it_is_busy() -> None:
    pool = Threads("looks", size=8)
    alone = {await pool.run(threading.get_ident) for _ in range(20)}
    assert len(alone) == 1
    meet = threading.Barrier(8)
    together = await asyncio.gather(*(pool.run(lambda: meet.wait(PATIENCE)) for _ in range(8)))
    assert sorted(together) == list(range(8))


async def until_hung(pool: Threads, count: int) -> None:
    """Return when this many calls of the pool count as hung."""
    await until(lambda: sum(job.hangs(time.monotonic()) for job in pool._running) == count)


async def test_a_hung_place_is_refused_by_name(hung: threading.Event) -> None:
    pool = Threads("looks at host paths", size=8)
    looks = [asyncio.create_task(pool.run_at(["/mnt/x"], hung.wait)) for _ in range(2)]
    await until_hung(pool, 2)
    with pytest.raises(Unavailable, match=r"^2 looks at host paths hang on /mnt/x;"):
        await pool.run_at(["/etc/hosts", "/mnt/x"], hung.wait)
    assert await pool.run_at(["/mnt/y"], int) == 0, "another place is looked at as ever"
    hung.set()
    await asyncio.gather(*looks)
    assert await pool.run_at(["/mnt/x"], int) == 0


async def test_work_on_several_places_reports_the_current_one(
    hung: threading.Event,
) -> None:
    pool = Threads("looks at host paths", size=8)

    def look() -> None:
        threads.looking_at("/etc/hosts")
        threads.looking_at("/mnt/x")
        hung.wait()

    look_at_both = asyncio.create_task(pool.run_at(["/etc/hosts", "/mnt/x"], look))
    await until_hung(pool, 1)
    assert await pool.run_at(["/etc/hosts"], int) == 0
    with pytest.raises(Unavailable, match=r"^1 of the looks at host paths hangs on /mnt/x;"):
        await pool.run_at(["/mnt/x"], int)
    hung.set()
    await look_at_both


async def test_accesses_to_one_place_use_few_threads(hung: threading.Event) -> None:
    pool = Threads("looks at host paths", size=5)
    looks = [asyncio.create_task(pool.run_at(["/mnt/x"], hung.wait)) for _ in range(20)]
    await asyncio.sleep(0)
    assert await pool.run_at(["/mnt/y"], int) == 0
    await until(lambda: sum(look.done() for look in looks) >= 16)
    done, running = await asyncio.wait(looks, timeout=0.2)
    assert (len(done), len(running)) == (16, 4)
    for look in done:
        assert isinstance(look.exception(), Unavailable)
    hung.set()
    await asyncio.wait(running)


async def test_a_class_that_hangs_altogether_refuses_and_recovers(hung: threading.Event) -> None:
    pool = Threads("looks", size=2)
    looks = [asyncio.create_task(pool.run_at([place], hung.wait)) for place in ("/a", "/b")]
    await until(lambda: sum(job.since > 0 for job in pool._running) == 2)
    looks.append(asyncio.create_task(pool.run_at(["/c"], hung.wait)))
    await until_hung(pool, 2)
    with pytest.raises(Unavailable, match=r"^2 looks hang on /a, /b;"):
        pool.run(int).send(None)  # its first step refuses: it does not wait
    with pytest.raises(Unavailable, match=r"^2 looks hang on /a, /b;"):
        await looks[2]  # it waited for a thread for too long
    hung.set()
    await asyncio.gather(*looks[:2])
    assert await pool.run(int) == 0


async def test_work_cancelled_before_it_began_does_not_run(hung: threading.Event) -> None:
    pool = Threads("looks", size=1)
    first = asyncio.create_task(pool.run(hung.wait))
    done: list[int] = []
    second = asyncio.create_task(pool.run(done.append, 2))
    await asyncio.sleep(0.01)
    second.cancel()
    third = asyncio.create_task(pool.run(done.append, 3))
    await asyncio.sleep(0.01)
    hung.set()
    await asyncio.gather(first, third)
    assert done == [3]


@needs_fuse
def test_a_hung_access_does_not_block_the_exit(tmp_path: Path) -> None:
    program = """
import asyncio, os, sys
from runtime.steps.threads import Threads
async def main():
    try:
        async with asyncio.timeout(0.5):
            await Threads("looks", size=1).run(os.stat, sys.argv[1])
    except TimeoutError:
        print("given up")
asyncio.run(main())
"""
    with HungMount(tmp_path / "hung") as mount:
        mount.hang()
        ended = subprocess.run(
            [sys.executable, "-c", program, str(tmp_path / "hung/x")],
            cwd=ROOT,
            timeout=PATIENCE,
            capture_output=True,
            check=True,
        )
    assert ended.stdout == b"given up\n"


def test_no_work_of_the_server_goes_to_the_default_executor() -> None:
    """asyncio.to_thread and run_in_executor(None, …) share one pool for everything."""
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in sorted((ROOT / "runtime").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if (isinstance(node, ast.Attribute) and node.attr in ("to_thread", "run_in_executor"))
        or (
            isinstance(node, ast.ImportFrom)
            and any(name.name in ("to_thread", "ThreadPoolExecutor") for name in node.names)
        )
    ]
    assert found == []


@pytest.mark.parametrize("path", ["/dev/zero", "/tmp"])
def test_only_a_regular_file_is_read_as_a_seccomp_profile(path: str) -> None:
    with pytest.raises(InvalidArgument, match=f"profile {path}: it is not a regular file"):
        read_seccomp(path)


def test_a_fifo_as_a_seccomp_profile_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(InvalidArgument, match="it is not a regular file"):
        read_seccomp(str(tmp_path / "fifo"))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"[]", "it is not a JSON object"),
        (b"{}", "it has no defaultAction"),
        (b'{"defaultAction": 7}', "Expected `str | null`, got `int`"),
        (b'{"defaultAction": "SCMP_ACT_LOG", "syscalls": [{"names": "read"}]}', "syscalls"),
        (b"", "Expecting value"),
        (b"[" * 100_000, "nested too deeply"),
        (b" " * (1 << 20) + b"{}", "larger than 1 MiB"),
    ],
)
def test_what_is_no_seccomp_profile_is_refused(tmp_path: Path, content: bytes, why: str) -> None:
    (tmp_path / "p.json").write_bytes(content)
    with pytest.raises(InvalidArgument, match=r"seccomp\.localhost_ref: .*p\.json") as refusal:
        read_seccomp(str(tmp_path / "p.json"))
    assert why in str(refusal.value)
