"""Sources of mounts: made, resolved, with their propagation."""

from __future__ import annotations

from pathlib import Path

import pytest

from generated.cri import api_pb2
from runtime.errors import InvalidArgument
from runtime.lookups.mounts import MountPoint, host_sources, mount_point_of, parse_mount_points
from runtime.transforms.facts import MountSource

MOUNTINFO = (
    "21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
    "22 21 0:5 / /var rw - ext4 /dev/sdb rw\n"
    "23 22 0:6 / /var/lib/with\\040space rw shared:7 master:1 - ext4 /dev/sdc rw\n"
    "24 22 0:7 / /var rw master:3 - tmpfs tmpfs rw\n"
)


def test_the_longest_mount_point_holds_a_path_and_the_latest_covers() -> None:
    table = parse_mount_points(MOUNTINFO)
    assert mount_point_of("/etc", table) == MountPoint("/", True, False)
    assert mount_point_of("/var/lib", table) == MountPoint("/var", False, True)
    assert mount_point_of("/variable", table) == MountPoint("/", True, False)
    assert mount_point_of("/var/lib/with space/a", table) == MountPoint(
        "/var/lib/with space", True, True
    )


def test_a_missing_source_is_made_and_links_are_resolved(tmp_path: Path) -> None:
    missing = tmp_path / "a/b"
    link = tmp_path / "link"
    link.symlink_to(missing)
    mounts = [api_pb2.Mount(host_path=str(missing)), api_pb2.Mount(host_path=str(link))]
    assert host_sources(mounts) == (MountSource(str(missing)), MountSource(str(missing)))
    assert missing.is_dir()


def test_a_source_that_cannot_be_made_names_its_field(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        InvalidArgument, match=r"config\.mounts\[0\]\.host_path: cannot use or make"
    ):
        host_sources([api_pb2.Mount(host_path=str(tmp_path / "file/below"))])


def test_propagation_is_looked_up_when_it_is_asked_for(tmp_path: Path) -> None:
    mount = api_pb2.Mount(
        host_path=str(tmp_path), propagation=api_pb2.PROPAGATION_HOST_TO_CONTAINER
    )
    (source,) = host_sources([mount])
    assert source.path == str(tmp_path)
