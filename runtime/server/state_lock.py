"""One server at a time on a state directory: two would both adopt its pods."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from runtime.config.tables import ConfigError
from runtime.linux.directories import make_private

_LOCKS: Final = Path("/proc/locks")


@contextlib.contextmanager
def alone_in(state_dir: Path) -> Iterator[None]:
    """Hold the state directory, which is made if it is missing and closed to other users.

    Raises ConfigError, naming the process, when another one holds it or when the directory cannot
    be made.
    """
    try:
        make_private(state_dir)
        descriptor = os.open(state_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(f"{state_dir}: cannot be used as state directory: {error}") from error
    with os.fdopen(descriptor, "w") as lock:
        os.fchmod(descriptor, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigError(
                f"{state_dir}: another process uses this state directory{_holder(descriptor)}; "
                "stop it or give this one its own --state and --root"
            ) from error
        yield


def _holder(descriptor: int) -> str:
    """Who has the lock, as the end of a sentence; "" when the kernel does not tell.

    A state directory of an earlier version was open to all users, and any of them may still have
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
    """The process that has a flock on ``file`` by ``locks``, the text of /proc/locks (proc(5))."""
    device = f"{os.major(file.st_dev):02x}:{os.minor(file.st_dev):02x}:{file.st_ino}"
    for line in locks.splitlines():
        words = line.split()
        # 1: FLOCK ADVISORY WRITE 1234 00:19:5678 0 EOF; a waiting one has "->" after the number
        if len(words) >= 6 and words[1] == "FLOCK" and words[5] == device:
            return int(words[4])
    return None
