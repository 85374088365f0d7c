"""One server at a time on a state directory: two would both adopt its pods."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from runtime.config import ConfigError


@contextlib.contextmanager
def alone_in(state_dir: Path) -> Iterator[None]:
    """Hold the state directory, which is made if it is missing.

    Raises ConfigError when another server holds it.
    """
    state_dir.mkdir(mode=0o711, parents=True, exist_ok=True)
    with (state_dir / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigError(
                f"{state_dir}: another cri-containerd uses this state directory; "
                "stop it or give this one its own --state and --root"
            ) from error
        yield
