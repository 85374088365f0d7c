"""Endless loops of the server are watched: an error is logged and the loop restarted."""

from __future__ import annotations

import ast
import asyncio
from unittest.mock import Mock

import pytest

from runtime.steps import watched as module
from runtime.steps.watched import ended, watched
from tests.harness.waiting import until
from tests.unit.codegen.project import ROOT

_STARTERS = ("create_task", "ensure_future")


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Mock:
    monkeypatch.setattr(module, "_FIRST_PAUSE", 0.01)
    log = Mock()
    monkeypatch.setattr(module, "log", log)
    return log


async def test_a_failure_is_logged_and_the_work_runs_again(log: Mock) -> None:
    runs: list[int] = []

    async def work() -> None:
        runs.append(1)
        if len(runs) == 1:
            raise OSError(24, "Too many open files")
        if len(runs) > 2:
            await asyncio.Event().wait()

    task = watched("the CNI directory", work)
    await until(lambda: len(runs) == 3)
    failed, returned = (call.kwargs for call in log.error.call_args_list)
    assert failed["task"] == returned["task"] == "the CNI directory"
    assert failed["error"] == "OSError(24, 'Too many open files')"
    assert returned["error"] == "it returned"
    await ended(task)
    assert task.cancelled()


async def test_the_pause_grows(log: Mock) -> None:
    task = watched("x", Mock(side_effect=ValueError))
    await until(lambda: log.error.call_count >= 4)
    await ended(task)
    pauses = [call.kwargs["after"] for call in log.error.call_args_list]
    assert pauses[:4] == ["0.01 s", "0.02 s", "0.04 s", "0.08 s"]


async def test_ending_a_task_leaves_the_callers_cancellation_alone() -> None:
    async def slow_to_end() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.2)

    task = asyncio.create_task(slow_to_end())
    await asyncio.sleep(0)
    caller = asyncio.create_task(ended(task))
    await asyncio.sleep(0.01)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    await ended(task)


def test_no_endless_loop_is_a_bare_task() -> None:
    """A function that loops for ever, or follows a stream, is started by ``watched`` or the App."""
    found = []
    for path in sorted((ROOT / "runtime").rglob("*.py")):
        tree = ast.parse(path.read_text())
        coroutines = [node for node in ast.walk(tree) if isinstance(node, ast.AsyncFunctionDef)]
        endless = {node.name for node in coroutines if _is_endless(node)}
        for call in ast.walk(tree):
            if isinstance(call, ast.Call) and _name(call.func) in _STARTERS and call.args:
                work = call.args[0]
                if isinstance(work, ast.Call) and _name(work.func) in endless:
                    found.append(f"{path.relative_to(ROOT)}: {_name(work.func)}")
    assert found == ["runtime/steps/watched.py: _run"]


def _name(function: ast.expr) -> str:
    return getattr(function, "attr", getattr(function, "id", ""))


def _is_endless(node: ast.AsyncFunctionDef) -> bool:
    """Return whether a coroutine function has a ``while True`` without an exit."""
    return any(
        isinstance(loop, ast.While)
        and isinstance(loop.test, ast.Constant)
        and not any(isinstance(inner, ast.Return | ast.Break) for inner in ast.walk(loop))
        for loop in ast.walk(node)
    )
