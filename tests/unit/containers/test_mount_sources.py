"""Sources of mounts: made, resolved, with their propagation."""

from __future__ import annotations

from pathlib import Path

import pytest

from generated.cri import api_pb2
from runtime.errors import InvalidArgument
from runtime.lookups.mounts import host_sources
from runtime.transforms.facts import MountSource


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
        InvalidArgument, match=r"config\.mounts\[0\]\.host_path: cannot use or create"
    ):
        host_sources([api_pb2.Mount(host_path=str(tmp_path / "file/below"))])


def test_propagation_is_looked_up_when_it_is_asked_for(tmp_path: Path) -> None:
    mount = api_pb2.Mount(
        host_path=str(tmp_path), propagation=api_pb2.PROPAGATION_HOST_TO_CONTAINER
    )
    (source,) = host_sources([mount])
    assert source.path == str(tmp_path)
