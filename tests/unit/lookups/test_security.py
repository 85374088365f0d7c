"""The default AppArmor profile is part of the program, and is passed to the parser unchanged."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from generated.oci import defaults
from runtime.errors import FailedPrecondition
from runtime.lookups import security as lookups
from runtime.transforms import security
from tests.unit.processes import recorded_processes

PROFILE = Path(__file__).resolve().parents[3] / "spec" / "oci" / "apparmor.profile"


def parser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Replace apparmor_parser by a program, on a node that has loaded no profile."""
    program = tmp_path / "apparmor_parser"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(lookups, "apparmor_parser", lambda: str(program))
    monkeypatch.setattr(lookups, "loaded_apparmor_profiles", frozenset)


def test_the_profile_is_the_reviewed_one_under_the_name_that_specs_use() -> None:
    assert PROFILE.read_text() == defaults.APPARMOR_PROFILE
    assert f"\nprofile {security.DEFAULT_APPARMOR_PROFILE} " in defaults.APPARMOR_PROFILE


async def test_the_profile_is_loaded_by_the_parser(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parser(tmp_path, monkeypatch, f'echo "$@" >{tmp_path}/flags; cat >{tmp_path}/seen')
    await lookups.load_default_apparmor()
    # missing includes and the signal peer depend on the node
    assert "profile cri-containerd.apparmor.d flags=" in (tmp_path / "seen").read_text()
    assert (tmp_path / "flags").read_text() == "--replace --skip-cache\n"


async def test_a_parser_that_refuses_is_quoted_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parser(tmp_path, monkeypatch, "cat >/dev/null; echo 'no such abi' >&2; exit 1")
    with pytest.raises(FailedPrecondition, match=r"no such abi; .*disable_apparmor = true"):
        await lookups.load_default_apparmor()


async def test_a_parser_that_hangs_is_killed_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookups, "_PARSER_LIMIT", 0.2)
    parser(tmp_path, monkeypatch, "exec sleep 1000")
    started = recorded_processes(monkeypatch)
    with pytest.raises(FailedPrecondition, match=r"did not end within 0\.2 s; .*disable_apparmor"):
        await lookups.load_default_apparmor()
    assert [await process.wait() for process in started] == [-signal.SIGKILL]


async def test_a_parser_that_was_uninstalled_is_named_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parser(tmp_path, monkeypatch, "exit 0")
    (tmp_path / "apparmor_parser").unlink()
    with pytest.raises(FailedPrecondition, match=r"not installed any more; .*disable_apparmor"):
        await lookups.load_default_apparmor()
