"""The output of commands: its start and end, the limit, the clean-up."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from runtime.containers.exec_output import OutputPipe
from tests.harness.waiting import PATIENCE
from tests.unit.containers.failing_opens import descriptors


async def written(pipe: OutputPipe, content: bytes) -> None:
    """Write as the shim does: from outside the loop, and then close."""

    def write() -> None:
        with open(pipe.path, "wb") as file:
            file.write(content)

    await asyncio.to_thread(write)


async def test_an_output_that_has_not_begun_has_not_ended(tmp_path: Path) -> None:
    pipe = OutputPipe(tmp_path / "fifo", limit=100)
    await asyncio.sleep(0.05)
    assert not pipe.ended.done()
    await written(pipe, b"out")
    await asyncio.sleep(0.05)
    # the shim of the next process of the same container may still open it
    assert not pipe.ended.done()
    pipe.started()
    await asyncio.wait_for(pipe.ended, PATIENCE)
    assert pipe.content == b"out"
    pipe.close()


async def test_a_process_without_output_ends_it_at_once(tmp_path: Path) -> None:
    pipe = OutputPipe(tmp_path / "fifo", limit=100)
    pipe.started()
    await asyncio.wait_for(pipe.ended, PATIENCE)
    assert pipe.content == b""
    pipe.close()


async def test_output_beyond_the_limit_is_dropped(tmp_path: Path) -> None:
    pipe = OutputPipe(tmp_path / "fifo", limit=10)
    # far more than a pipe holds: the writer would block without a reader
    await asyncio.wait_for(written(pipe, b"0123456789" * 100_000), PATIENCE)
    pipe.started()
    await asyncio.wait_for(pipe.ended, PATIENCE)
    assert pipe.content == b"0123456789"
    pipe.close()


async def test_closing_leaves_neither_file_nor_descriptor(tmp_path: Path) -> None:
    before = descriptors()
    pipe = OutputPipe(tmp_path / "fifo", limit=10)
    pipe.close()
    pipe.close()
    assert not pipe.path.exists()
    assert descriptors() <= before
    assert pipe.ended.done()


async def test_an_existing_path_is_not_reused(tmp_path: Path) -> None:
    (tmp_path / "fifo").write_text("somebody's")
    with pytest.raises(FileExistsError):
        OutputPipe(tmp_path / "fifo", limit=10)
