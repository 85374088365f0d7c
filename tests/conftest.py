"""Applies to all tests: the hypothesis settings, and the summary at the end of a run."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

from tests.harness import newer_containerd
from tests.harness.node import containerds

# the duration of an example depends more on the machine's load than on the code
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")

_ON_CONTAINERD = ("tests/e2e/", "tests/images/")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Report on which containerd versions the tests did not run."""
    ran = any(
        report.nodeid.startswith(_ON_CONTAINERD)
        for report in terminalreporter.getreports("passed")
        if isinstance(report, pytest.TestReport)
    )
    if not ran or len(containerds()) > 1:
        return
    why = newer_containerd.problem() or "it was not unpacked; ./dev test does that"
    if "CRI_TEST_CONTAINERDS" in os.environ:
        why = "CRI_TEST_CONTAINERDS says so"
    terminalreporter.section("containerd", yellow=True)
    terminalreporter.write_line(
        f"The tests on containerd ran on the system's alone, not on the newest one: {why}"
    )
