"""VOLUMEs of an image: which ones get a directory, and what is copied there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from runtime.errors import FailedPrecondition
from runtime.lookups.layers import Layers
from runtime.lookups.volumes import fill, uncovered
from runtime.transforms.facts import Volume
from runtime.transforms.id_maps import id_maps


def test_a_mount_of_the_request_covers_a_volume(tmp_path: Path) -> None:
    volumes = uncovered(["/data", "cache", "/data/deeper"], ["/data/"], tmp_path)
    assert [volume.container_path for volume in volumes] == ["/cache", "/data/deeper"]
    assert all(Path(v.host_path).parent == tmp_path / "volumes" for v in volumes)


def test_the_content_of_the_image_is_copied(tmp_path: Path) -> None:
    upper, lower, target = tmp_path / "upper", tmp_path / "lower", tmp_path / "volumes/v"
    (lower / "data/sub").mkdir(parents=True)
    (upper / "data").mkdir(parents=True)
    (lower / "data/sub/old").write_text("old")
    os.link(lower / "data/sub/old", lower / "data/sub/twin")
    (upper / "data/new").write_text("new")
    (upper / "data/new").chmod(0o4711)
    (upper / "data/escape").symlink_to("/etc/passwd")
    os.mkfifo(upper / "data/fifo", 0o640)
    (upper / "data").chmod(0o700)
    os.utime(upper / "data", ns=(1, 1_000_000_000))

    fill([Volume("/data", str(target))], Layers((str(upper), str(lower))))

    assert (target / "sub/old").read_text() == "old"
    assert (target / "sub/old").samefile(target / "sub/twin")
    assert (target / "new").read_text() == "new"
    assert (target / "new").stat().st_mode & 0o7777 == 0o4711
    assert os.readlink(target / "escape") == "/etc/passwd"
    assert (target / "fifo").is_fifo()
    assert target.stat().st_mode & 0o7777 == 0o700
    assert target.stat().st_mtime_ns == 1_000_000_000


def test_a_volume_that_the_image_lacks_is_an_empty_directory(tmp_path: Path) -> None:
    target = tmp_path / "volumes/v"
    (tmp_path / "image").mkdir()
    fill([Volume("/data", str(target))], Layers((str(tmp_path / "image"),)))
    assert list(target.iterdir()) == []
    assert target.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("path", ["file", "link"])
def test_a_volume_that_is_a_file_in_the_image_is_refused(tmp_path: Path, path: str) -> None:
    image = tmp_path / "image"
    image.mkdir()
    (image / "file").write_text("")
    (image / "link").symlink_to("file")
    with pytest.raises(FailedPrecondition, match=f"VOLUME /{path} of the image is not a directory"):
        fill([Volume(f"/{path}", str(tmp_path / "volumes/v"))], Layers((str(image),)))
    assert not (tmp_path / "volumes").exists()


def test_a_volume_with_an_impossible_name_is_refused(tmp_path: Path) -> None:
    volume = Volume("/" + "x" * 256, str(tmp_path / "volumes/v"))
    with pytest.raises(FailedPrecondition, match="has a name of more than 255 bytes"):
        fill([volume], Layers((str(tmp_path),)))


def test_a_linked_volume_stays_inside_the_image(tmp_path: Path) -> None:
    image, target = tmp_path / "image", tmp_path / "volumes/v"
    image.mkdir()
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/key").write_text("of the node")
    (image / "data").symlink_to("../secret")
    fill([Volume("/data", str(target))], Layers((str(image),)))
    assert list(target.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_in_a_user_namespace_the_copies_belong_to_its_ids(tmp_path: Path) -> None:
    image, target, empty = tmp_path / "image", tmp_path / "volumes/v", tmp_path / "volumes/w"
    (image / "data/sub").mkdir(parents=True)
    (image / "data/own").write_text("of a user")
    os.link(image / "data/own", image / "data/twin")
    os.chown(image / "data/own", 33, 44)
    (image / "data/link").symlink_to("/etc/passwd")
    maps = id_maps("0:100000:1000", "0:200000:1000")
    fill([Volume("/data", str(target)), Volume("/none", str(empty))], Layers((str(image),)), maps)
    owners = {
        str(path.relative_to(target)): (path.lstat().st_uid, path.lstat().st_gid)
        for path in (target, *target.rglob("*"))
    }
    root, own = (100000, 200000), (100033, 200044)
    assert owners == {".": root, "sub": root, "link": root, "own": own, "twin": own}
    assert (empty.stat().st_uid, empty.stat().st_gid) == root
