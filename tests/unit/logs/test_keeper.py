"""The log keeper as a real process: FIFOs in, log files out, and what happens when processes
die."""

from __future__ import annotations

import asyncio
import itertools
import os
import resource
import signal
import socket
import stat
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from unittest.mock import Mock

import pytest
import pytest_asyncio

from runtime.errors import NotFound, Unavailable, Unknown
from runtime.logs.client import Fifos, KeptContainer, LogCounts, LogKeeper
from runtime.logs.keeper.protocol import RequestError, decode, encode
from runtime.logs.keeper.server import Keeper
from tests.harness.waiting import PATIENCE, until


@pytest_asyncio.fixture
async def keeper(tmp_path: Path) -> AsyncIterator[LogKeeper]:
    keeper = await LogKeeper.start(str(tmp_path / "state"))
    yield keeper
    await keeper.aclose()
    end_process(keeper.pid)


def end_process(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


class Shim:
    """The shim's side: holds both ends of each output FIFO, as containerd's shim does."""

    def __init__(self, fifos: Fifos) -> None:
        self.out = os.open(fifos.stdout or "", os.O_RDWR | os.O_NONBLOCK)
        self.err = os.open(fifos.stderr, os.O_RDWR | os.O_NONBLOCK) if fifos.stderr else -1
        os.set_blocking(self.out, True)

    def exit(self) -> None:
        for fd in (self.out, self.err):
            if fd >= 0:
                os.close(fd)


def fifos_in(directory: Path, *, stdin: bool = False, tty: bool = False) -> Fifos:
    return Fifos(
        stdin=str(directory / "io/c-stdin") if stdin else None,
        stdout=str(directory / "io/c-stdout"),
        stderr=None if tty else str(directory / "io/c-stderr"),
    )


def texts(path: Path) -> list[str]:
    """Return the log's records without their times."""
    return [line.split(" ", 1)[1] for line in path.read_text().splitlines()]


async def until_read(facts: Callable[[], Awaitable[KeptContainer]], size: int) -> None:
    async with asyncio.timeout(PATIENCE):
        while (await facts()).bytes_read < size:  # noqa: ASYNC110  the keeper tells nobody
            await asyncio.sleep(0.005)


async def test_output_becomes_log_records(keeper: LogKeeper, tmp_path: Path) -> None:
    fifos, log = fifos_in(tmp_path), tmp_path / "pod/c/0.log"
    await keeper.open("c", fifos, False, str(log))
    shim = Shim(fifos)
    os.write(shim.out, b"one\ntwo\npart")
    await until(lambda: log.stat().st_size > 0)
    os.write(shim.err, b"oops\n")
    await until(lambda: len(texts(log)) == 3)
    shim.exit()
    await asyncio.wait_for(keeper.drained("c"), PATIENCE)
    assert texts(log) == ["stdout F one", "stdout F two", "stderr F oops", "stdout P part"]
    assert stat.S_IMODE(log.stat().st_mode) == 0o640
    assert stat.S_IMODE(log.parent.stat().st_mode) == 0o755
    await keeper.close("c")
    assert await keeper.list() == {}


async def test_entries_and_bytes_are_counted(keeper: LogKeeper, tmp_path: Path) -> None:
    fifos, log = fifos_in(tmp_path), tmp_path / "0.log"
    await keeper.open("c", fifos, False, str(log), line_limit=4)
    shim = Shim(fifos)
    os.write(shim.out, b"one\ntwelve-bytes\npart")
    shim.exit()
    await asyncio.wait_for(keeper.drained("c"), PATIENCE)
    assert texts(log) == [
        *("stdout F one", "stdout P twel", "stdout P ve-b", "stdout F ytes", "stdout P part"),
    ]
    counts = await keeper.counts()
    assert counts == LogCounts(
        input_entries=3,
        input_bytes=21,
        output_entries=5,
        output_bytes=log.stat().st_size,
        split_entries=2,
    )
    await keeper.close("c")
    assert await keeper.counts() == counts


async def test_what_is_lost_is_no_output(keeper: LogKeeper, tmp_path: Path) -> None:
    fifos = fifos_in(tmp_path)
    await keeper.open("c", fifos, False, "/dev/full/0.log", tolerant=True)
    shim = Shim(fifos)
    os.write(shim.out, b"one\n")
    shim.exit()
    await asyncio.wait_for(keeper.drained("c"), PATIENCE)
    assert await keeper.counts() == LogCounts(input_entries=1, input_bytes=4)


async def test_no_writer_yet_is_not_the_end(keeper: LogKeeper, tmp_path: Path) -> None:
    fifos, log = fifos_in(tmp_path), tmp_path / "0.log"
    await keeper.open("c", fifos, False, str(log))
    await asyncio.sleep(0.1)
    assert (await keeper.list())["c"].open_streams == ("stdout", "stderr")
    shim = Shim(fifos)
    os.write(shim.out, b"late\n")
    shim.exit()
    await asyncio.wait_for(keeper.drained("c"), PATIENCE)
    assert texts(log) == ["stdout F late"]


async def test_files_and_socket_are_private(keeper: LogKeeper, tmp_path: Path) -> None:
    await keeper.open("c", fifos_in(tmp_path, stdin=True), False, None)
    for stream in ("stdin", "stdout", "stderr"):
        mode = (tmp_path / f"io/c-{stream}").stat().st_mode
        assert (stat.S_ISFIFO(mode), stat.S_IMODE(mode)) == (True, 0o700)
    assert stat.S_IMODE((tmp_path / "state/log-keeper.sock").stat().st_mode) == 0o600


async def test_open_is_repeatable_and_close_too(keeper: LogKeeper, tmp_path: Path) -> None:
    fifos = fifos_in(tmp_path)
    for _ in range(2):
        await keeper.open("c", fifos, False, str(tmp_path / "0.log"))
    assert list(await keeper.list()) == ["c"]
    for _ in range(2):
        await keeper.close("c")
    await keeper.drained("c")


async def test_tty_has_one_stream(keeper: LogKeeper, tmp_path: Path) -> None:
    fifos, log = fifos_in(tmp_path, tty=True), tmp_path / "0.log"
    kept = await keeper.open("c", fifos, True, str(log))
    assert kept.open_streams == ("stdout",)
    shim = Shim(fifos)
    os.write(shim.out, b"prompt\r\n")
    shim.exit()
    await asyncio.wait_for(keeper.drained("c"), PATIENCE)
    assert texts(log) == ["stdout F prompt"]


async def test_rotation_loses_nothing(keeper: LogKeeper, tmp_path: Path) -> None:
    fifos, log = fifos_in(tmp_path), tmp_path / "0.log"
    await keeper.open("c", fifos, False, str(log))
    shim = Shim(fifos)
    os.write(shim.out, b"old\nhal")
    await until(lambda: log.stat().st_size > 0)
    log.rename(tmp_path / "0.log.1")
    await keeper.reopen("c")
    os.write(shim.out, b"ves\nnew\n")
    shim.exit()
    await asyncio.wait_for(keeper.drained("c"), PATIENCE)
    assert texts(tmp_path / "0.log.1") == ["stdout F old", "stdout P hal"]
    assert texts(log) == ["stdout F ves", "stdout F new"]


async def test_reopen_of_nothing_is_not_found(keeper: LogKeeper) -> None:
    with pytest.raises(NotFound, match="container c is not open"):
        await keeper.reopen("c")


async def test_log_that_cannot_be_opened_fails_the_open(keeper: LogKeeper, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    path = str(tmp_path / "file/0.log")
    with pytest.raises(Unknown, match=f"cannot open the log file {path}"):
        await keeper.open("c", fifos_in(tmp_path), False, path)
    assert await keeper.list() == {}


async def test_draining_goes_on_without_a_log_and_the_file_is_tried_again(
    keeper: LogKeeper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # not the output: another test may have configured where logs go
    log_of_server = Mock()
    monkeypatch.setattr("runtime.logs.connection.log", log_of_server)
    directory = tmp_path / "logs"
    directory.write_text("a file where a directory should be")
    fifos, log = fifos_in(tmp_path), directory / "0.log"
    await keeper.open("c", fifos, False, str(log), tolerant=True)
    shim = Shim(fifos)
    os.write(shim.out, b"lost\n")

    async def facts() -> KeptContainer:
        return (await keeper.list())["c"]

    await until_read(facts, 5)
    kept = await facts()
    assert kept.bytes_lost > 0
    assert kept.problem == f"cannot open {log}: File exists"
    directory.unlink()
    await asyncio.sleep(1.1)
    os.write(shim.out, b"kept\n")
    shim.exit()
    await asyncio.wait_for(keeper.drained("c"), PATIENCE)
    assert texts(log) == ["stdout F kept"]
    assert (await facts()).problem == ""
    log_of_server.info.assert_called_once()
    assert log_of_server.info.call_args.args == ("container log is written again",)


async def test_a_full_disk_does_not_stop_the_container(keeper: LogKeeper, tmp_path: Path) -> None:
    fifos, log = fifos_in(tmp_path), tmp_path / "0.log"
    resource.prlimit(keeper.pid, resource.RLIMIT_FSIZE, (100_000, 100_000))
    await keeper.open("c", fifos, False, str(log))
    shim = Shim(fifos)
    os.write(shim.out, b"x\n" * 30000)
    os.write(shim.out, b"x\n" * 30000)
    shim.exit()
    await asyncio.wait_for(keeper.drained("c"), PATIENCE)
    kept = (await keeper.list())["c"]
    assert kept.bytes_read == 120000
    assert kept.problem == f"cannot write {log}: File too large"
    assert log.stat().st_size == 100_000
    assert kept.bytes_lost > 2_000_000


async def test_a_killed_keeper_is_replaced_and_loses_nothing(
    keeper: LogKeeper, tmp_path: Path
) -> None:
    fifos, log = fifos_in(tmp_path), tmp_path / "0.log"
    await keeper.open("c", fifos, False, str(log))
    shim = Shim(fifos)
    os.write(shim.out, b"before\n")
    await until(lambda: log.stat().st_size > 0)
    first = keeper.pid
    waiting = asyncio.create_task(keeper.drained("c"))
    await asyncio.sleep(0)
    os.kill(first, signal.SIGKILL)
    os.write(shim.out, b"after\n")
    await until(lambda: len(texts(log)) == 2)
    assert keeper.pid != first
    shim.exit()
    await asyncio.wait_for(waiting, PATIENCE)
    assert texts(log) == ["stdout F before", "stdout F after"]


async def test_drained_ends_when_the_shim_left_while_the_keeper_was_dead(
    keeper: LogKeeper, tmp_path: Path
) -> None:
    fifos = fifos_in(tmp_path)
    await keeper.open("c", fifos, False, str(tmp_path / "0.log"))
    shim = Shim(fifos)
    os.kill(keeper.pid, signal.SIGSTOP)
    shim.exit()
    os.kill(keeper.pid, signal.SIGKILL)
    await asyncio.wait_for(keeper.drained("c"), PATIENCE)


async def test_the_keeper_outlives_the_server_and_is_found_again(tmp_path: Path) -> None:
    state, fifos, log = str(tmp_path / "state"), fifos_in(tmp_path), tmp_path / "0.log"
    first = await LogKeeper.start(state)
    await first.open("c", fifos, False, str(log))
    shim = Shim(fifos)
    await first.aclose()
    os.write(shim.out, b"meanwhile\n")
    await until(lambda: log.stat().st_size > 0)
    second = await LogKeeper.start(state)
    assert second.pid == first.pid
    assert list(await second.list()) == ["c"]
    os.kill(second.pid, signal.SIGKILL)  # what the first server opened survives this too
    os.write(shim.out, b"then\n")
    await until(lambda: len(texts(log)) == 2)
    shim.exit()
    await second.aclose()
    end_process(second.pid)


async def test_a_keeper_without_open_files_left_names_the_remedy(
    keeper: LogKeeper, tmp_path: Path
) -> None:
    taken = os.listdir(f"/proc/{keeper.pid}/fd")
    most = next(number for number in itertools.count() if str(number) not in taken)
    had = resource.prlimit(keeper.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(keeper.pid, resource.RLIMIT_NOFILE, (most, had[1]))
    with pytest.raises(Unknown, match=f"{most} files .*LimitNOFILE.*kill -9 {keeper.pid}`"):
        await keeper.open("c", fifos_in(tmp_path), False, str(tmp_path / "0.log"))
    resource.prlimit(keeper.pid, resource.RLIMIT_NOFILE, had)
    await keeper.open("c", fifos_in(tmp_path), False, str(tmp_path / "0.log"))


async def test_a_link_in_the_place_of_its_lock_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other").touch(0o644)
    (tmp_path / "log-keeper.lock").symlink_to(tmp_path / "other")
    with pytest.raises(OSError, match="not a regular file; delete it"):
        await LogKeeper.start(str(tmp_path))
    assert stat.S_IMODE((tmp_path / "other").stat().st_mode) == 0o644


async def test_another_build_takes_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state, fifos, log = str(tmp_path / "state"), fifos_in(tmp_path), tmp_path / "0.log"
    first = await LogKeeper.start(state)
    await first.open("c", fifos, False, str(log))
    shim = Shim(fifos)
    os.write(shim.out, b"hal")

    async def facts() -> KeptContainer:
        return (await first.list())["c"]

    await until_read(facts, 3)
    await first.aclose()
    monkeypatch.setattr("runtime.logs.client.build_of_keeper", lambda: "newer")
    second = await LogKeeper.start(state)
    assert second.pid != first.pid
    os.write(shim.out, b"ves\n")
    shim.exit()
    await asyncio.wait_for(second.drained("c"), PATIENCE)
    assert texts(log) == ["stdout P hal", "stdout F ves"]
    await second.aclose()
    end_process(second.pid)


async def test_two_servers_share_one_keeper(tmp_path: Path) -> None:
    both = await asyncio.gather(*(LogKeeper.start(str(tmp_path / "state")) for _ in range(2)))
    assert both[0].pid == both[1].pid
    for each in both:
        await each.aclose()
    end_process(both[0].pid)


async def test_attach_receives_live_output_and_its_end(keeper: LogKeeper, tmp_path: Path) -> None:
    fifos = fifos_in(tmp_path)
    await keeper.open("c", fifos, False, None)
    shim = Shim(fifos)
    heard: list[tuple[str, bytes]] = []
    attached = asyncio.Event()

    async def listen() -> None:
        async with keeper.attach("c", stderr=False) as feed:
            attached.set()
            async for frame in feed:
                heard.append(frame)

    listening = asyncio.create_task(listen())
    await asyncio.wait_for(attached.wait(), PATIENCE)
    os.write(shim.out, b"hello")
    await until(lambda: heard)
    os.write(shim.err, b"not asked for")
    shim.exit()
    await asyncio.wait_for(listening, PATIENCE)
    assert heard == [("stdout", b"hello")]


async def test_an_attached_client_that_does_not_read_is_dropped(
    keeper: LogKeeper, tmp_path: Path
) -> None:
    fifos, log = fifos_in(tmp_path), tmp_path / "0.log"
    await keeper.open("c", fifos, False, str(log))
    shim = Shim(fifos)
    async with keeper.attach("c") as feed:
        line = b"x" * 999 + b"\n"
        os.write(shim.out, line)
        await anext(feed)
        await asyncio.to_thread(lambda: [os.write(shim.out, line * 60) for _ in range(200)])
        shim.exit()
        await asyncio.wait_for(keeper.drained("c"), PATIENCE)
        assert (await keeper.list())["c"].bytes_read == 12_001_000
        with pytest.raises(Unavailable, match="too far behind"):
            async for _ in feed:
                pass


async def test_errors_of_requests_are_sentences(keeper: LogKeeper) -> None:
    with pytest.raises(Unknown, match="unknown op; known are hello, open"):
        await keeper._call("frobnicate")
    with pytest.raises(Unknown, match="'id' is missing"):
        await keeper._call("open")


@pytest.mark.parametrize("somebody_came", [False, True])
def test_keeper_ends_when_it_has_nothing_to_do(
    monkeypatch: pytest.MonkeyPatch, somebody_came: bool
) -> None:
    monkeypatch.setattr(
        "runtime.logs.keeper.server.FIRST_CLIENT_SECONDS", 600.0 if somebody_came else 0.05
    )
    name = f"\0log-keeper-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        listener.bind(name)
        listener.listen()
        run = threading.Thread(target=Keeper(os.dup(listener.fileno()), "test").run)
        run.start()
        if somebody_came:
            client.connect(name)
            client.close()
        run.join(PATIENCE)
        assert not run.is_alive()


def test_requests_are_json_objects() -> None:
    value: dict[str, object] = {"a": [1, "x\u00e9\n"], "b": None, "c": {"d": True}}
    assert decode(encode(value)) == value
    for bad in (b"", b"[", b"[1]", b"\xff", b'{"a"', b"[" * 100_000):
        with pytest.raises(RequestError, match="one JSON object"):
            decode(bad)
