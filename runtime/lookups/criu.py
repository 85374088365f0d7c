"""CRIU, which runc runs to write the state of processes to files: whether it can be used."""

from __future__ import annotations

import asyncio
import re
import shutil
from typing import Final

from runtime.containerd.runtime_options import SEARCH
from runtime.errors import FailedPrecondition, Unimplemented

OLDEST: Final = (3, 16)
"""The first CRIU that checkpoints containers in pods; the built-in plugin's minimum as well."""

_VERSION: Final = re.compile(r"^Version: (\d+)\.(\d+)", re.MULTILINE)
_LIMIT: Final = 10.0
"""Seconds for CRIU to print its version."""


async def must_work(*, enabled: bool) -> None:
    """Return if CRIU can be used; it is looked for at each call, because it can be installed later.

    Raises Unimplemented if the configuration disables it, and FailedPrecondition if it is missing
    or too old. Whether it can handle the kernel is known only when it runs.
    """
    if not enabled:
        raise Unimplemented("checkpoints are disabled on this node: set enable_criu = true")
    said = await version()
    if said is None:
        raise FailedPrecondition(
            "checkpoints need CRIU, which is not installed: install it where containerd finds it"
            ' (Debian: "apt install criu")'
        )
    if said < OLDEST:
        raise FailedPrecondition(
            f"checkpoints need CRIU {_dotted(OLDEST)} or newer, and this node has {_dotted(said)}"
        )


async def version() -> tuple[int, int] | None:
    """The version of the CRIU on PATH; None if there is none, or if it does not run."""
    path = shutil.which("criu", path=SEARCH)
    if path is None:
        return None
    try:
        process = await asyncio.create_subprocess_exec(
            path,
            "--version",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
    except OSError:
        return None
    try:
        async with asyncio.timeout(_LIMIT):
            out, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        return None
    return parsed(out.decode(errors="replace"))


def parsed(text: str) -> tuple[int, int] | None:
    """The version in the output of ``criu --version``; None if it has none."""
    found = _VERSION.search(text)
    return (int(found[1]), int(found[2])) if found else None


def _dotted(number: tuple[int, int]) -> str:
    return ".".join(map(str, number))
