"""The kernel's table of mounts."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime.linux import mountinfo

MOUNTINFO = (
    "21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
    "22 21 0:5 / /var rw - ext4 /dev/sdb rw\n"
    "23 22 0:6 / /var/lib/with\\040space rw shared:7 master:1 - ext4 /dev/sdc rw\n"
    "24 22 0:7 / /var rw master:3 - tmpfs tmpfs rw,size=64k\n"
)


def test_the_longest_mount_point_holds_a_path_and_the_latest_covers() -> None:
    root, _, spaced, covering = mounts = mountinfo.parse(MOUNTINFO)
    assert mountinfo.holding("/etc", mounts) is root
    assert mountinfo.holding("/var/lib", mounts) is covering
    assert mountinfo.holding("/variable", mounts) is root
    assert mountinfo.holding("/var/lib/with space/a", mounts) is spaced


def test_kind_options_and_propagation_of_a_mount() -> None:
    root, plain, spaced, covering = mountinfo.parse(MOUNTINFO)
    assert (root.shared, root.slave, root.kind) == (True, False, "ext4")
    assert (plain.shared, plain.slave) == (False, False)
    assert (spaced.shared, spaced.slave) == (True, True)
    assert (covering.kind, covering.options) == ("tmpfs", ("rw", "size=64k"))


def test_mounts_below_come_deepest_and_newest_first() -> None:
    mounts = mountinfo.parse(MOUNTINFO)
    assert mountinfo.below("/var", mounts) == ["/var/lib/with space", "/var", "/var"]
    assert mountinfo.below("/va", mounts) == []


@pytest.mark.parametrize(
    ("directory", "below"),
    [
        ("/run/pods", ["/run/pods/b c/shm", "/run/pods/b c"]),
        ("/run/pods/b c", ["/run/pods/b c/shm", "/run/pods/b c"]),
        ("/run/po", []),
        ("/run/odd", ["/run/odd/\rname\u2028", "/run/odd/\\040"]),
        ("/elsewhere", []),
    ],
)
def test_the_mounts_below_a_directory_now(
    directory: str, below: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [
        "30 1 0:9 / /run/pods/b\\040c rw - tmpfs tmpfs rw",
        "31 30 0:9 / /run/pods/b\\040c/shm rw - tmpfs tmpfs rw",
        "32 1 0:9 / /run/odd/\\134040 rw - tmpfs tmpfs rw",
        "33 1 0:9 / /run/odd/\rname\u2028 rw - tmpfs tmpfs rw",
    ]
    (tmp_path / "mountinfo").write_text(MOUNTINFO + "\n".join(lines) + "\n", newline="\n")
    monkeypatch.setattr(mountinfo, "_MOUNTINFO", tmp_path / "mountinfo")
    found = mountinfo.now_below(directory)
    assert found == mountinfo.below(directory, mountinfo.read())
    assert found == below
