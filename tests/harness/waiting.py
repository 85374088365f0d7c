"""Waiting for what a real node does asynchronously."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

PATIENCE: Final = 60.0
"""Maximum seconds that a test waits. A wait that succeeds ends at once, so a long limit costs
nothing, and a loaded or emulated machine is slow."""


def wait_until(condition: Callable[[], bool], seconds: float = PATIENCE) -> None:
    """Return as soon as ``condition`` holds; fail if it does not hold within ``seconds``."""
    assert became_true(condition, seconds), f"the condition did not become true in {seconds:.0f} s"


async def until(condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    """As ``wait_until``, in a coroutine."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"it did not become true in {seconds:.0f} s"
        await asyncio.sleep(0.005)


def became_true(condition: Callable[[], bool], seconds: float = PATIENCE) -> bool:
    """Whether ``condition`` held at some time within ``seconds``."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
