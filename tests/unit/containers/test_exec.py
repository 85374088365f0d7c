"""ExecSync that runs out of descriptors leaks none."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from runtime.containers.exec import output_pipes
from runtime.errors import CriError
from tests.unit.containers.failing_opens import descriptors, every_failure, failing_opens


@every_failure
async def test_an_exec_sync_whose_pipes_cannot_be_created_leaves_nothing(
    tmp_path: Path, succeed: int, number: int, kind: type[CriError]
) -> None:
    before = descriptors()
    says = f"output of a command in .*: {os.strerror(number)}"
    with failing_opens(succeed, number), pytest.raises(kind, match=says):
        output_pipes(tmp_path / "exec", "id")
    assert descriptors() <= before
    assert list((tmp_path / "exec").iterdir()) == []


async def test_both_pipes_are_there(tmp_path: Path) -> None:
    before = descriptors()
    pipes = output_pipes(tmp_path / "exec", "id")
    assert sorted(path.name for path in (tmp_path / "exec").iterdir()) == ["id-stderr", "id-stdout"]
    for pipe in pipes:
        pipe.close()
    assert descriptors() <= before
