"""The programs that the code under test starts with asyncio."""

from __future__ import annotations

import asyncio
from asyncio.subprocess import Process
from typing import Any

import pytest


def recorded_processes(monkeypatch: pytest.MonkeyPatch) -> list[Process]:
    """A list to which every process is added that is started from here on."""
    start = asyncio.create_subprocess_exec
    started: list[Process] = []

    async def recorded(*command: str, **options: Any) -> Process:
        started.append(await start(*command, **options))
        return started[-1]

    monkeypatch.setattr(asyncio, "create_subprocess_exec", recorded)
    return started
