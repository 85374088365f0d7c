"""SELinux on a node that consists of files: the probe, relabelling, and the whole path to the
spec."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from generated.cri import api_pb2
from runtime.errors import FailedPrecondition, InvalidArgument
from runtime.linux import mountinfo
from runtime.lookups import selinux
from runtime.transforms.facts import MountSource, RequestedMount, SandboxFiles, SelinuxPolicy
from tests.unit.containers.world import World

SELINUXFS = mountinfo.parse("1 0 0:1 / /sys/fs/selinux rw - selinuxfs selinuxfs rw\n")
LABEL = "system_u:object_r:container_file_t:s0:c1,c2"
POLICY = SelinuxPolicy(
    process="system_u:system_r:container_t:s0", file="system_u:object_r:container_file_t:s0"
)


class Labels:
    """Stands for the attributes of a file system with labels."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.written: list[str] = []
        self.by_path: dict[str, bytes] = {}
        self.failure: OSError | None = None
        monkeypatch.setattr(os, "setxattr", self._set)
        monkeypatch.setattr(os, "getxattr", self._get)

    def _set(self, path: str, name: str, value: bytes, *, follow_symlinks: bool) -> None:
        assert name == "security.selinux" and not follow_symlinks
        if self.failure:
            raise self.failure
        self.written.append(path)
        self.by_path[path] = value

    def _get(self, path: str, name: str, *, follow_symlinks: bool) -> bytes:
        if path not in self.by_path:
            raise OSError(errno.ENODATA, "no data")
        return self.by_path[path] + b"\0"


@pytest.fixture
def labels(monkeypatch: pytest.MonkeyPatch) -> Labels:
    return Labels(monkeypatch)


def a_node(root: Path, *, current: str = "system_u:system_r:kubelet_t:s0\0") -> Path:
    """A node's files with the targeted policy; the file of the process's own label."""
    contexts = root / "etc/selinux/mine/contexts"
    contexts.mkdir(parents=True)
    (root / "etc/selinux/config").write_text("# policy\nSELINUX=enforcing\nSELINUXTYPE=mine\n")
    (contexts / "lxc_contexts").write_text(
        f'process = "{POLICY.process}"\nfile = "{POLICY.file}"\n'
    )
    own = root / "current"
    own.write_text(current)
    return own


def test_the_policys_labels_are_read(tmp_path: Path) -> None:
    own = a_node(tmp_path)
    found = selinux.probe(SELINUXFS, root=str(tmp_path), own_label=own)
    assert found is not None
    assert (found.process, found.file) == (POLICY.process, POLICY.file)
    shared = tmp_path / "usr/share/containers/selinux"
    shared.mkdir(parents=True)
    (shared / "contexts").write_text('process = "a:b:c:s0"\n')
    found = selinux.probe(SELINUXFS, root=str(tmp_path), own_label=own)
    assert found is not None and found.process == "a:b:c:s0"


def test_selinux_is_off_without_the_kernel_or_a_loaded_policy(tmp_path: Path) -> None:
    own = a_node(tmp_path, current="kernel\0")
    assert selinux.probe((), root=str(tmp_path), own_label=own) is None
    assert selinux.probe(SELINUXFS, root=str(tmp_path), own_label=own) is None
    assert selinux.probe(SELINUXFS, root=str(tmp_path), own_label=tmp_path / "none") is None


def test_a_policy_without_contexts_gives_no_labels(tmp_path: Path) -> None:
    own = tmp_path / "current"
    own.write_text("a:b:c:s0\0")
    assert selinux.probe(SELINUXFS, root=str(tmp_path), own_label=own) == SelinuxPolicy()


def test_everything_below_is_relabeled_and_the_top_last(tmp_path: Path, labels: Labels) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/file").touch()
    (tmp_path / "link").symlink_to("/etc")
    selinux.relabel(str(tmp_path), LABEL)
    expected = [tmp_path / name for name in ("a", "a/b", "a/b/file", "link")]
    assert sorted(labels.written[:-1]) == sorted(map(str, expected))
    assert labels.written[-1] == str(tmp_path)
    labels.written.clear()
    (tmp_path / "new").touch()
    selinux.relabel(str(tmp_path), LABEL)
    assert labels.written == [str(tmp_path / "new")]


