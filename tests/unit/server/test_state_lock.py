"""The state directory and its lock are inaccessible to other users of the node."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from runtime.config.tables import ConfigError
from runtime.linux.directories import make_private
from runtime.server import state_lock

_NOBODY = 65534


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def _as_nobody(tried: Path) -> int:
    """The errno that an unprivileged user gets when opening the path; 0 if it succeeds."""
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(_NOBODY)
            os.setuid(_NOBODY)
            os.open(tried, os.O_RDONLY)
        except OSError as error:
            os._exit(error.errno or 255)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_private_directory_is_made_with_its_parents(tmp_path: Path) -> None:
    make_private(tmp_path / "a" / "b")
    assert _mode(tmp_path / "a" / "b") == 0o700


@pytest.mark.parametrize("mode", [0o711, 0o755, 0o777])
def test_a_readable_directory_is_made_private(tmp_path: Path, mode: int) -> None:
    directory = tmp_path / "state"
    directory.mkdir()
    directory.chmod(mode)
    (directory / "lock").touch(0o644)
    with state_lock.alone_in(directory):
        assert _mode(directory) == 0o700
        assert _mode(directory / "lock") == 0o600


def test_a_link_in_the_place_of_the_lock_is_refused_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to("/dev/null")
    with (
        pytest.raises(ConfigError, match=r"not a regular file; delete it: '.*/lock'"),
        state_lock.alone_in(tmp_path),
    ):
        pass


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to become another user")
def test_another_user_can_access_neither_the_lock_nor_the_directory(tmp_path: Path) -> None:
    for parent in [tmp_path, *tmp_path.parents]:
        if parent.stat().st_mode & 0o001 == 0:
            parent.chmod(parent.stat().st_mode | 0o011)
    (tmp_path / "open").touch(0o644)
    assert _as_nobody(tmp_path / "open") == 0
    state = tmp_path / "state"
    with state_lock.alone_in(state):
        (state / "shm").mkdir()
        (state / "shm").chmod(0o1777)
        assert _as_nobody(state / "lock") == 13
        assert _as_nobody(state / "shm") == 13


def test_the_holder_of_a_lock_is_found_by_device_and_inode() -> None:
    file = os.stat(__file__)
    device = f"{os.major(file.st_dev):02x}:{os.minor(file.st_dev):02x}"
    text = (
        f"1: POSIX  ADVISORY  WRITE 7 {device}:{file.st_ino} 0 EOF\n"
        f"2: FLOCK  ADVISORY  WRITE 8 {device}:{file.st_ino + 1} 0 EOF\n"
        f"3: FLOCK  ADVISORY  WRITE 9 {device}:{file.st_ino} 0 EOF\n"
        f"3: -> FLOCK  ADVISORY  WRITE 10 {device}:{file.st_ino} 0 EOF\n"
    )
    assert state_lock.holder(file, text) == 9
    assert state_lock.holder(file, "") is None
