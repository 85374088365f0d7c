"""Allows one server at a time per state directory: two would manage the same pods."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from runtime.config.tables import ConfigError
from runtime.linux import files
from runtime.linux.directories import make_private

_LOCKS: Final = Path("/proc/locks")


@contextlib.contextmanager
def alone_in(state_dir: Path) -> Iterator[None]:
    """Lock the state directory, which is created if missing and made inaccessible to other users.

    Raises ConfigError, naming the process, if another one holds the lock or the directory cannot be
    created.
    """
    try:
        make_private(state_dir)
        descriptor = files.open_private(state_dir / "lock")
    except OSError as error:
        raise ConfigError(f"{state_dir}: cannot be used as the state directory: {error}") from error
    with os.fdopen(descriptor, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigError(
                f"{state_dir}: another process uses this state directory{_holder(descriptor)}; "
                "stop it or start this one with another --state and --root"
            ) from error
        yield


def _holder(descriptor: int) -> str:
    """The lock's holder, as the end of a sentence; "" if the kernel does not report it.

    An earlier version left the state directory open to all users, and any of them may still hold
    the lock.
    """
    pid = holder(os.fstat(descriptor), _LOCKS.read_text())
    try:
        user = Path("/proc", str(pid)).stat().st_uid
        name = Path("/proc", str(pid), "comm").read_text(errors="replace").strip()
    except OSError:
        return ""
    return f": process {pid} ({name}, uid {user})"


def holder(file: os.stat_result, locks: str) -> int | None:
    """The process that has a flock on ``file`` according to ``locks``, the text of /proc/locks
    (proc(5))."""
    device = f"{os.major(file.st_dev):02x}:{os.minor(file.st_dev):02x}:{file.st_ino}"
    for line in locks.splitlines():
        words = line.split()
        # 1: FLOCK ADVISORY WRITE 1234 00:19:5678 0 EOF; a waiting one has "->" after the number
        if len(words) >= 6 and words[1] == "FLOCK" and words[5] == device:
            return int(words[4])
    return None
