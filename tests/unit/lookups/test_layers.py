"""The merged view of overlay layers, including malicious ones."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from generated.containerd import types_pb2
from runtime.errors import FailedPrecondition
from runtime.lookups.layers import Layers, layers_of

OPAQUE = "user.overlay.opaque"


@pytest.fixture
def stack(tmp_path: Path) -> tuple[Path, Path, Layers]:
    upper, lower = tmp_path / "upper", tmp_path / "lower"
    for layer in (upper, lower):
        (layer / "etc").mkdir(parents=True)
    return upper, lower, Layers((str(upper), str(lower)), OPAQUE)


def whiteout(path: Path) -> None:
    try:
        os.mknod(path, stat.S_IFCHR, os.makedev(0, 0))
    except PermissionError:
        pytest.skip("this user may not make a whiteout")


def test_the_topmost_layer_decides(stack: tuple[Path, Path, Layers]) -> None:
    upper, lower, layers = stack
    (lower / "etc/passwd").write_text("old")
    (lower / "etc/group").write_text("group")
    (upper / "etc/passwd").write_text("new")
    assert layers.read_file("/etc/passwd", limit=10) == b"new"
    assert layers.read_file("/etc/group", limit=10) == b"group"
    assert layers.read_file("/etc/shadow", limit=10) is None


def test_a_whiteout_hides_what_lies_below(stack: tuple[Path, Path, Layers]) -> None:
    upper, lower, layers = stack
    (lower / "etc/passwd").write_text("old")
    whiteout(upper / "etc/passwd")
    assert layers.read_file("/etc/passwd", limit=10) is None


def test_an_opaque_directory_hides_what_lies_below(stack: tuple[Path, Path, Layers]) -> None:
    upper, lower, layers = stack
    (lower / "etc/passwd").write_text("old")
    try:
        os.setxattr(upper / "etc", OPAQUE, b"y")
    except OSError:
        pytest.skip("this file system has no user attributes")
    assert layers.read_file("/etc/passwd", limit=10) is None


def test_a_file_over_a_directory_hides_it(stack: tuple[Path, Path, Layers]) -> None:
    upper, lower, layers = stack
    (lower / "etc/passwd").write_text("old")
    (upper / "etc").rmdir()
    (upper / "etc").write_text("no directory")
    assert layers.read_file("/etc/passwd", limit=10) is None


@pytest.mark.parametrize("climb", ["../../../../../", "/", "../"])
def test_symbolic_links_stay_inside(stack: tuple[Path, Path, Layers], climb: str) -> None:
    upper, lower, layers = stack
    secret = upper.parent / "secret"
    secret.write_text("secret of the node")
    (upper / "etc/passwd").symlink_to(f"{climb}{str(secret).lstrip('/')}")
    assert layers.read_file("/etc/passwd", limit=100) is None
    (lower / "secret").write_text("inside")
    (upper / "etc/group").symlink_to(f"{climb}secret")
    assert layers.read_file("/etc/group", limit=100) == b"inside"


def test_a_linked_directory_is_followed_across_layers(stack: tuple[Path, Path, Layers]) -> None:
    upper, lower, layers = stack
    (upper / "etc").rmdir()
    (upper / "etc").symlink_to("usr/etc")
    (lower / "usr/etc").mkdir(parents=True)
    (lower / "usr/etc/passwd").write_text("linked")
    assert layers.read_file("/etc/passwd", limit=10) == b"linked"


def test_a_loop_of_links_ends(stack: tuple[Path, Path, Layers]) -> None:
    upper, _, layers = stack
    (upper / "etc/passwd").symlink_to("group")
    (upper / "etc/group").symlink_to("passwd")
    with pytest.raises(FailedPrecondition, match="symbolic links"):
        layers.read_file("/etc/passwd", limit=10)


def test_a_fifo_is_refused_and_not_waited_for(stack: tuple[Path, Path, Layers]) -> None:
    upper, _, layers = stack
    os.mkfifo(upper / "etc/passwd")
    with pytest.raises(FailedPrecondition, match="not a regular file"):
        layers.read_file("/etc/passwd", limit=10)


def test_a_directory_is_refused(stack: tuple[Path, Path, Layers]) -> None:
    upper, _, layers = stack
    (upper / "etc/passwd").mkdir()
    with pytest.raises(FailedPrecondition, match="not a regular file"):
        layers.read_file("/etc/passwd", limit=10)


def test_the_limit_is_inclusive(stack: tuple[Path, Path, Layers]) -> None:
    upper, _, layers = stack
    (upper / "etc/passwd").write_bytes(b"x" * 10)
    assert layers.read_file("/etc/passwd", limit=10) == b"x" * 10
    with pytest.raises(FailedPrecondition, match="larger than 9 bytes"):
        layers.read_file("/etc/passwd", limit=9)


def test_layers_of_an_overlay_mount_have_the_upper_one_first() -> None:
    mount = types_pb2.Mount(
        type="overlay",
        source="overlay",
        options=["index=off", "workdir=/s/3/work", "upperdir=/s/3/fs", "lowerdir=/s/2/fs:/s/1/fs"],
    )
    assert layers_of([mount]) == Layers(("/s/3/fs", "/s/2/fs", "/s/1/fs"))


def test_layers_of_a_bind_mount_are_its_source() -> None:
    mount = types_pb2.Mount(type="bind", source="/s/1/fs", options=["rbind", "ro"])
    assert layers_of([mount]) == Layers(("/s/1/fs",))


def test_the_attribute_of_a_rootless_overlay_is_the_users() -> None:
    mount = types_pb2.Mount(type="overlay", options=["userxattr", "lowerdir=/a:/b"])
    assert layers_of([mount]) == Layers(("/a", "/b"), OPAQUE)


@pytest.mark.parametrize(
    "mounts",
    [
        pytest.param([], id="none"),
        pytest.param([types_pb2.Mount(type="ext4", source="/dev/dm-1")], id="block-device"),
        pytest.param([types_pb2.Mount(type="overlay", options=["lowerdir=rel"])], id="relative"),
        pytest.param([types_pb2.Mount(type="bind", source="/a")] * 2, id="two-mounts"),
    ],
)
def test_other_snapshots_must_be_mounted(mounts: list[types_pb2.Mount]) -> None:
    assert layers_of(mounts) is None
