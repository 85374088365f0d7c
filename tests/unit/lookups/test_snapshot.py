"""Mounts of snapshots as snapshotters return them (these tests need root, but no containerd)."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from generated.containerd.types_pb2 import Mount
from runtime.errors import FailedPrecondition
from runtime.linux import kernel, mountinfo, userns
from runtime.lookups import user_namespaces
from runtime.lookups.snapshot import is_mounted, mount_mapped, mount_read_only, open_snapshot

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: mounts")


@pytest.fixture
def target(tmp_path: Path) -> Iterator[str]:
    directory = tmp_path / "target"
    directory.mkdir()
    yield str(directory)
    for point in mountinfo.below(str(directory), mountinfo.read()):
        kernel.umount2(point, kernel.MNT_DETACH)


def directory(path: Path, **files: str) -> Path:
    path.mkdir(parents=True)
    for name, content in files.items():
        (path / name).write_text(content)
    return path


def must_be_read_only(target: str) -> None:
    with pytest.raises(OSError, match="Read-only"):
        Path(target, "new").write_text("")


def test_a_bind_mount_is_read_only_although_the_kernel_ignores_it_at_first(
    tmp_path: Path, target: str
) -> None:
    source = directory(tmp_path / "layer", file="content")
    mounts = [Mount(type="bind", source=str(source), options=["ro", "rbind"])]
    assert not is_mounted(mounts, target)
    mount_read_only(mounts, target)
    assert is_mounted(mounts, target)
    assert Path(target, "file").read_text() == "content"
    must_be_read_only(target)


def test_a_writable_snapshot_is_mounted_read_only_too(tmp_path: Path, target: str) -> None:
    source = directory(tmp_path / "layer")
    mount_read_only([Mount(type="bind", source=str(source), options=["rw", "rbind"])], target)
    must_be_read_only(target)


def test_programs_run_unless_the_caller_forbids_it(tmp_path: Path, target: str) -> None:
    source = directory(tmp_path / "layer")
    shutil.copy("/bin/true", source / "program")
    mounts = [Mount(type="bind", source=str(source), options=["ro", "rbind"])]
    mount_read_only(mounts, target)
    subprocess.run([f"{target}/program"], check=True)
    mount_read_only(mounts, target, kernel.MS_NOEXEC)
    with pytest.raises(PermissionError):
        subprocess.run([f"{target}/program"], check=True)


def test_an_overlay_of_more_layers_than_fit_into_a_page(tmp_path: Path, target: str) -> None:
    home = tmp_path / "io.containerd.snapshotter.v1.overlayfs/snapshots"
    layers = [directory(home / str(n) / "fs", **{f"f{n}": str(n)}) for n in range(90)]
    lower = "lowerdir=" + ":".join(map(str, layers))
    assert len(lower) > 4096
    mounts = [Mount(type="overlay", source="overlay", options=["index=off", lower])]
    before = os.getcwd()
    mount_read_only(mounts, target)
    assert {entry.name for entry in Path(target).iterdir()} == {f"f{n}" for n in range(90)}
    assert os.getcwd() == before
    must_be_read_only(target)


def test_each_mount_of_several_is_made_on_the_one_before(tmp_path: Path, target: str) -> None:
    below = directory(tmp_path / "below", file="below")
    (below / "inner").mkdir()
    inside = directory(tmp_path / "inside", file="inside")
    mounts = [
        Mount(type="bind", source=str(below), options=["ro", "rbind"]),
        Mount(type="bind", source=str(inside), target="/inner", options=["ro", "rbind"]),
    ]
    mount_read_only(mounts, target)
    assert Path(target, "file").read_text() == "below"
    assert Path(target, "inner/file").read_text() == "inside"
    assert is_mounted(mounts, target)
    kernel.umount2(f"{target}/inner")
    assert not is_mounted(mounts, target)


def test_a_mount_that_fails_takes_back_the_ones_before(tmp_path: Path, target: str) -> None:
    good = Mount(type="bind", source=str(directory(tmp_path / "layer")), options=["rbind"])
    bad = Mount(type="bind", source=str(tmp_path / "absent"), options=["rbind"])
    with pytest.raises(OSError, match="absent"):
        mount_read_only([good, bad], target)
    assert mountinfo.below(target, mountinfo.read()) == []


def test_a_file_system_image_gets_a_loop_device_that_goes_with_the_mount(
    tmp_path: Path, target: str
) -> None:
    if shutil.which("mkfs.ext4") is None or not os.access("/dev/loop-control", os.W_OK):
        pytest.skip("needs mkfs.ext4 and loop devices")
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(4 << 20)
    content = directory(tmp_path / "content", file="content")
    subprocess.run(["mkfs.ext4", "-q", "-d", content, image], check=True)
    mount_read_only([Mount(type="ext4", source=str(image), options=["loop", "ro"])], target)
    assert Path(target, "file").read_text() == "content"
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    device = next(line for line in lines if f" {target} " in line).partition(" - ")[2].split()[1]
    backing = Path("/sys/block", Path(device).name, "loop/backing_file")
    assert backing.read_text().strip() == str(image)
    kernel.umount2(target)
    assert not backing.exists()


def test_content_of_several_mounts_is_read_and_nothing_stays(tmp_path: Path) -> None:
    lower = directory(tmp_path / "lower", file="lower")
    upper = directory(tmp_path / "upper", file="upper")
    mounts = [
        Mount(type="bind", source=str(source), options=["rbind", "ro"]) for source in (lower, upper)
    ]
    scratch = tmp_path / "scratch"
    with open_snapshot(mounts, scratch) as layers:
        assert layers.read_file("file", limit=100) == b"upper"
    assert list(scratch.iterdir()) == []


def test_a_mount_for_containerds_mount_manager_is_refused(target: str) -> None:
    with pytest.raises(FailedPrecondition, match="only containerd's mount manager"):
        mount_read_only([Mount(type="format/overlay", source="overlay")], target)


@pytest.fixture
def users() -> Iterator[int]:
    """A user namespace in which 0 is 200000."""
    try:
        with (
            userns.held(userns.MapLines("0 200000 1000", "0 300000 1000")) as path,
            open(path) as f,
        ):
            yield f.fileno()
    except OSError as error:
        pytest.skip(f"needs user namespaces: {error}")


@pytest.mark.parametrize("layers", [1, 3, 60])
def test_owners_are_mapped_also_through_an_overlay(
    tmp_path: Path, target: str, users: int, layers: int
) -> None:
    paths = [directory(tmp_path / str(n), **{f"f{n}": str(n)}) for n in range(layers)]
    if user_namespaces.idmap_problem(str(paths[0]), users):
        pytest.skip("the file system of the test cannot be mounted idmapped")
    if layers == 1:
        mount = Mount(type="bind", source=str(paths[0]), options=["ro", "rbind"])
    else:
        lower = "lowerdir=" + ":".join(map(str, paths))
        mount = Mount(type="overlay", source="overlay", options=[lower])
    mount_mapped([mount], target, users)
    assert is_mounted([mount], target)
    for number in range(layers):
        found = Path(target, f"f{number}").stat()
        assert (found.st_uid, found.st_gid) == (200000, 300000)
    must_be_read_only(target)
    left = {path.name for path in tmp_path.iterdir()} - {str(n) for n in range(layers)}
    assert left == {"target"}
    assert len(mountinfo.below(str(tmp_path), mountinfo.read())) == 1


def test_layers_that_cannot_be_mapped_leave_nothing(
    tmp_path: Path, target: str, users: int
) -> None:
    good = directory(tmp_path / "good")
    mount = Mount(type="overlay", source="overlay", options=[f"lowerdir={good}:{tmp_path}/absent"])
    with pytest.raises(OSError, match="absent"):
        mount_mapped([mount], target, users)
    assert mountinfo.below(str(tmp_path), mountinfo.read()) == []
    assert {path.name for path in tmp_path.iterdir()} == {"good", "target"}
