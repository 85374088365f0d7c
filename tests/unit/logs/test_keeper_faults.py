"""A problem of one container's log must not affect others, and no request ends the log keeper."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import stat
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from runtime.errors import Unavailable, Unknown
from runtime.logs import client
from runtime.logs.client import KeptContainer, LogKeeper
from runtime.logs.connection import Connection
from runtime.logs.keeper import turn
from runtime.logs.keeper.files import LogFile
from tests.harness.hung_mount import HungMount, needs_fuse
from tests.harness.waiting import PATIENCE, until
from tests.unit.logs.test_keeper import Shim, end_process, fifos_in, texts, until_read


@pytest_asyncio.fixture
async def keeper(tmp_path: Path) -> AsyncIterator[LogKeeper]:
    keeper = await LogKeeper.start(str(tmp_path / "state"))
    yield keeper
    await keeper.aclose()
    end_process(keeper.pid)


@pytest.fixture
def hung(tmp_path: Path) -> Iterator[HungMount]:
    with HungMount(tmp_path / "hung") as mount:
        yield mount


def changed_keeper(monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    """Let keepers run ``change`` first."""
    monkeypatch.setattr(
        "runtime.logs.client._PROGRAM",
        "import sys; sys.path.append({root!r}); from runtime.logs.keeper import server, turn; "
        + f"{change}; server.main(sys.argv[1:])",
    )


async def opened(keeper: LogKeeper, directory: Path, name: str, log: Path) -> Shim:
    fifos = fifos_in(directory / name)
    await keeper.open(name, fifos, False, str(log))
    return Shim(fifos)


@needs_fuse
async def test_a_hung_log_file_system_blocks_no_other_log(
    keeper: LogKeeper, tmp_path: Path, hung: HungMount
) -> None:
    bad = await opened(keeper, tmp_path, "bad", tmp_path / "hung/0.log")
    good = await opened(keeper, tmp_path, "good", tmp_path / "good.log")
    os.write(bad.out, b"before\n")
    await until(lambda: "0.log" in os.listdir(tmp_path) or b"before" in hung.content("0.log"))
    hung.hang()
    os.write(bad.out, b"late\n")
    os.write(good.out, b"one\n")
    await until(lambda: texts(tmp_path / "good.log") == ["stdout F one"])
    # everything else works meanwhile
    new = await opened(keeper, tmp_path, "new", tmp_path / "new.log")
    os.write(new.out, b"new\n")
    await until(lambda: texts(tmp_path / "new.log") == ["stdout F new"])
    (tmp_path / "good.log").rename(tmp_path / "good.log.1")
    await keeper.reopen("good")
    with pytest.raises(Unavailable, match=r"hung/0\.log does not respond"):
        await keeper.reopen("bad")
    os.write(good.out, b"two\n")
    good.exit()
    await asyncio.wait_for(keeper.drained("good"), PATIENCE)
    assert texts(tmp_path / "good.log") == ["stdout F two"]
    # and no output of the slow one is lost once the file system responds
    os.write(bad.out, b"later\n")
    hung.go_on()
    bad.exit()
    await asyncio.wait_for(keeper.drained("bad"), PATIENCE)
    written = hung.content("0.log").decode().splitlines()
    assert [line.split(" ", 1)[1] for line in written] == [
        "stdout F before",
        "stdout F late",
        "stdout F later",
    ]
    new.exit()


@needs_fuse
async def test_many_logs_on_a_hung_file_system_cause_one_delay(
    keeper: LogKeeper, tmp_path: Path, hung: HungMount
) -> None:
    bad = [await opened(keeper, tmp_path, f"b{n}", tmp_path / f"hung/{n}.log") for n in range(20)]
    good = await opened(keeper, tmp_path, "good", tmp_path / "good.log")
    written = 0
    for _ in range(3):  # a busy machine may take the time of one attempt
        hung.hang()
        for shim in bad:
            os.write(shim.out, b"x\n")
        began = time.monotonic()
        for _ in range(5):
            os.write(good.out, b"x\n")
            written += 1
            await until(lambda n=written: len(texts(tmp_path / "good.log")) == n)  # type: ignore[misc]
        took = time.monotonic() - began
        hung.go_on()
        # one delay for each log would take twice this
        if took < len(bad) / 2 * turn.PATIENCE:
            break
    else:
        pytest.fail(f"the other log waited for {took:.1f} s")
    for number, shim in enumerate(bad):
        shim.exit()
        await asyncio.wait_for(keeper.drained(f"b{number}"), PATIENCE)
        assert hung.content(f"{number}.log").endswith(b" stdout F x\n")


@needs_fuse
async def test_a_container_is_blocked_by_its_log_for_a_limited_time(
    tmp_path: Path, hung: HungMount, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed_keeper(monkeypatch, "turn.STALL_SECONDS = 1.0")
    keeper = await LogKeeper.start(str(tmp_path / "state"))
    shim = await opened(keeper, tmp_path, "c", tmp_path / "hung/0.log")
    hung.hang()
    began = time.monotonic()
    chunk = b"x" * 999 + b"\n"

    def fill() -> None:
        for _ in range(2000):
            os.write(shim.out, chunk)

    await asyncio.wait_for(asyncio.to_thread(fill), PATIENCE)
    assert time.monotonic() - began > 0.9, "it was not held up at all"
    await until_read(lambda: _of(keeper, "c"), 2_000_000)
    kept = await _of(keeper, "c")
    assert kept.problem == (
        f"the file system of {tmp_path / 'hung/0.log'} has not responded for 1 s"
    )
    assert 1_800_000 < kept.bytes_lost < 2_200_000
    shim.exit()
    await asyncio.wait_for(keeper.drained("c"), PATIENCE)
    await asyncio.wait_for(keeper.close("c"), PATIENCE)
    hung.go_on()
    await keeper.aclose()
    end_process(keeper.pid)


async def _of(keeper: LogKeeper, container_id: str) -> KeptContainer:
    return (await keeper.list())[container_id]


@needs_fuse
async def test_a_log_that_cannot_be_opened_in_time_is_refused_and_can_be_closed(
    keeper: LogKeeper, tmp_path: Path, hung: HungMount, monkeypatch: pytest.MonkeyPatch
) -> None:
    defaults = LogKeeper._call.__kwdefaults__
    assert defaults is not None
    monkeypatch.setitem(defaults, "within", 3.0)
    hung.hang()
    log = str(tmp_path / "hung/0.log")
    with pytest.raises(Unavailable, match="not answered open within 3 s; does the file system"):
        await keeper.open("c", fifos_in(tmp_path), False, log)
    with pytest.raises(Unavailable, match=r"0\.log is being opened; its file system does not"):
        await keeper.open("c", fifos_in(tmp_path), False, log)
    await asyncio.wait_for(keeper.close("c"), PATIENCE)
    other = await opened(keeper, tmp_path, "other", tmp_path / "other.log")
    hung.go_on()
    await asyncio.sleep(0.1)
    assert list(await keeper.list()) == ["other"], "what was closed while it hung is not opened"
    other.exit()


@needs_fuse
async def test_another_build_takes_over_although_a_log_hangs(
    tmp_path: Path, hung: HungMount, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = str(tmp_path / "state")
    first = await LogKeeper.start(state)
    bad = await opened(first, tmp_path, "bad", tmp_path / "hung/0.log")
    good = await opened(first, tmp_path, "good", tmp_path / "good.log")
    hung.hang()
    os.write(bad.out, b"x\n")
    os.write(good.out, b"hal")
    await until_read(lambda: _of(first, "good"), 3)
    await until_read(lambda: _of(first, "bad"), 2)
    await first.aclose()
    monkeypatch.setattr("runtime.logs.client.build_of_keeper", lambda: "newer")
    second = await asyncio.wait_for(LogKeeper.start(state), PATIENCE)
    assert second.pid != first.pid
    os.write(good.out, b"ves\n")
    good.exit()
    await asyncio.wait_for(second.drained("good"), PATIENCE)
    assert texts(tmp_path / "good.log") == ["stdout P hal", "stdout F ves"]
    hung.go_on()
    bad.exit()
    await second.aclose()
    end_process(second.pid)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"id": "c", "log": "/tmp/a\0b"}, "'log' cannot be a path"),
        ({"id": "c", "log": "/tmp/\ud800"}, "'log' cannot be a path"),
        ({"id": "c", "stdout": "a\0"}, "'stdout' cannot be a path"),
        ({"id": "c", "log": 7}, "'log' must be a string, not 7"),
        ({"id": 7}, "'id' must be a string, not 7"),
        ({}, "'id' is missing"),
        ({"id": "c", "limit": "many"}, "'limit' must be an integer"),
        ({"id": "c", "tty": "yes"}, "'tty' must be true or false"),
        ({"id": "c", "stdout": "/proc/none/x"}, "cannot open FIFO /proc/none"),
    ],
)
async def test_a_request_that_cannot_be_served_is_answered(
    keeper: LogKeeper, fields: dict[str, Any], why: str
) -> None:
    pid = keeper.pid
    with pytest.raises(Unknown, match=re.escape(why)):
        await keeper._call("open", **fields)
    assert (await keeper.list(), keeper.pid) == ({}, pid)


async def test_a_bug_of_the_keeper_is_reported_and_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed_keeper(monkeypatch, "server._OPERATIONS['drained'] = lambda *_: 1 / 0")
    keeper = await LogKeeper.start(str(tmp_path / "state"))
    pid = keeper.pid
    with pytest.raises(Unknown, match="internal error: ZeroDivisionError"):
        await keeper.drained("c")
    assert (await keeper.list(), keeper.pid) == ({}, pid)
    assert "ZeroDivisionError" in (tmp_path / "state/log-keeper.log").read_text()
    await keeper.aclose()
    end_process(keeper.pid)


@pytest.mark.parametrize("reader", [False, True])
async def test_a_fifo_is_not_accepted_as_a_log_file(
    keeper: LogKeeper, tmp_path: Path, reader: bool
) -> None:
    log = tmp_path / "0.log"
    shim = await opened(keeper, tmp_path, "c", log)
    os.write(shim.out, b"one\n")
    await until(lambda: log.stat().st_size > 0)
    log.rename(tmp_path / "0.log.1")
    os.mkfifo(log)
    held = os.open(log, os.O_RDWR | os.O_NONBLOCK) if reader else -1
    with pytest.raises(Unknown, match=r"0\.log: it is not a regular file; output continues in"):
        await keeper.reopen("c")
    os.write(shim.out, b"two\n")
    shim.exit()
    await asyncio.wait_for(keeper.drained("c"), PATIENCE)
    assert texts(tmp_path / "0.log.1") == ["stdout F one", "stdout F two"]
    if held >= 0:
        os.close(held)


@pytest.mark.parametrize("kind", ["device", "directory", "link"])
async def test_only_a_regular_file_is_a_log(keeper: LogKeeper, tmp_path: Path, kind: str) -> None:
    (tmp_path / "target").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    path = {"device": "/dev/null", "directory": str(tmp_path), "link": str(tmp_path / "link")}[kind]
    with pytest.raises(Unknown, match=f"cannot open the log file {path}: it is not a regular"):
        await keeper.open("c", fifos_in(tmp_path), False, path)
    assert await keeper.list() == {}


async def test_the_keepers_files_are_private(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    for name in ("log-keeper.lock", "log-keeper.log"):
        (state / name).touch(0o644)  # as an earlier version left them
    keeper = await LogKeeper.start(str(state))
    for name in ("log-keeper.lock", "log-keeper.log", "log-keeper.sock"):
        assert stat.S_IMODE((state / name).stat().st_mode) == 0o600, name
    await keeper.aclose()
    end_process(keeper.pid)


async def test_a_kill_loses_at_most_the_batch_in_hand(keeper: LogKeeper, tmp_path: Path) -> None:
    """At full speed, twenty kills: losses are bounded, and no record is torn or duplicated."""
    log = tmp_path / "0.log"
    shim = await opened(keeper, tmp_path, "c", log)
    lines, kills, width = 400_000, 20, 40

    def write() -> None:
        for first in range(0, lines, 1000):
            os.write(shim.out, b"".join(b"%039d\n" % n for n in range(first, first + 1000)))

    writing = asyncio.create_task(asyncio.to_thread(write))
    for _ in range(kills):
        size = log.stat().st_size
        await until(lambda s=size: log.stat().st_size > s + 100_000 or writing.done())  # type: ignore[misc]
        os.kill(keeper.pid, signal.SIGKILL)
        pid = keeper.pid
        await until(lambda p=pid: keeper.pid != p)  # type: ignore[misc]
    await writing
    shim.exit()
    await asyncio.wait_for(keeper.drained("c"), PATIENCE)
    found = [line.partition(" stdout F ")[2] for line in log.read_text().splitlines()]
    whole = [int(text) for text in found if re.fullmatch(r"\d{39}", text)]
    assert whole == sorted(set(whole)), "a line is doubled or out of order"
    missing = lines - len(whole)
    # per kill: one read of 64 KiB, and the line that it interrupted
    assert missing <= kills * (65536 // width + 2), missing
    assert len(found) - len(whole) <= 2 * kills, "lines that are cut"


async def test_a_keeper_killed_while_containers_close_opens_all_others_again(
    keeper: LogKeeper, tmp_path: Path
) -> None:
    shims = [await opened(keeper, tmp_path, f"c{n}", tmp_path / f"{n}.log") for n in range(40)]
    os.kill(keeper.pid, signal.SIGKILL)
    await asyncio.gather(*(keeper.close(f"c{n}") for n in range(0, 40, 2)))
    for number in range(1, 40, 2):
        os.write(shims[number].out, b"after\n")
        await until(lambda n=number: texts(tmp_path / f"{n}.log") == ["stdout F after"])  # type: ignore[misc]
    assert sorted(await keeper.list()) == sorted(f"c{n}" for n in range(1, 40, 2))
    for shim in shims:
        shim.exit()


async def test_a_close_during_a_restore_does_not_end_it(
    keeper: LogKeeper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shims = [await opened(keeper, tmp_path, f"c{n}", tmp_path / f"{n}.log") for n in range(4)]
    call = Connection.call

    async def close_meanwhile(self: Connection, operation: str, **fields: object) -> object:
        if operation == "open" and fields["id"] == "c0":
            keeper._opened.pop("c1", None)
        return await call(self, operation, **fields)  # type: ignore[arg-type]

    monkeypatch.setattr(Connection, "call", close_meanwhile)
    os.kill(keeper.pid, signal.SIGKILL)
    assert sorted(await keeper.list()) == ["c0", "c2", "c3"]
    for shim in shims:
        shim.exit()


async def test_a_restore_goes_on_until_it_is_done(
    keeper: LogKeeper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shim = await opened(keeper, tmp_path, "c", tmp_path / "0.log")
    monkeypatch.setattr("runtime.logs.client._RESTORE_PAUSE", 0.01)
    connect = LogKeeper._connect
    failures = [Unavailable("no"), ValueError("a fault")]

    async def connect_at_last(self: LogKeeper) -> Connection:
        if failures:
            raise failures.pop(0)
        return await connect(self)

    monkeypatch.setattr(LogKeeper, "_connect", connect_at_last)
    monkeypatch.setattr("runtime.steps.watched._FIRST_PAUSE", 0.01)
    os.kill(keeper.pid, signal.SIGKILL)
    os.write(shim.out, b"after\n")
    await until(lambda: texts(tmp_path / "0.log") == ["stdout F after"])
    shim.exit()


def test_a_record_truncated_by_a_kill_is_terminated(tmp_path: Path) -> None:
    log = tmp_path / "0.log"
    log.write_text("time stdout F cut sho")
    file = LogFile(str(log))
    file.open()
    file.write(b"time stdout F next\n")
    file.close()
    assert texts(log) == ["stdout F cut sho", "stdout F next"]


async def test_a_keeper_that_does_not_answer_is_named_with_the_remedy(
    keeper: LogKeeper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "START_SECONDS", 0.3)
    os.kill(keeper.pid, signal.SIGSTOP)
    try:
        with pytest.raises(Unavailable, match=f"does not answer; .*`kill -9 {keeper.pid}`"):
            await LogKeeper.start(str(tmp_path / "state"))
    finally:
        os.kill(keeper.pid, signal.SIGCONT)