def test_a_file_is_relabeled(tmp_path: Path, labels: Labels) -> None:
    file = tmp_path / "file"
    file.touch()
    selinux.relabel(str(file), LABEL)
    assert labels.written == [str(file)]


def test_a_file_system_that_cannot_be_labelled_is_passed_over(
    tmp_path: Path, labels: Labels
) -> None:
    for number in (errno.ENOTSUP, errno.EROFS):
        labels.failure = OSError(number, "not supported")
        selinux.relabel(str(tmp_path), LABEL)
    labels.failure = OSError(errno.EACCES, "denied", str(tmp_path))
    with pytest.raises(FailedPrecondition, match=f"^f: cannot give {tmp_path} the SELinux label"):
        selinux.relabel(str(tmp_path), LABEL, field="f")


@pytest.mark.parametrize("path", ["/etc", "/usr/", "/var/lib", "/"])
def test_the_nodes_own_directories_are_never_relabeled(path: str, labels: Labels) -> None:
    mount = RequestedMount(path, relabel=True)
    with pytest.raises(InvalidArgument, match=r"config\.mounts\[0\]\.selinux_relabel: .* itself"):
        selinux.relabel_mounts([mount], [MountSource(path)], LABEL)
    assert labels.written == []


def test_only_mounts_that_ask_for_it_are_relabeled(tmp_path: Path, labels: Labels) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    mounts = [RequestedMount("/a", relabel=True), RequestedMount("/b")]
    sources = [MountSource(str(tmp_path / name)) for name in ("a", "b")]
    selinux.relabel_mounts(mounts, sources, LABEL)
    assert labels.written == [str(tmp_path / "a")]


def test_the_pods_files_are_relabeled_but_not_the_nodes_shm(tmp_path: Path, labels: Labels) -> None:
    hosts = tmp_path / "hosts"
    hosts.touch()
    selinux.relabel_files(SandboxFiles(hosts=str(hosts), shm="/dev/shm"), LABEL)
    assert labels.written == [str(hosts)]


async def test_a_container_is_labelled_from_its_spec_to_its_root_file_system(
    tmp_path: Path, labels: Labels
) -> None:
    world = World(tmp_path, POLICY)
    volume = tmp_path / "volume"
    volume.mkdir()
    container = await world.running(
        mounts=[api_pb2.Mount(container_path="/v", host_path=str(volume), selinux_relabel=True)]
    )
    spec = json.loads(world.daemon.records[container.id].spec.value)
    label = spec["process"]["selinuxLabel"]
    assert label.startswith("system_u:system_r:container_t:s0:c")
    level = label.removeprefix("system_u:system_r:container_t:")
    assert spec["linux"]["mountLabel"] == f"system_u:object_r:container_file_t:{level}"
    assert labels.by_path[str(volume)].decode() == spec["linux"]["mountLabel"]
    assert container.metadata.process_label == label
    (root,) = world.daemon.task_requests[container.id].rootfs
    assert root.options[-1] == f'context="{spec["linux"]["mountLabel"]}"'


async def test_a_privileged_container_is_not_confined_and_its_level_is_kept(
    tmp_path: Path, labels: Labels
) -> None:
    world = World(tmp_path, POLICY)
    world.pod.metadata.config.linux.security_context.privileged = True
    context = api_pb2.LinuxContainerSecurityContext(privileged=True)
    container = await world.created(linux=api_pb2.LinuxContainerConfig(security_context=context))
    spec = json.loads(world.daemon.records[container.id].spec.value)
    assert "selinuxLabel" not in spec["process"]
    assert container.metadata.process_label


async def test_without_selinux_options_are_ignored_but_a_bad_level_is_refused(
    tmp_path: Path,
) -> None:
    world = World(tmp_path)
    context = api_pb2.LinuxContainerSecurityContext(
        selinux_options=api_pb2.SELinuxOption(type="x_t", level="s0:c1")
    )
    container = await world.created(linux=api_pb2.LinuxContainerConfig(security_context=context))
    spec = json.loads(world.daemon.records[container.id].spec.value)
    assert "selinuxLabel" not in spec["process"]
    await world.containers.remove(container, api_pb2.RemoveContainerRequest())
    context.selinux_options.level = "nonsense"
    with pytest.raises(InvalidArgument, match=r"selinux_options\.level"):
        await world.created(linux=api_pb2.LinuxContainerConfig(security_context=context))
