"""A directory is deleted completely, or left if that is impossible, without blocking its pod."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest

from runtime.linux.directories import remove_tree


def entries(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]


async def test_a_tree_is_deleted(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/file").touch()
    await remove_tree(tmp_path / "a")
    await remove_tree(tmp_path / "a")
    assert entries(tmp_path) == []


async def test_a_read_only_file_system_does_not_block_a_removal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: str) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)

    monkeypatch.setattr(shutil, "rmtree", refused)
    (tmp_path / "a").mkdir()
    await remove_tree(tmp_path)
    assert entries(tmp_path) == ["a"]


async def test_what_is_renamed_meanwhile_is_deleted_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/status").touch()
    delete, tries = shutil.rmtree, []

    def raced(path: str) -> None:
        tries.append(path)
        if len(tries) == 1:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), ".status.new")
        delete(path)

    monkeypatch.setattr(shutil, "rmtree", raced)
    await remove_tree(tmp_path / "a")
    assert len(tries) == 2
    assert entries(tmp_path) == []
