"""Sources of mounts: created, resolved, with their propagation."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from runtime.errors import FailedPrecondition, InvalidArgument
from runtime.linux import userns
from runtime.lookups.mounts import host_sources
from runtime.transforms.facts import MountSource, RequestedMount

IDS = "0 100000 65536"


def test_a_missing_source_is_made_and_links_are_resolved(tmp_path: Path) -> None:
    missing = tmp_path / "a/b"
    link = tmp_path / "link"
    link.symlink_to(missing)
    mounts = [RequestedMount(str(missing)), RequestedMount(str(link))]
    assert host_sources(mounts) == (MountSource(str(missing)), MountSource(str(missing)))
    assert missing.is_dir()


def test_a_source_that_cannot_be_made_names_its_field(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        InvalidArgument, match=r"config\.mounts\[0\]\.host_path: cannot use or create"
    ):
        host_sources([RequestedMount(str(tmp_path / "file/below"))])


def test_an_image_that_was_unmounted_meanwhile_gets_no_directory(tmp_path: Path) -> None:
    volumes = tmp_path / "image-volumes/pod/1"
    released = RequestedMount(str(volumes), image="busybox")
    with pytest.raises(FailedPrecondition, match=r"config\.mounts\[0\]\.image: .* stopped"):
        host_sources([released])
    assert not (tmp_path / "image-volumes").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_whether_ids_can_be_mapped_is_tried_where_the_request_maps_them() -> None:
    mapped = [RequestedMount(path, uid_map=IDS) for path in ("/sys", "/tmp")]
    with userns.held(userns.MapLines(IDS, IDS)) as namespace:
        pid = int(Path(namespace).parts[2])
        sys, tmp = host_sources(mapped, pid)
        (unasked,) = host_sources([RequestedMount("/sys")], pid)
    assert sys.idmap_problem.startswith("its file system cannot be mounted idmapped on this kernel")
    assert (tmp.idmap_problem, unasked.idmap_problem) == ("", "")
    # without a process, the OCI runtime tells
    assert host_sources(mapped)[0].idmap_problem == ""


@pytest.mark.parametrize("target", ["nowhere", "link"])
def test_a_dangling_link_is_reported(tmp_path: Path, target: str) -> None:
    (tmp_path / "link").symlink_to(target)
    with pytest.raises(InvalidArgument, match=r"mounts\[0\]\.host_path: .*/link is a symbolic"):
        host_sources([RequestedMount(str(tmp_path / "link"))])


def test_a_mount_without_a_source_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="must name a path of the node, unless image is set"):
        host_sources([RequestedMount("")])


def test_propagation_is_looked_up_when_it_is_asked_for(tmp_path: Path) -> None:
    (source,) = host_sources([RequestedMount(str(tmp_path), propagation="rslave")])
    assert source.path == str(tmp_path)
