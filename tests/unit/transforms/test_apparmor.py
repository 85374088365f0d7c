"""The default AppArmor profile, on nodes that have all of its includes or only some."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from runtime.transforms import apparmor

PROFILE = (Path(__file__).parents[3] / "spec" / "oci" / "apparmor.profile").read_text()


def test_a_node_with_everything_gets_the_profile_as_it_is() -> None:
    found = apparmor.default_profile(PROFILE, present=apparmor.INCLUDED, confined_by="")
    assert found == PROFILE


@pytest.mark.parametrize("missing", apparmor.INCLUDED)
def test_what_a_node_lacks_is_left_out(missing: str) -> None:
    assert f"<{missing}>" in PROFILE
    present = [name for name in apparmor.INCLUDED if name != missing]
    found = apparmor.default_profile(PROFILE, present=present, confined_by="")
    assert f"<{missing}>" not in found
    assert all(f"<{name}>" in found for name in present)
    assert ("@{PROC}=/proc/\n" in found) is (missing == "tunables/global")


def test_a_confined_server_can_signal_its_containers() -> None:
    found = apparmor.default_profile(PROFILE, present=(), confined_by="/usr/bin/x//y z")
    assert '  signal (receive) peer="/usr/bin/x//y z",\n' in found


@pytest.mark.parametrize(
    ("current", "profile"),
    [
        ("unconfined\n", ""),
        ("unconfined (complain)\n", ""),
        ("containerd (enforce)\n", "containerd"),
        ("/usr/bin/a b (complain)\n", "/usr/bin/a b"),
        ("", ""),
        ("system_u:system_r:init_t:s0\0", ""),
    ],
)
def test_the_profile_of_a_process(current: str, profile: str) -> None:
    assert apparmor.profile_of_process(current) == profile


@pytest.mark.parametrize("present", [(), ("tunables/global", "abstractions/base")])
def test_the_parser_reads_what_is_left(present: tuple[str, ...]) -> None:
    parser = shutil.which("apparmor_parser", path="/sbin:/usr/sbin")
    if parser is None:
        pytest.skip("needs apparmor_parser")
    text = apparmor.default_profile(PROFILE, present=present, confined_by="containerd")
    done = subprocess.run(
        [parser, "--skip-kernel-load", "--skip-cache", "--quiet"], input=text.encode(), timeout=60
    )
    assert done.returncode == 0
