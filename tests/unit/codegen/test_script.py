"""The command cri-codegen whatever its caller has done to locale and streams."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.unit.codegen.project import ROOT

_LATIN = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
"""A locale whose encoding is not UTF-8, as Python starts in it."""


def _run(words: str, more: dict[str, str], closed: str = "") -> subprocess.CompletedProcess[bytes]:
    command = f'exec "$0" -m codegen {words} {closed}'
    return subprocess.run(
        ["sh", "-c", command, sys.executable],
        cwd=ROOT,
        env={**os.environ, **more},
        capture_output=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("more", "begins"),
    [
        (_LATIN, "## 1.35 → 1.36\n".encode()),
        ({"PYTHONIOENCODING": "ascii"}, b"## 1.35 \\u2192 1.36\n"),
    ],
)
def test_files_are_utf8_whatever_the_locale_is(more: dict[str, str], begins: bytes) -> None:
    ran = _run("diff 1.35 1.36", more)
    assert (ran.returncode, ran.stderr) == (0, b"")
    assert ran.stdout.startswith(begins)


def test_closed_streams_are_no_fault_and_are_not_written_to_files() -> None:
    assert _run("explain ImageSpec.image", {}, "<&- >&-").returncode == 0
    refused = _run("explain ImageSpec.imag", {}, "<&- >&- 2>&-")
    assert (refused.returncode, refused.stdout, refused.stderr) == (1, b"", b"")
