"""Requested device nodes: single ones, and those of a directory."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from runtime.errors import InvalidArgument
from runtime.lookups import devices
from runtime.transforms.facts import RequestedDevice

NULL = os.makedev(1, 3)


@pytest.fixture
def dev(tmp_path: Path) -> Path:
    """A small /dev."""
    if os.geteuid():
        pytest.skip("needs root: makes device nodes")
    for name in ("null", "sub/zero", "pts/0", "console"):
        node = tmp_path / name
        node.parent.mkdir(exist_ok=True)
        try:
            os.mknod(node, 0o620 | stat.S_IFCHR, NULL)
        except PermissionError:
            pytest.skip("needs CAP_MKNOD")
    os.mkfifo(tmp_path / "initctl")
    (tmp_path / "link").symlink_to("null")
    return tmp_path


def paths(host_path: Path, container_path: str = "") -> list[str]:
    (nodes,) = devices.requested([RequestedDevice(str(host_path), container_path)])
    return [node.device.path for node in nodes]


def test_a_directory_stands_for_its_device_nodes(dev: Path) -> None:
    assert paths(dev, "/x/") == ["/x/null", "/x/sub/zero"]


def test_a_node_appears_where_it_is_asked_for_or_at_its_own_place(dev: Path) -> None:
    assert paths(dev / "link", "/dev/mine") == ["/dev/mine"]
    assert paths(dev / "link") == [str(dev / "null")]


def test_another_file_is_refused_with_its_field(dev: Path) -> None:
    for name in ("initctl", "none"):
        with pytest.raises(InvalidArgument, match=r"config\.devices\[0\]\.host_path: "):
            paths(dev / name)


def test_a_directory_that_may_not_be_entered_is_left_out(
    dev: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered = os.scandir

    def scandir(path: str) -> object:
        if str(path).endswith("/sub"):
            raise PermissionError(13, "Permission denied")
        return entered(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert paths(dev, "/x") == ["/x/null"]


def test_a_tree_that_cannot_be_walked_is_refused_with_its_field(
    dev: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scandir(path: str) -> object:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(InvalidArgument, match=r"devices\[0\]\.host_path: .*Input/output error"):
        paths(dev)


def test_a_directory_of_other_files_is_not_walked_for_ever(
    dev: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "_LARGEST_TREE", 3)
    with pytest.raises(InvalidArgument, match="holds more than 3 files"):
        paths(dev)
