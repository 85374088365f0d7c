"""What is read from the kernel's files."""

from __future__ import annotations

import os
from unittest.mock import Mock

import pytest

from runtime.config.tables import (
    Config,
    ConfigError,
    ContainerdTable,
    ImagesTable,
    Runtime,
    RuntimePlatform,
)
from runtime.containerd.capabilities import Snapshotter
from runtime.linux import mountinfo
from runtime.lookups import host
from runtime.lookups.handlers import configured


@pytest.mark.parametrize(
    ("release", "version"),
    [("6.1.0-18-amd64", (6, 1)), ("5.15.0", (5, 15)), ("4.19-custom", (4, 19)), ("odd", (0, 0))],
)
def test_the_kernel_version_is_major_and_minor(release: str, version: tuple[int, int]) -> None:
    assert host.kernel_version(release) == version


def test_capabilities_are_named_in_the_kernels_order() -> None:
    assert list(host.capability_names(0b1001)) == ["CAP_CHOWN", "CAP_FOWNER"]
    assert list(host.capability_names(1 << 21 | 1 << 40)) == [
        "CAP_SYS_ADMIN",
        "CAP_CHECKPOINT_RESTORE",
    ]


V2 = (
    "29 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 "
    "rw,nsdelegate,memory_recursiveprot\n"
)
HYBRID = (
    "29 23 0:26 / /sys/fs/cgroup ro,nosuid shared:9 - tmpfs tmpfs ro,mode=755\n"
    "30 29 0:27 / /sys/fs/cgroup/unified rw shared:10 - cgroup2 cgroup2 rw,nsdelegate\n"
    "31 29 0:28 / /sys/fs/cgroup/memory rw shared:11 - cgroup cgroup rw,memory\n"
)


@pytest.mark.parametrize(
    ("text", "options"), [(V2, ("nsdelegate", "memory_recursiveprot")), (HYBRID, None)]
)
def test_cgroup_v2_and_the_options_of_its_mount(
    text: str, options: tuple[str, ...] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mountinfo, "read", lambda: mountinfo.parse(text))
    monkeypatch.setattr(host, "_swap_controller", lambda unified: False)
    monkeypatch.setattr(host, "_hugetlb_controller", lambda unified: False)
    found = host.probe(Config(containerd=ContainerdTable(runtimes={"runc": Runtime()})))
    assert found.cgroup_unified == (options is not None)
    assert found.cgroup_mount_options == (options or ())


@pytest.mark.parametrize("unified", [True, False])
def test_writable_cgroups_need_a_hierarchy_of_their_own(
    unified: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = V2 if unified else HYBRID
    monkeypatch.setattr(mountinfo, "read", lambda: mountinfo.parse(text))
    monkeypatch.setattr(host, "_swap_controller", lambda unified: False)
    monkeypatch.setattr(host, "_hugetlb_controller", lambda unified: False)
    config = Config(
        containerd=ContainerdTable(runtimes={"runc": Runtime(), "w": Runtime(cgroup_writable=True)})
    )
    if unified:
        assert host.probe(config).cgroup_unified
        return
    with pytest.raises(
        ConfigError, match=r"containerd\.runtimes\.w\.cgroup_writable: needs cgroup"
    ):
        host.probe(config)


@pytest.mark.parametrize(
    ("platform", "usable"),
    [("", True), ("linux/amd64", True), ("Linux/amd64/v2", True), ("linux/arm64", False)],
)
def test_images_of_another_platform_cannot_be_pulled_for_a_handler(
    platform: str, usable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = os.uname_result(("Linux", "node", "6.1.0", "#1", "x86_64"))
    monkeypatch.setattr(os, "uname", lambda: node)
    wanted = {"runc": RuntimePlatform(platform=platform)}
    config = Config(images=ImagesTable(runtime_platforms=wanted))
    if usable:
        assert host.probe(config).architecture == "amd64"
        return
    with pytest.raises(ConfigError, match=r"platforms\.runc\.platform: must be .* linux/amd64"):
        host.probe(config)


def test_a_handler_has_the_snapshotter_of_its_pulls() -> None:
    config = Config(
        containerd=ContainerdTable(runtimes={"runc": Runtime(), "kata": Runtime()}),
        images=ImagesTable(runtime_platforms={"kata": RuntimePlatform(snapshotter="devmapper")}),
    )
    found = {name: handler.snapshotter for name, handler in configured(config).items()}
    assert found == {"": "overlayfs", "runc": "overlayfs", "kata": "devmapper"}


def test_a_snapshotter_that_containerd_has_not_loaded_is_named() -> None:
    daemon = Mock(address="unix:///c.sock")
    overlayfs = Snapshotter("overlayfs", "/var/lib/containerd", frozenset())
    daemon.capabilities.snapshotters = {"overlayfs": overlayfs}
    table = ContainerdTable(runtimes={"runc": Runtime(), "kata": Runtime(snapshotter="zfs")})
    configured(
        Config(containerd=ContainerdTable(runtimes={"runc": Runtime()}))
    ).must_have_snapshotters(daemon)
    with pytest.raises(ConfigError, match=r"'zfs' of runtime handler 'kata': .* loaded: overlayfs"):
        configured(Config(containerd=table)).must_have_snapshotters(daemon)


@pytest.mark.parametrize(
    ("uid_map", "inside"),
    [
        ("         0          0 4294967295\n", False),
        ("         0     100000      65536\n", True),
        ("         0          0       1000\n      1000       1001      64000\n", True),
    ],
)
def test_a_user_namespace_maps_not_every_id(uid_map: str, inside: bool) -> None:
    assert host.in_user_namespace(uid_map) is inside


def test_this_node_can_be_probed() -> None:
    facts = host.probe(Config(restrict_oom_score_adj=True, enable_unprivileged_ports=False))
    assert facts.hostname
    assert facts.kernel > (3, 0)
    assert facts.oom_score_adj_floor == host.own_oom_score_adj()
    assert not facts.unprivileged_ports


def test_probing_leaves_the_oom_score_as_it_was() -> None:
    before = host.own_oom_score_adj()
    host.probe(Config())
    assert host.own_oom_score_adj() == before
