"""What holds for all tests: how hypothesis runs, and what the run says at its end."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

from tests.harness import newer_containerd
from tests.harness.node import containerds

# how long an example takes says more of the machine's other work than of the code
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")

_ON_CONTAINERD = ("tests/e2e/", "tests/images/")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say where a fault of the newest containerd would not have been seen."""
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
