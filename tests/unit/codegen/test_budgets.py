"""How much processor time the commands may take, user and system, with all processes they start.

The budgets are for an idle machine. A busy one is slower for the same work, so a loop of known
length is timed too, and the budgets grow by as much as it takes longer. A command that exceeds its
budget is tried again: another process may have had the other half of the same core.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.unit.codegen.project import ROOT

_LOOP = 0.03
"""Seconds for the loop on an idle machine of 2026."""
_TRIES = 6
_BUDGETS = {
    "cold": (3.0, ["check"]),
    "nothing changed": (1.0, ["check"]),
    "explain": (0.5, ["explain", "LinuxContainerResources.cpu_period"]),
    "explain a target": (0.5, ["explain", "linux.resources.cpu.shares"]),
    "diff": (1.0, ["diff", "1.25", "1.36"]),
}
"""``check`` with an empty cache does all that ``generate`` does, and writes nothing."""


def _seconds(words: list[str], cache: Path) -> float:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", "from codegen.script import main; main()", *words],
        cwd=ROOT,
        env={**environment, "XDG_CACHE_HOME": str(cache)},
        capture_output=True,
        text=True,
        check=False,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _loop() -> float:
    start, total = time.process_time(), 0
    for number in range(10**6):
        total += number
    return time.process_time() - start


def _slowness() -> float:
    return statistics.median(_loop() for _ in range(5)) / _LOOP


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that is filled, as is the bytecode of the generator."""
    folder = tmp_path_factory.mktemp("cache")
    _seconds(["check"], folder)
    return folder


@pytest.mark.parametrize("what", _BUDGETS)
def test_a_command_stays_within_its_budget(what: str, cache: Path, tmp_path: Path) -> None:
    budget, words = _BUDGETS[what]
    tries = []
    for number in range(_TRIES):
        before = _slowness()
        taken = _seconds(words, tmp_path / str(number) if what == "cold" else cache)
        slowness = max(1.0, before, _slowness())
        if taken <= budget * slowness:
            return
        tries.append(f"{taken:.2f} s, machine slower by {slowness:.2f}")
    pytest.fail("; ".join(tries))
