"""Status files are written atomically, and an unwritable disk blocks nothing."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from generated.cri import api_pb2
from generated.lifecycle import ContainerEvent, ContainerState
from runtime.errors import Unavailable
from runtime.linux.files import write_whole
from runtime.store import checkpoints
from runtime.store.events import Events
from runtime.store.layout import Layout
from runtime.store.objects import Container, SavedExit, Store
from runtime.transforms import facts
from tests.harness.waiting import PATIENCE, until


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(Layout(root=tmp_path / "root", state=tmp_path / "state"), Events())


async def running(store: Store) -> Container:
    store.layout.container_state("c1").mkdir(parents=True)
    metadata = facts.ContainerMetadata(
        id="c1", name="c1", sandbox_id="s1", config=api_pb2.ContainerConfig()
    )
    created = facts.ContainerStatus(ContainerState.CREATED, created_at=1)
    container = await store.containers.create(metadata, created)
    await container.fire(ContainerEvent.START)
    await container.fire(ContainerEvent.STARTED, pid=7, started_at=2)
    return container


class Disk:
    """Writes of the status file fail on demand; those of the copy as well, if requested."""

    def __init__(self, store: Store) -> None:
        self.error: OSError | None = None
        self.of_the_copy = False
        self.hold: threading.Event | None = None
        self._file = store.layout.container_status("c1")
        self._write = write_whole

    def write(self, path: Path, data: bytes, *, durable: bool) -> None:
        if self.hold is not None:
            self.hold.wait(10)
        if self.error is not None and (path == self._file or self.of_the_copy):
            raise self.error
        self._write(path, data, durable=durable)


@pytest.fixture
def disk(store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    disk = Disk(store)
    monkeypatch.setattr(checkpoints, "write_whole", disk.write)
    monkeypatch.setattr(checkpoints, "_FIRST_PAUSE", 0.01)
    yield disk
    if disk.hold is not None:
        disk.hold.set()


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
READ_ONLY = OSError(errno.EROFS, os.strerror(errno.EROFS))


@pytest.mark.parametrize("error", [FULL, READ_ONLY], ids=["full", "read-only"])
async def test_an_unwritable_disk_does_not_block_a_stop(
    store: Store, disk: Disk, error: OSError
) -> None:
    container = await running(store)
    disk.error = error
    await container.save_exit(SavedExit(code=9, finished_at=5))
    await container.fire(ContainerEvent.EXITED)
    assert (container.state, container.status.exit_code) == (ContainerState.EXITED, 9)
    assert container.exited.is_set()
    assert store.checkpoints.unsaved == 1
    # a server that is started now finds the exit nevertheless
    assert store.checkpoints.load("c1") == container.status
    # …and the file itself once the disk can be written
    disk.error = None
    await until(lambda: not store.checkpoints.unsaved)
    assert store.checkpoints.unsaved == 0
    assert not store.layout.container_status_copy("c1").exists()
    assert store.checkpoints.load("c1") == container.status


async def test_what_is_in_memory_only_is_written_at_the_end(store: Store, disk: Disk) -> None:
    container = await running(store)
    disk.error, disk.of_the_copy = FULL, True
    await container.save_exit(SavedExit(code=9, finished_at=5))
    await container.fire(ContainerEvent.EXITED)
    assert store.checkpoints.load("c1").state is ContainerState.RUNNING
    disk.error = None
    await store.close()
    assert store.checkpoints.load("c1") == container.status


async def test_a_hung_disk_blocks_for_a_limited_time(
    store: Store, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    container = await running(store)
    monkeypatch.setattr(checkpoints, "_SAVE_LIMIT", 0.05)
    disk.hold = threading.Event()
    await asyncio.wait_for(container.save_exit(SavedExit(code=9, finished_at=5)), PATIENCE)
    assert store.checkpoints.unsaved == 1
    disk.hold.set()
    disk.hold = None
    await until(lambda: not store.checkpoints.unsaved)
    assert store.checkpoints.load("c1").exit_code == 9
    await store.close()


async def test_the_loop_does_not_wait_for_the_disk(store: Store, disk: Disk) -> None:
    container = await running(store)
    disk.hold = threading.Event()
    saving = asyncio.ensure_future(container.save_exit(SavedExit(code=9, finished_at=5)))
    await asyncio.sleep(0.02)
    assert not saving.done()
    disk.hold.set()
    await saving


async def test_a_removed_container_is_not_written_again(store: Store, disk: Disk) -> None:
    container = await running(store)
    disk.error, disk.of_the_copy = FULL, True
    await container.save_exit(SavedExit(code=9, finished_at=5))
    await container.fire(ContainerEvent.EXITED)
    disk.error = None
    for directory in (store.layout.container_root("c1"), store.layout.container_state("c1")):
        for path in directory.iterdir():
            path.unlink()
        directory.rmdir()
    await asyncio.sleep(0.05)
    assert store.checkpoints.unsaved == 0
    assert not store.layout.container_root("c1").exists()


async def test_a_container_that_cannot_be_saved_is_not_created(store: Store, disk: Disk) -> None:
    disk.error = FULL
    with pytest.raises(Unavailable, match="No space"):
        await running(store)
    assert len(store.containers) == 0
    assert store.checkpoints.unsaved == 0
