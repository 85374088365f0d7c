"""Newer containerds in the cache: which is used, and what the run reports without one."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from tests.conftest import pytest_terminal_summary
from tests.harness import debian, newer_containerd, node


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(newer_containerd, "CACHE", tmp_path / "cache")
    monkeypatch.delenv("CRI_TEST_CONTAINERDS", raising=False)
    return tmp_path / "cache"


def put(cache: Path, release: str, version: str) -> Path:
    """A release in the cache whose containerd says this version."""
    bin_dir = cache / release / "files" / "bin"
    bin_dir.mkdir(parents=True)
    program = bin_dir / "containerd"
    program.write_text(f"#!/bin/sh\necho containerd example.org/containerd {version}\n")
    program.chmod(0o755)
    (cache / release / "current").symlink_to("files")
    return bin_dir


def test_tests_run_on_the_systems_and_the_newest(cache: Path) -> None:
    put(cache, "trixie", "97.1.0~ds1")
    newest = put(cache, "sid", "98.1.9+ds1")
    assert [one.name for one in node.containerds()] == ["system", "sid"]
    assert [one.name for one in node.all_containerds()] == ["system", "trixie", "sid"]
    assert node.containerds()[1].bin_dir == newest


def test_a_version_is_tested_once(cache: Path) -> None:
    put(cache, "trixie", "98.1.9~ds2")
    put(cache, "sid", "98.1.9+ds1")
    assert [one.name for one in node.all_containerds()] == ["system", "trixie"]


def test_without_packages_the_reason_is_kept(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable() -> str:
        raise debian.Unavailable("no Debian source in /etc/apt names a mirror")

    monkeypatch.setattr(debian, "mirror", unreachable)
    newer_containerd.unpack()
    assert newer_containerd.problem() == "no Debian source in /etc/apt names a mirror"
    assert [one.name for one in node.containerds()] == ["system"]


def test_a_directory_may_be_named_and_an_unknown_name_says_which_are_known(
    cache: Path, tmp_path: Path
) -> None:
    own = put(tmp_path, "own", "98.2.0")
    assert node.find_containerd(str(own)).bin_dir == own
    with pytest.raises(ValueError, match=r"no containerd named 2\.1; known: system"):
        node.find_containerd("2.1")


class Terminal:
    """The end of a run of one test, as the hook sees it."""

    def __init__(self, node_id: str) -> None:
        self.report = pytest.TestReport(node_id, ("", 0, ""), {}, "passed", None, "call")
        self.said: list[str] = []

    def getreports(self, outcome: str) -> list[pytest.TestReport]:
        return [self.report] if outcome == "passed" else []

    def section(self, title: str, **_: bool) -> None:
        self.said.append(title)

    def write_line(self, line: str) -> None:
        self.said.append(line)


@pytest.mark.parametrize(
    ("test", "there", "says"),
    [
        ("tests/e2e/test_walk.py::test_walk", False, True),
        ("tests/e2e/test_walk.py::test_walk", True, False),
        ("tests/unit/test_netns.py::test_one", False, False),
    ],
)
def test_a_run_without_the_newest_says_so_in_its_last_lines(
    cache: Path, test: str, there: bool, says: bool
) -> None:
    if there:
        put(cache, "sid", "98.1.9+ds1")
    else:
        cache.mkdir()
        (cache / "problem").write_text("apt-get update: E: no such mirror\n")
    terminal = Terminal(test)
    pytest_terminal_summary(cast("pytest.TerminalReporter", terminal))
    assert any("no such mirror" in line for line in terminal.said) is says
