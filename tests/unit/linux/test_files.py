"""A replaced file has either the old or the new content, never a mixture."""

from __future__ import annotations

import ast
import os
import stat
from pathlib import Path

import pytest

from runtime.linux.files import open_private, remove, sync_directory, write_whole
from tests.unit.codegen.project import ROOT


def test_a_file_is_replaced_with_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    mask = os.umask(0o077)
    try:
        write_whole(path, b"new", mode=0o644)
    finally:
        os.umask(mask)
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o644
    assert list(tmp_path.iterdir()) == [path]


def test_a_leftover_of_a_killed_writer_is_replaced_not_followed(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"kept")
    (tmp_path / ".file.new").symlink_to(other)
    write_whole(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"
    assert other.read_bytes() == b"kept"


def test_partial_writes_are_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:7]))
    write_whole(tmp_path / "file", bytes(range(256)) * 40)
    assert (tmp_path / "file").read_bytes() == bytes(range(256)) * 40


def test_a_disk_that_becomes_full_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    room = [3]

    def write(descriptor: int, data: memoryview) -> int:
        if not room[0]:
            raise OSError(28, "No space left on device")
        taken, room[0] = room[0], 0
        return taken

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(OSError, match="No space"):
        write_whole(path, b"new content")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_content_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    for name in ("fdatasync", "rename"):
        call = getattr(os, name)

        def noted(*args: object, name: str = name, call: object = call) -> object:
            done.append(name)
            return call(*args)  # type: ignore[operator]

        monkeypatch.setattr(os, name, noted)
    write_whole(tmp_path / "file", b"new")
    assert done == ["fdatasync", "rename"]
    write_whole(tmp_path / "file", b"newer", durable=False)
    assert done == ["fdatasync", "rename", "rename"]


def test_an_empty_directory_in_the_place_of_a_file_is_deleted(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "directory").mkdir()
    for name in ("file", "directory", "missing"):
        remove(tmp_path / name)
    assert os.listdir(tmp_path) == []
    (tmp_path / "directory/of").mkdir(parents=True)
    with pytest.raises(OSError, match="not empty"):
        remove(tmp_path / "directory")


def test_a_private_file_is_created_or_made_private(tmp_path: Path) -> None:
    (tmp_path / "readable").touch(0o644)
    for name in ("readable", "new"):
        os.close(open_private(tmp_path / name))
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600


def test_what_another_file_stands_for_is_not_made_private(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.touch(0o644)
    (tmp_path / "link").symlink_to(other)
    (tmp_path / "directory").mkdir()
    os.mkfifo(tmp_path / "fifo", 0o644)
    for name in ("link", "directory", "fifo"):
        with pytest.raises(OSError, match=f"not a regular file; delete it: '.*/{name}'"):
            open_private(tmp_path / name)
    for path in (other, tmp_path / "fifo"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_a_directory_that_is_gone_needs_no_sync(tmp_path: Path) -> None:
    sync_directory(tmp_path)
    sync_directory(tmp_path / "gone")


def test_no_other_module_of_runtime_replaces_files() -> None:
    renames = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in sorted((ROOT / "runtime").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and (node.func.attr == "rename" or ast.unparse(node.func) == "os.replace")
    ]
    assert len(renames) == 1 and renames[0].startswith("runtime/linux/files.py:")
