"""ExecSync without descriptors leaves none behind."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from runtime.containers.exec import output_pipes
from runtime.errors import CriError, ResourceExhausted, Unknown


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("succeed", range(4))
@pytest.mark.parametrize(
    ("number", "kind"), [(errno.EMFILE, ResourceExhausted), (errno.EIO, Unknown)]
)
async def test_pipes_that_cannot_be_made_leave_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    succeed: int,
    number: int,
    kind: type[CriError],
) -> None:
    left, really_open = succeed, os.open

    def open_some(*args: Any, **kwargs: Any) -> int:
        nonlocal left
        if not left:
            raise OSError(number, os.strerror(number))
        left -= 1
        return really_open(*args, **kwargs)

    before = descriptors()
    monkeypatch.setattr(os, "open", open_some)
    with pytest.raises(kind, match=f"output of a command in .*: {os.strerror(number)}"):
        output_pipes(tmp_path / "exec", "id")
    monkeypatch.undo()
    assert descriptors() == before
    assert list((tmp_path / "exec").iterdir()) == []


async def test_both_pipes_are_there(tmp_path: Path) -> None:
    before = descriptors()
    pipes = output_pipes(tmp_path / "exec", "id")
    assert sorted(path.name for path in (tmp_path / "exec").iterdir()) == ["id-stderr", "id-stdout"]
    for pipe in pipes:
        pipe.close()
    assert descriptors() == before
